"""One call over a connection to a worker: the messages that come back, and how it ends."""

import asyncio
from collections.abc import Callable
from urllib.parse import unquote

from abfleet_transport.call import Code
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.frames import ProtocolError

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""A batch of 128 answers of 100 items is about 150 KB; what is larger than this is no answer."""


class RpcFailed(Exception):
    """A call did not end with OK."""

    def __init__(self, code: Code, message: str, *, connection_broke: bool = False) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.connection_broke = connection_broke


class ClientStream:
    """One stream: a request that has been sent and what comes back. `done` has the message, or the last of several."""

    __slots__ = ("_buffer", "_on_message", "answered", "block", "done", "stream_id", "window")

    def __init__(
        self, stream_id: int, done: "asyncio.Future[bytes]", on_message: Callable[[bytes], None] | None
    ) -> None:
        self.stream_id = stream_id
        self.done = done
        self.window = 0  # bytes that may still be sent
        self.block = b""  # of a header block that goes on in CONTINUATION
        self.answered = False  # response headers have come
        self._buffer: bytes | bytearray = b""
        self._on_message = on_message

    @property
    def is_unary(self) -> bool:
        """Whether one message is awaited, and soon; a stream of them may be silent as long as it likes."""
        return self._on_message is None

    def receive(self, data: bytes) -> None:
        """Bytes of the answer. Raises ProtocolError."""
        if not self._buffer:
            self._buffer = data  # nearly always the whole answer
        elif isinstance(self._buffer, bytearray):
            self._buffer += data
        else:
            self._buffer = bytearray(self._buffer) + data
        if len(self._buffer) > MAX_ANSWER_BYTES:
            raise ProtocolError(f"answer: {len(self._buffer)} bytes; at most {MAX_ANSWER_BYTES} are allowed")
        if self._on_message is not None:
            read = 0
            while (message := self._whole(read)) is not None:
                read += 5 + len(message)
                self._on_message(message)
            if read:  # once, however many there were: a frame has room for 200,000 of them
                self._buffer = bytes(self._buffer[read:])

    def _whole(self, start: int = 0) -> bytes | None:
        """The message that begins at `start`; None when it is not there to its end."""
        if len(self._buffer) < start + 5:
            return None
        compressed, length = http2.MESSAGE_PREFIX.unpack_from(self._buffer, start)
        if compressed:
            raise ProtocolError("the message is compressed; only uncompressed messages are allowed")
        end = start + 5 + length
        return bytes(self._buffer[start + 5 : end]) if len(self._buffer) >= end else None

    def end(self, trailers: dict[str, str]) -> None:
        """Ends the stream with its trailers: `done` gets the message, or RpcFailed for a status other than OK."""
        if self.done.done():
            return
        status = trailers.get("grpc-status", "")
        if status == "0":
            message = self._whole()
            if message is not None or self._on_message is not None:
                self.done.set_result(message or b"")
            else:
                self.fail(RpcFailed(Code.INTERNAL, "the answer has no message"))
            return
        known = len(status) <= 2 and status.isdecimal() and int(status) <= Code.UNAUTHENTICATED
        code = Code(int(status)) if known else Code.UNKNOWN
        http = trailers.get(":status", "200")
        text = unquote(trailers.get("grpc-message", "")) or (
            f"the worker answered with HTTP status {http}" if http != "200" else "the answer has no grpc-status"
        )
        self.fail(RpcFailed(code, text))

    def fail(self, error: RpcFailed) -> None:
        """Ends the stream with an error, if it has not ended yet."""
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # whoever waited may have gone: then nobody needs to be told
