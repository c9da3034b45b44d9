"""A call that came over our own HTTP/2 server, and the bytes of its answer."""

import asyncio
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, Protocol
from urllib.parse import quote_from_bytes

from abfleet_transport.call import Code
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.header_block import ENCODINGS, Head
from abfleet_transport.plan import PUSHBACK, too_large

PREFIX_BYTES: Final = 5
WINDOW_BITS: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""Of zlib, for what a message may be compressed with: with gzip's header and checksum, or with its own."""
PLAIN_MESSAGE: Final = bytes(byte for byte in range(0x20, 0x7F) if byte != 0x25)
"""What stands for itself in `grpc-message`; everything else is percent-encoded."""


class CallConnection(Protocol):
    """The connection that a call came over."""

    loop: asyncio.AbstractEventLoop
    thread: int
    """Id of the thread that runs the loop."""
    thread_id: Callable[[], int]
    """Gives that of the thread that asks."""

    @property
    def peer(self) -> str:
        """Who is at the other end."""

    @property
    def streams(self) -> Mapping[int, object]:
        """By stream id, what is not answered yet; a call that is not in it needs no answer."""

    def answer(self, call: "Http2Call", payload: bytes) -> None:
        """Sends a serialised response message."""

    def refuse(self, call: "Http2Call", code: Code, message: str, pushback_ms: int | None) -> None:
        """Sends an error; with `pushback_ms`, when the caller may call again."""


class Http2Call:
    """One stream: a request that comes in, then a call that waits for its answer. `reply` and `fail` may come from any
    thread; all else belongs to the loop, and is changed only by the connection."""

    __slots__ = (
        "_connection",
        "arrived",
        "buffer",
        "client",
        "deadline",
        "delivered",
        "ended",
        "head",
        "metadata",
        "method",
        "owner",
        "paid",
        "payload",
        "received",
        "stream",
        "window",
    )

    def __init__(
        self, connection: CallConnection, stream: int, head: Head, method: int, window: int, paid: int = 0
    ) -> None:
        """`paid`: units of work that it has cost its connection: its header block, until it is whole, then its answer,
        until it is taken."""
        self.paid = paid
        self._connection = connection
        self.stream = stream
        self.head = head
        self.method = method
        self.window = window  # bytes that may still be sent
        self.metadata = head.metadata
        self.client: str | None = None
        self.payload = b""
        self.arrived = 0.0
        self.deadline: float | None = None
        self.owner: object = None
        self.buffer: bytearray | None = None  # of a message that came in parts
        self.ended = False  # the client has sent all of it
        self.delivered = False
        if head.content_length is not None:
            self.received = 0  # bytes of the request

    @property
    def peer(self) -> str:
        return self._connection.peer

    @property
    def waits(self) -> bool:
        """Whether it is neither answered nor given up by its caller."""
        return self._connection.streams.get(self.stream) is self

    @property
    def unfinished(self) -> bool:
        """Whether it waits for its client."""
        return not self.ended

    @property
    def owes_answer(self) -> bool:
        """Whether a drain waits for it."""
        return True

    def reply(self, payload: bytes) -> None:
        connection = self._connection
        if connection.thread_id() == connection.thread:
            connection.answer(self, payload)
        else:
            self._on_loop(connection.answer, payload)

    def fail(self, code: Code, message: str, *, pushback_ms: int | None = None) -> None:
        connection = self._connection
        if connection.thread_id() == connection.thread:
            connection.refuse(self, code, message, pushback_ms)
        else:
            self._on_loop(connection.refuse, code, message, pushback_ms)

    def _on_loop(self, answer: Callable[..., None], *arguments: object) -> None:
        loop = self._connection.loop
        try:
            loop.call_soon_threadsafe(answer, self, *arguments)
        except RuntimeError:
            if not loop.is_closed():  # else its caller has gone with it
                raise


