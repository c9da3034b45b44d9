"""Sends pre-encoded gRPC calls on a schedule, or so many at a time, and times the answers; knows not what they mean.

The schedule is open: a call is due at its time whether or not earlier ones were answered, and its latency counts from
the time it was due, so a stalled server cannot hide its stall (no coordinated omission). HTTP/2 is the least that is
correct: own SETTINGS, WINDOW_UPDATE both ways, PING, and the grpc-status of each answer.
"""

import gc
import random
import select
import socket
import struct
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

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
_LONGEST_WAIT_S = 0.05
_ON_ITS_WAY_S = 0.0003  # long enough for a server to take a call in, too short for most answers
_NO_TIMES = array("d")


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


@dataclass(slots=True)
class Outcome:
    """What one pass saw. Changed only by the pass that makes it."""

    latencies_ms: array = field(default_factory=lambda: array("d"))
    """float64[OK answers], counted from when the call was due (or sent, when not on a schedule)."""
    late_ms: array = field(default_factory=lambda: array("d"))
    """float64[sent]: how long after its due time each call left; the sender's own share of the latency."""
    statuses: Counter = field(default_factory=Counter)
    elapsed_s: float = 0.0
    answers: dict[int, bytes] = field(default_factory=dict)
    """Index of the call -> serialised answer, when the pass was told to keep them."""

    @property
    def ok(self) -> int:
        return self.statuses[0]

    @property
    def sent(self) -> int:
        return sum(self.statuses.values())


