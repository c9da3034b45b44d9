"""A client of our own HTTP/2 server that says what a test likes, byte by byte, without a socket."""

import asyncio

import hpack
from abfleet_transport.call import Call
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.frames import frame

from tests.support.frames import Frame
from tests.support.http2_wire import ServerSide

PATH = "/Recommender/Recommend"
HEAD = http2.request_headers(PATH, "server")
GREETING = http2.PREFACE + frame(http2.SETTINGS, 0, 0)
MIB = 1024 * 1024


def message(payload: bytes, *, compressed: int = 0, length: int | None = None) -> bytes:
    """A message with its prefix."""
    return http2.MESSAGE_PREFIX.pack(compressed, len(payload) if length is None else length) + payload


def begun(stream: int = 1, head: bytes = HEAD, flags: int = http2.END_HEADERS) -> bytes:
    """The headers of a call."""
    return frame(http2.HEADERS, flags, stream, head)


def data(payload: bytes, stream: int = 1, flags: int = http2.END_STREAM) -> bytes:
    """Bytes of a request, by default the last."""
    return frame(http2.DATA, flags, stream, payload)


def setting(name: int, value: int) -> bytes:
    """A frame with one setting."""
    return frame(http2.SETTINGS, 0, 0, http2.SETTING.pack(name, value))


class Client:
    """The other end of a connection."""

    def __init__(self, side: ServerSide | None = None, greeting: bytes = GREETING, **limits: int) -> None:
        self.side = side or ServerSide((PATH,), **limits)
        self.connection, self.wire = self.side.connect()
        self.connection.data_received(greeting)
        self._decoder = hpack.Decoder()

    async def say(self, *parts: bytes) -> list[Frame]:
        """Sends it, and gives what is answered in the next turns."""
        self.connection.data_received(b"".join(parts))
        return await self.heard()

    async def heard(self) -> list[Frame]:
        """What was written since the last time."""
        for _ in range(3):
            await asyncio.sleep(0)
        return self.wire.frames()

    async def calls(self, *parts: bytes) -> list[Call]:
        """Sends it, and gives the calls that were delivered."""
        await self.say(*parts)
        calls, self.side.calls[:] = list(self.side.calls), []
        return calls

    def fields(self, got: Frame) -> dict[str, str]:
        """Of a header block, by a library of others that keeps its state."""
        return {str(name): str(value) for name, value in self._decoder.decode(got.payload)}

    def status(self, frames: list[Frame], stream: int = 1) -> tuple[int, str]:
        """How a call ended."""
        blocks = [self.fields(got) for got in frames if got.kind == http2.HEADERS and got.stream == stream]
        return int(blocks[-1]["grpc-status"]), blocks[-1].get("grpc-message", "")


def ended(frames: list[Frame]) -> int | None:
    """The code of the GOAWAY among them."""
    return next((http2.UINT32.unpack_from(got.payload, 4)[0] for got in frames if got.kind == http2.GOAWAY), None)