class BadMessage(Exception):
    """A request's message cannot be taken."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


def whole_message(data: bytes | bytearray, encoding: str, limit: int) -> bytes:
    """The one message of a unary request, unpacked; `limit` in bytes. Raises BadMessage."""
    if len(data) < PREFIX_BYTES:
        raise BadMessage(Code.INTERNAL, "message: the request has none")
    compressed, length = http2.MESSAGE_PREFIX.unpack_from(data)
    if length > limit:
        raise BadMessage(Code.RESOURCE_EXHAUSTED, too_large(length, limit))
    if length != len(data) - PREFIX_BYTES:
        raise BadMessage(
            Code.INTERNAL, f"message: its prefix says {length} bytes, and {len(data) - PREFIX_BYTES} bytes were sent"
        )
    message = bytes(data[PREFIX_BYTES:])
    return inflated(message, encoding, limit) if compressed else message


def inflated(message: bytes, encoding: str, limit: int) -> bytes:
    """A compressed message, of which no more than `limit` bytes are ever unpacked. Raises BadMessage."""
    bits = WINDOW_BITS.get(encoding)
    if bits is None:
        raise BadMessage(Code.INTERNAL, f"message: it is compressed, but grpc-encoding is {encoding!r}")
    unpacker = zlib.decompressobj(bits)
    try:
        unpacked = unpacker.decompress(message, limit + 1)
    except zlib.error as error:
        raise BadMessage(Code.INTERNAL, f"message: it is not valid {encoding}: {error}") from None
    if len(unpacked) > limit:
        raise BadMessage(
            Code.RESOURCE_EXHAUSTED, f"message: more than {limit} bytes after decompression are not allowed"
        )
    if not unpacker.eof or unpacker.unused_data:
        raise BadMessage(Code.INTERNAL, f"message: its {encoding} data do not end where the message ends")
    return unpacked


# --- answers ---------------------------------------------------------------------------------------------------------

STATUS_200: Final = b"\x88"
"""`:status: 200`, of the static table."""
CONTENT_TYPE: Final = b"\x0f\x10" + http2.literal("application/grpc")
GRPC_STATUS: Final = b"\x00" + http2.literal("grpc-status")
_HEADERS: Final = STATUS_200 + CONTENT_TYPE
_OK: Final = GRPC_STATUS + http2.literal("0")
HEADERS_FRAME: Final = http2.frame_header(http2.HEADERS, http2.END_HEADERS, 0, len(_HEADERS))[:5]
"""Without the stream."""
TRAILERS_FRAME: Final = http2.frame_header(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, 0, len(_OK))[:5]


def answer_frames(stream: int, payload: bytes) -> bytes:
    """Headers, message and trailers of an answer whose message fits into one frame."""
    number = http2.UINT32.pack(stream)
    size = len(payload) + PREFIX_BYTES
    data = http2.frame_header(http2.DATA, 0, stream, size)
    prefix = http2.MESSAGE_PREFIX.pack(0, len(payload))
    return b"".join((HEADERS_FRAME, number, _HEADERS, data, prefix, payload, TRAILERS_FRAME, number, _OK))


def headers_frame(stream: int, more: bytes = b"") -> bytes:
    """The response headers; `more` are further fields, encoded."""
    return http2.frame(http2.HEADERS, http2.END_HEADERS, stream, _HEADERS + more)


def ok_trailers(stream: int) -> bytes:
    """The trailers of an answer with status OK."""
    return b"".join((TRAILERS_FRAME, http2.UINT32.pack(stream), _OK))


ACCEPTED_ENCODINGS: Final = b"\x00" + http2.literal("grpc-accept-encoding") + http2.literal(",".join(ENCODINGS))
"""What a message may be packed with, for a client that has tried something else."""


def trailers_frame(stream: int, code: Code | int, message: str, more: bytes = b"", *, headers_sent: bool) -> bytes:
    """The end of a stream with a status; without headers before it, it is the whole answer."""
    block = b"".join(
        (
            b"" if headers_sent else _HEADERS,
            GRPC_STATUS,
            http2.literal(str(int(code))),
            b"\x00" + http2.literal("grpc-message") + http2.literal(percent_encoded(message)) if message else b"",
            more,
        )
    )
    return http2.header_frames(stream, block, end_stream=True)


@lru_cache(maxsize=1024)
def pushback_trailers(milliseconds: int) -> bytes:
    """When a refused caller may come again (gRFC A6), under gRPC's name for it and our own."""
    value = http2.literal(str(milliseconds))
    return b"".join(b"\x00" + http2.literal(name) + value for name in ("grpc-" + PUSHBACK, PUSHBACK))


def http_error(stream: int, status: int) -> bytes:
    """The whole answer to a request that is not gRPC."""
    block = b"\x08" + http2.literal(str(status))  # :status, by the name at index 8
    return http2.frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, stream, block)


@lru_cache(maxsize=1024)
def percent_encoded(message: str) -> str:
    """A status message as its header has it."""
    return quote_from_bytes(message.encode("utf-8", "replace"), safe=PLAIN_MESSAGE)
