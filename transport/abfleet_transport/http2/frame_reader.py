"""From the bytes of a connection to frames, for either side: cut anywhere they come in, whole frames go on.

The loop is the hottest of all: it makes no object of a frame, and calls its handler once for each. Header blocks that
go on in CONTINUATION are joined here, so a handler gets whole ones only.
"""

from typing import Final, Protocol

from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.frames import ProtocolError

FRAME_HEADER_BYTES: Final = http2.FRAME_HEADER.size
PLAIN: Final = http2.PADDED | http2.PRIORITY | http2.END_HEADERS
"""Of the flags of HEADERS: with END_HEADERS alone of these, the payload is the whole block."""


class FrameHandler(Protocol):
    """Who takes the frames of a connection. Whatever it raises ends the reading."""

    def on_data(self, flags: int, stream: int, payload: bytes) -> None:
        """DATA as it came, with its padding."""

    def on_headers(self, flags: int, stream: int, block: bytes) -> None:
        """A whole header block, with the flags of its HEADERS frame."""

    def on_control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """Any other frame. CONTINUATION comes here, too, for what it costs."""


class FrameReader:
    """Keeps what is not whole yet: at most a frame and a header block."""

    def __init__(self, handler: FrameHandler, *, max_frame: int, preface: bytes = b"") -> None:
        """`max_frame`: bytes of a payload that our settings allow; `preface`: what comes before the first frame."""
        self._handler = handler
        self._max_frame = max_frame
        self._preface: bytes | None = preface  # None once the first frame's header is there
        self._parts: list[bytes] = []  # of a frame that is not whole yet
        self._missing = 0  # bytes until there is something to read; meaningless without parts
        self._block: tuple[int, int, bytearray] | None = None  # flags, stream and bytes of a block that goes on

    def feed(self, data: bytes) -> None:
        """Has the handler take all frames that are whole now. Raises ProtocolError, and what the handler raises."""
        if self._parts:
            self._parts.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return  # joined once, when all is there: a large frame may come in very small parts
            data = b"".join(self._parts)
            self._parts = []
        position, size, needed = 0, len(data), FRAME_HEADER_BYTES
        if self._preface is not None:
            position = self._greeted(data, self._preface)
            if position < 0:
                self._parts, self._missing = [data], 1
                return
        handler, most, unpack = self._handler, self._max_frame, http2.FRAME_HEADER.unpack_from
        while size - position >= FRAME_HEADER_BYTES:
            high, low, kind, flags, stream = unpack(data, position)
            length = high << 8 | low
            start = position + FRAME_HEADER_BYTES
            end = start + length
            if length > most:
                raise ProtocolError(f"frame: {length} bytes; at most {most} are allowed", http2.FRAME_SIZE_ERROR)
            if end > size:
                needed = end - position
                break
            position = end
            stream &= http2.MAX_WINDOW
            if self._block is not None:
                self._on_continuation(kind, flags, stream, data[start:end])
            elif kind == http2.DATA:
                handler.on_data(flags, stream, data[start:end])
            elif kind == http2.HEADERS:
                if flags & PLAIN == http2.END_HEADERS and length <= http2.MAX_HEADER_BLOCK:
                    handler.on_headers(flags, stream, data[start:end])
                else:
                    self._on_headers(flags, stream, data[start:end])
            elif kind == http2.CONTINUATION:
                raise ProtocolError(f"CONTINUATION on stream {stream} has no HEADERS before it")
            else:
                handler.on_control(kind, flags, stream, data[start:end])
        if position < size:
            self._parts = [data[position:]]
            self._missing = needed - (size - position)

    def _greeted(self, data: bytes, preface: bytes) -> int:
        """Checks the preface and the first frame, SETTINGS (RFC 9113, 3.4); where frames begin, or -1 before that."""
        size = len(preface)
        if data[:size] != preface[: len(data)]:
            raise ProtocolError("preface: this port accepts only gRPC over HTTP/2 without TLS")
        if len(data) < size + FRAME_HEADER_BYTES:
            return -1
        _, _, kind, flags, _ = http2.FRAME_HEADER.unpack_from(data, size)
        if kind != http2.SETTINGS or flags & http2.ACK:
            raise ProtocolError(
                f"the first frame is of type {kind} with flags {flags}; it must be SETTINGS without ACK"
            )
        self._preface = None
        return size

    def _on_headers(self, flags: int, stream: int, payload: bytes) -> None:
        if flags & (http2.PADDED | http2.PRIORITY):
            payload = http2.unpadded(http2.HEADERS, flags, payload)
        self._take_block(flags, flags, stream, bytearray(payload))

    def _on_continuation(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        assert self._block is not None
        first_flags, first_stream, block = self._block
        if kind != http2.CONTINUATION:
            raise ProtocolError(f"frame of type {kind} inside a header block; only CONTINUATION is allowed")
        if stream != first_stream:
            raise ProtocolError(f"CONTINUATION on stream {stream} has no HEADERS before it")
        self._handler.on_control(kind, flags, stream, payload)
        block += payload
        self._take_block(first_flags, flags, stream, block)

    def _take_block(self, first_flags: int, flags: int, stream: int, block: bytearray) -> None:
        if len(block) > http2.MAX_HEADER_BLOCK:
            text = f"header block: more than {http2.MAX_HEADER_BLOCK} bytes are not allowed"
            raise ProtocolError(text, http2.ENHANCE_YOUR_CALM)
        if flags & http2.END_HEADERS:
            self._block = None
            self._handler.on_headers(first_flags, stream, bytes(block))
        else:
            self._block = (first_flags, stream, block)
