"""Frames as tests read them: one after the other, by a reader of their own."""

from collections.abc import Iterator
from typing import NamedTuple

from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.frames import ProtocolError


class Frame(NamedTuple):
    """One frame; `stream` is 0 for the connection."""

    kind: int
    flags: int
    stream: int
    payload: bytes


class FrameReader:
    """Cuts a byte stream into frames; keeps what is not whole yet."""

    __slots__ = ("_missing", "_parts", "max_frame")

    def __init__(self, max_frame: int = http2.OUR_MAX_FRAME) -> None:
        self._parts: list[bytes] = []  # of a frame that is not whole yet
        self._missing = 0  # bytes until there is something to read; 0 when there are no parts
        self.max_frame = max_frame

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole now. Raises ProtocolError for one that is larger than we have said we take."""
        if self._parts:
            self._parts.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return  # joined once, when all is there: a large frame may come in very small parts
            data = b"".join(self._parts)
            self._parts = []
        position, size = 0, len(data)
        needed = http2.FRAME_HEADER.size
        while size - position >= http2.FRAME_HEADER.size:
            high, low, kind, flags, stream = http2.FRAME_HEADER.unpack_from(data, position)
            length = high << 8 | low
            if length > self.max_frame:
                text = f"frame: {length} bytes; at most {self.max_frame} are allowed"
                raise ProtocolError(text, http2.FRAME_SIZE_ERROR)
            end = position + http2.FRAME_HEADER.size + length
            if end > size:
                needed = end - position
                break
            yield Frame(kind, flags, stream & http2.MAX_WINDOW, data[position + http2.FRAME_HEADER.size : end])
            position = end
        if position < size:
            self._parts = [data[position:]]
            self._missing = needed - (size - position)
