"""One HTTP/2 connection as a client of gRPC: the least that is correct, and quick. Knows no schedule and no clock.

Own SETTINGS (no dynamic header table, the largest windows), WINDOW_UPDATE both ways, the server's stream limit, PING,
RST_STREAM and the grpc-status of each answer.
"""

import socket
import struct
from collections import deque
from dataclasses import dataclass

from tests.benchmarks import hpack

NO_STATUS, RESET, UNANSWERED = -1, -2, -3
"""Kept beside gRPC status codes: an answer without grpc-status, a stream or connection reset, no answer in time."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_LARGEST_WINDOW = 2**31 - 1
_DEFAULT_WINDOW = 65_535
# No dynamic table, no push, the largest stream window.
_SETTINGS = struct.pack(">HIHIHI", 0x1, 0, 0x2, 0, 0x4, _LARGEST_WINDOW)
_DATA, _HEADERS, _RST_STREAM, _SETTINGS_FRAME, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED = 0x1, 0x1, 0x4, 0x8
_LARGEST_FRAME, _PREFIX = 16_384, 5  # what any peer takes unasked; the length of gRPC's own prefix
_MAX_CONCURRENT_STREAMS, _STREAMS_AT_FIRST = 0x3, 100  # the setting; what to assume before it arrives
_CANCEL = 8
_WINDOW_REFILL = 1 << 24


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Returns one HTTP/2 frame."""
    return struct.pack(">I", len(payload) << 8 | kind) + struct.pack(">BI", flags, stream) + payload


@dataclass(frozen=True, slots=True)
class Request:
    """One call, encoded: where it goes, its header block, its gRPC message with the five-byte prefix."""

    port: int
    block: bytes
    message: bytes

    @classmethod
    def of(cls, *, port: int, path: str, payload: bytes, headers: dict[str, str]) -> "Request":
        if len(payload) + _PREFIX > _LARGEST_FRAME:
            raise ValueError(f"payload of {len(payload)} bytes: at most {_LARGEST_FRAME - _PREFIX}, one frame")
        fixed = {"content-type": "application/grpc", "te": "trailers", **headers}
        block = hpack.request_block(path, f"127.0.0.1:{port}", fixed)
        return cls(port, block, b"\0" + struct.pack(">I", len(payload)) + payload)


class Connection:
    """One HTTP/2 connection. Changed only by the pass that opened it."""

    def __init__(self, port: int, *, keep_answers: bool) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.calls: list[int] = []  # index of the call on stream 2 * position + 1
        self.done = bytearray()  # 1 where the stream at that position is finished
        self.finished: list[tuple[int, int]] = []  # (index of the call, status), drained by the pass
        self.held: deque[tuple[int, Request]] = deque()  # calls that wait for the peer's window or stream limit
        self.closed = False
        self._answers: dict[int, bytearray] | None = {} if keep_answers else None
        self._out = bytearray(_PREFACE + frame(_SETTINGS_FRAME, 0, 0, _SETTINGS))
        self._out += frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _LARGEST_WINDOW - _DEFAULT_WINDOW))
        self._window = _DEFAULT_WINDOW
        self._open = 0
        self._most_open = _STREAMS_AT_FIRST
        self._settled = False
        self._cancelled_up_to = 0
        self._unread = b""
        self._received = 0
        self._known: dict[bytes, int | None] = {}  # header block -> grpc-status, as equal blocks mean the same

    @property
    def wants_to_write(self) -> bool:
        return bool(self._out)

    def answer(self, index: int) -> bytes:
        return bytes(self._answers.pop(index, b"")) if self._answers is not None else b""

    def send(self, index: int, request: Request) -> None:
        if self.closed:
            self.finished.append((index, RESET))
            return
        if self.held or not self._has_room(request):
            self.held.append((index, request))
            return
        self._start(index, request)

    def _has_room(self, request: Request) -> bool:
        return self._open < self._most_open and self._window >= len(request.message)

    def _start(self, index: int, request: Request) -> None:
        self._open += 1
        self._window -= len(request.message)
        stream = 2 * len(self.calls) + 1
        self.calls.append(index)
        self.done.append(0)
        self._out += frame(_HEADERS, _END_HEADERS, stream, request.block)
        self._out += frame(_DATA, _END_STREAM, stream, request.message)

    def cancel_open(self) -> int:
        """Cancels every call under way and returns how many; an answer that crosses the cancellation is dropped."""
        cancelled = 0
        for at, done in enumerate(self.done[self._cancelled_up_to :], self._cancelled_up_to):
            if not done:
                self._out += frame(_RST_STREAM, 0, 2 * at + 1, struct.pack(">I", _CANCEL))
                self.done[at] = 1
                self._open -= 1
                cancelled += 1
        self._cancelled_up_to = len(self.done)
        return cancelled

    def flush(self) -> None:
        if self._out and not self.closed:
            try:
                del self._out[: self.socket.send(self._out)]
            except BlockingIOError:
                return
            except OSError:
                self._break()

    def receive(self) -> None:
        try:
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._break()
            return
        self._read(self._unread + data if self._unread else data)

    def _break(self) -> None:
        self.closed = True
        self._out.clear()
        self.finished += [(self.calls[at], RESET) for at, done in enumerate(self.done) if not done]
        self.finished += [(index, RESET) for index, _ in self.held]
        self.held.clear()
        self.done = bytearray(b"\1" * len(self.done))

    def _read(self, data: bytes) -> None:
        at, end = 0, len(data)
        while end - at >= 9:
            after = at + 9 + (data[at] << 16 | data[at + 1] << 8 | data[at + 2])
            if after > end:
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + 9], "big") & 0x7FFF_FFFF
            if kind == _HEADERS:
                if flags & _END_STREAM:
                    self._finish(stream, self._status(data[at + 9 : after], flags))
            elif kind == _DATA:
                self._received += after - at - 9
                if self._answers is not None and after - at > 9:
                    self._answers.setdefault(self.calls[stream >> 1], bytearray()).extend(data[at + 9 : after])
                if flags & _END_STREAM:
                    self._finish(stream, NO_STATUS)
            else:
                self._control(kind, flags, stream, data[at + 9 : after])
            at = after
        self._unread = data[at:]
        while self.held and self._has_room(self.held[0][1]):
            self._start(*self.held.popleft())
        if self._received >= _WINDOW_REFILL:
            self._out += frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received))
            self._received = 0

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload, "big")
        elif kind == _SETTINGS_FRAME and not flags & _ACK:
            unsaid = self._most_open if self._settled else 1 << 31  # no limit, unless one was set before
            self._most_open = dict(struct.iter_unpack(">HI", payload)).get(_MAX_CONCURRENT_STREAMS, unsaid)
            self._settled = True
            self._out += frame(_SETTINGS_FRAME, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            self._out += frame(_PING, _ACK, 0, payload)
        elif kind == _RST_STREAM:
            self._finish(stream, RESET)
        elif kind == _CONTINUATION:
            raise ValueError("a header block longer than a frame: more than this sender reads")

    def _status(self, block: bytes, flags: int) -> int:
        if not flags & _END_HEADERS or flags & _PADDED:
            raise ValueError("a padded or split header block: more than this sender reads")
        if block not in self._known:
            self._known[block] = hpack.statuses(block)[1]
        status = self._known[block]
        return NO_STATUS if status is None else status

    def _finish(self, stream: int, status: int) -> None:
        at = stream >> 1
        if not self.done[at]:  # a server may reset a stream that it has answered
            self.done[at] = 1
            self._open -= 1
            self.finished.append((self.calls[at], status))
