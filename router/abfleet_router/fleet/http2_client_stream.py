"""One call over a connection to a worker: the messages that come back, and how it ends."""

from collections.abc import Callable
from typing import Final
from urllib.parse import unquote

from abfleet_transport.call import Code
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.frames import StreamError

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""A batch of 128 answers of 100 items is about 150 KB; what is larger than this is no answer."""
HTTP_STATUSES: Final = {
    "400": Code.INTERNAL,
    "401": Code.UNAUTHENTICATED,
    "403": Code.PERMISSION_DENIED,
    "404": Code.UNIMPLEMENTED,
    "429": Code.UNAVAILABLE,
    "502": Code.UNAVAILABLE,
    "503": Code.UNAVAILABLE,
    "504": Code.UNAVAILABLE,
}
"""What a proxy's status means where there is no grpc-status (gRPC's http-grpc-status-mapping); UNKNOWN for others."""


class RpcFailed(Exception):
    """A call did not end with OK.

    Attributes:
        connection_broke: The connection has ended with it, unannounced.
        unsent: The worker has not begun it: it was never sent, was refused, or came after the worker's goodbye.
    """

    def __init__(self, code: Code, message: str, *, connection_broke: bool = False, unsent: bool = False) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.connection_broke = connection_broke
        self.unsent = unsent


OnEnd = Callable[[bytes | RpcFailed], None]
"""Hears once how a call ended: its message, or the last of several, or why there is none."""


class ClientStream:
    """One stream: a request that has been sent and what comes back."""

    __slots__ = (
        "_buffer",
        "_length",
        "_on_end",
        "_on_message",
        "_received",
        "answered",
        "stream",
        "window",
    )

    def __init__(self, on_end: OnEnd, on_message: Callable[[bytes], None] | None) -> None:
        """`on_end` must not raise."""
        self.stream = 0
        """Its number; 0 as long as the call waits for its turn."""
        self._on_end: OnEnd | None = on_end  # None once it was called, or will never be
        self.window = 0  # bytes that may still be sent
        self.answered = False  # response headers have come
        self._buffer: bytes | bytearray = b""
        self._received = 0  # bytes of DATA
        self._length: int | None = None  # of DATA as the headers say it
        self._on_message = on_message

    @property
    def is_unary(self) -> bool:
        """Whether one message is awaited, and soon; a stream of them may be silent as long as it likes."""
        return self._on_message is None

    def begin(self, fields: dict[str, str]) -> bool:
        """Takes response headers that do not end the stream; False where they are no answer of gRPC.

        Raises StreamError.
        """
        status = fields.get(":status", "")
        if self.answered or len(status) != 3 or status == "101":
            raise StreamError(f"headers with :status {status[:64]!r} are not allowed there")
        if status != "200":
            if not (status.isascii() and status.isdecimal()):
                raise StreamError(f":status: {status!r} is not a number")
            return status[0] == "1"  # more will come (RFC 9113, 8.1)
        self.answered = True
        if (length := fields.get("content-length")) is not None:
            if not (length.isascii() and length.isdecimal() and len(length) <= 10):
                raise StreamError(f"content-length: {length[:64]!r} is not a number of bytes")
            self._length = int(length)
        return True

    def receive(self, data: bytes) -> None:
        """Bytes of the answer. Raises StreamError."""
        if not self.answered:
            raise StreamError("DATA before the response headers are not allowed")
        self._received += len(data)
        if not self._buffer:
            self._buffer = data  # nearly always the whole answer
        elif isinstance(self._buffer, bytearray):
            self._buffer += data
        else:
            self._buffer = bytearray(self._buffer) + data
        if len(self._buffer) > MAX_ANSWER_BYTES:
            text = f"answer: {len(self._buffer)} bytes; at most {MAX_ANSWER_BYTES} are allowed"
            raise StreamError(text, http2.CANCEL)
        if self._on_message is not None:
            read = 0
            while (message := self._whole(read)) is not None:
                read += 5 + len(message)
                self._on_message(message)
            if read:  # once, however many there were: a frame has room for 200,000 of them
                self._buffer = bytes(self._buffer[read:])

    def _whole(self, start: int = 0) -> bytes | None:
        """The message that begins at `start`; None when it is not there to its end. Raises StreamError."""
        if len(self._buffer) < start + 5:
            return None
        compressed, length = http2.MESSAGE_PREFIX.unpack_from(self._buffer, start)
        if compressed:
            raise StreamError("the message is compressed; only uncompressed messages are allowed", http2.CANCEL)
        end = start + 5 + length
        return bytes(self._buffer[start + 5 : end]) if len(self._buffer) >= end else None

    def outcome(self, trailers: dict[str, str]) -> bytes | RpcFailed:
        """How the call has ended by these trailers: its message, or RpcFailed for a status other than OK.

        Raises StreamError.
        """
        if (":status" in trailers) is self.answered:
            raise StreamError("a header block must begin with :status, and trailers may not have it")
        if self._length not in (None, self._received):
            raise StreamError(f"content-length: {self._length} bytes, and {self._received} were sent")
        status = trailers.get("grpc-status", "")
        if status == "0":
            return self._message()
        known = len(status) <= 2 and status.isascii() and status.isdecimal() and int(status) <= Code.UNAUTHENTICATED
        http = trailers.get(":status", "200")
        if http[:1] == "1":
            raise StreamError(f"headers with :status {http[:64]!r} may not end the stream")
        code = Code(int(status)) if known else Code.UNKNOWN if status else HTTP_STATUSES.get(http, Code.UNKNOWN)
        said = f"the worker answered with HTTP status {http}" if http != "200" else "the answer has no grpc-status"
        return RpcFailed(code, unquote(trailers.get("grpc-message", "")) or (status and "no message") or said)

    def _message(self) -> bytes | RpcFailed:
        message = self._whole()
        if self._on_message is not None:
            return message or b""
        if message is None:
            return RpcFailed(Code.INTERNAL, "the answer has no message")
        if len(message) + 5 != len(self._buffer):
            return RpcFailed(Code.INTERNAL, "the answer has more than one message")
        return message

    def end(self, outcome: bytes | RpcFailed) -> None:
        """Says how the call ended, unless that has been said or nobody wants to hear it.

        Whoever hears it may call on the same connection again: so it is said last, when all else is done.
        """
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(outcome)

    def give_up(self) -> None:
        """Nobody wants to hear of the end any more."""
        self._on_end = None