def percentile(values: Sequence[float], percent: float) -> float:
    """Returns the nearest-rank percentile of `values`; nan when there is none."""
    if not values:
        return float("nan")
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, -int(-len(ranked) * percent // 100) - 1))]


def poisson_schedule(rate: float, seconds: float, *, seed: int) -> list[float]:
    """Returns due times in seconds from the start: independent arrivals at `rate` a second, the same for a seed."""
    draw, due, at = random.Random(seed), [], 0.0
    while True:
        at += draw.expovariate(rate)
        if at >= seconds:
            return due
        due.append(at)


class _Connection:
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


class Sender:
    """Open connections to one or more ports; passes run on them one after another.

    Raises OSError where nothing listens.
    """

    def __init__(self, requests: Sequence[Request], *, connections: int, keep_answers: bool = False) -> None:
        self._requests = requests
        ports = sorted({request.port for request in requests})
        each = max(1, connections // len(ports))
        self._keep_answers = keep_answers
        self._by_port = {port: [_Connection(port, keep_answers=keep_answers) for _ in range(each)] for port in ports}
        self._all = [connection for group in self._by_port.values() for connection in group]
        self._by_socket = {connection.socket: connection for connection in self._all}

    def close(self) -> None:
        for connection in self._all:
            connection.socket.close()

    def on_schedule(self, due_s: Sequence[float], *, patience_s: float = 5.0) -> Outcome:
        """Sends call k at `due_s[k]` after the start, waits `patience_s` after the last for answers."""
        outcome = Outcome()
        with _quiet():
            start = time.perf_counter()
            at = 0

            def due(now: float, _answered: int) -> int:
                nonlocal at
                first = at
                while at < len(due_s) and start + due_s[at] <= now:
                    at += 1
                return at - first

            def wait_s(now: float) -> float:
                return max(0.0, start + due_s[at] - now) if at < len(due_s) else _LONGEST_WAIT_S

            times = array("d", (start + offset for offset in due_s))
            limit = start + (due_s[-1] if due_s else 0.0) + patience_s
            self._run(outcome, len(due_s), due=due, wait_s=wait_s, due_times=times, limit=limit)
        return outcome

    def in_flight(self, calls: int, *, at_once: int, limit_s: float = 60.0) -> Outcome:
        """Sends `calls` calls, `at_once` of them at a time."""
        outcome = Outcome()
        with _quiet():
            sent = 0

            def due(_now: float, answered: int) -> int:
                nonlocal sent
                more = min(calls, answered + at_once) - sent
                sent += more
                return more

            limit = time.perf_counter() + limit_s
            self._run(outcome, calls, due=due, wait_s=lambda _: _LONGEST_WAIT_S, due_times=None, limit=limit)
        return outcome

    def cancelled(self, calls: int, *, at_once: int) -> int:
        """Sends calls and cancels each once it is on its way; returns how many were not answered before that."""
        gone, outcome = 0, Outcome()
        for first in range(0, calls, at_once):
            for number in range(first, min(calls, first + at_once)):
                request = self._requests[number % len(self._requests)]
                group = self._by_port[request.port]
                group[number % len(group)].send(number, request)
            self._exchange(outcome, wait_s=_ON_ITS_WAY_S)
            gone += sum(connection.cancel_open() for connection in self._all)
            self._exchange(outcome, wait_s=0.0)
        return gone

    def _exchange(self, outcome: Outcome, *, wait_s: float) -> None:
        """Writes what is to be written, and takes what has come."""
        for connection in self._all:
            connection.flush()
        self._receive(outcome, _NO_TIMES, wait_s)

    def _run(
        self,
        outcome: Outcome,
        calls: int,
        *,
        due: Callable[[float, int], int],
        wait_s: Callable[[float], float],
        due_times: array | None,
        limit: float,
    ) -> None:
        clock, requests, kinds = time.perf_counter, self._requests, len(self._requests)
        started_at = due_times if due_times is not None else array("d", bytes(8 * calls))
        turn = dict.fromkeys(self._by_port, 0)
        sent = answered = 0
        begin = clock()
        while answered < calls and (now := clock()) < limit:
            for _ in range(due(now, answered)):
                request = requests[sent % kinds]
                group = self._by_port[request.port]
                turn[request.port] += 1
                group[turn[request.port] % len(group)].send(sent, request)
                if due_times is None:
                    started_at[sent] = now
                outcome.late_ms.append((now - started_at[sent]) * 1e3)
                sent += 1
            for connection in self._all:
                connection.flush()
            answered += self._receive(outcome, started_at, wait_s(clock()))
        outcome.elapsed_s = clock() - begin
        outcome.statuses[UNANSWERED] += calls - answered

    def _receive(self, outcome: Outcome, started_at: array, wait_s: float) -> int:
        open_ = [connection for connection in self._all if not connection.closed]
        if not open_:
            if answered := self._settle(outcome, started_at):
                return answered
            raise ConnectionError("every connection was closed by the server")
        writers = [connection.socket for connection in open_ if connection.wants_to_write]
        readable, _, _ = select.select([connection.socket for connection in open_], writers, [], wait_s)
        for ready in readable:
            self._by_socket[ready].receive()
        return self._settle(outcome, started_at)

    def _settle(self, outcome: Outcome, started_at: array) -> int:
        answered = 0
        now = time.perf_counter()
        for connection in self._all:
            for index, status in connection.finished:
                if status == 0 and started_at:  # a quick refusal must not look like a quick answer
                    outcome.latencies_ms.append((now - started_at[index]) * 1e3)
                outcome.statuses[status] += 1
                if self._keep_answers:
                    outcome.answers[index] = connection.answer(index)[5:]
            answered += len(connection.finished)
            connection.finished.clear()
        return answered


@contextmanager
def hold_connections(request: Request, count: int) -> Iterator[None]:
    """Keeps `count` connections open, each after one answered call. Raises ConnectionError when one gives no answer."""
    with ExitStack() as stack:
        for _ in range(count):
            connection = _Connection(request.port, keep_answers=False)
            stack.callback(connection.socket.close)
            connection.socket.settimeout(10)
            connection.send(0, request)
            while not connection.finished:
                connection.flush()
                connection.receive()
            if connection.finished[0][1] != 0:
                raise ConnectionError(f"no OK on one of {count} connections: {connection.finished[0][1]}")
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the garbage collector out of a timed pass."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
