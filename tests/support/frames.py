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

    def __init__(self, max_frame: int = http2.OUR_MAX_FRAME) -> None:
        self._rest = b""
        self.max_frame = max_frame

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole now. Raises ProtocolError for one that is larger than `max_frame`."""
        self._rest += data
        while len(self._rest) >= http2.FRAME_HEADER.size:
            high, low, kind, flags, stream = http2.FRAME_HEADER.unpack_from(self._rest)
            length = high << 8 | low
            if length > self.max_frame:
                text = f"frame: {length} bytes; at most {self.max_frame} are allowed"
                raise ProtocolError(text, http2.FRAME_SIZE_ERROR)
            end = http2.FRAME_HEADER.size + length
            if len(self._rest) < end:
                return
            payload, self._rest = self._rest[http2.FRAME_HEADER.size : end], self._rest[end:]
            yield Frame(kind, flags, stream & http2.MAX_WINDOW, payload)
