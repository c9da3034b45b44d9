"""Floods of HTTP/2 over many connections: `python -m tests.support.flooder FLOOD HOST:PORT CONNECTIONS SECONDS`.

Each connection says the same again and again, takes in what it is answered, and is opened again when it was cut. It
prints how often that was with ENHANCE_YOUR_CALM, and otherwise. For tests alone.
"""

import asyncio
import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator

from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.frames import frame

from tests.support.frames import FrameReader

HEAD = http2.request_headers("/Recommender/Recommend", "router")
WRONG = http2.request_headers("/Recommender/Recommend", "router", ("grpc-timeout", "x"))
MESSAGE = RecommendRequest(item_ids=[1, 2, 3, 10, 15]).SerializeToString()
BODY = http2.MESSAGE_PREFIX.pack(0, len(MESSAGE)) + MESSAGE
GREETING = http2.PREFACE + frame(http2.SETTINGS, 0, 0) + frame(http2.SETTINGS, http2.ACK, 0)
FIELDS = HEAD + b"\x00\x01x\x011" * 3200
CODED = HEAD + b"\x00\x01x" + b"\xff" + http2.integer(14_000, 7)[1:] + b"\x00" * 14_000
"""A value of 14,000 bytes in Huffman code: of zeros, five bits each."""
CODED_SHORT = HEAD + b"\x00\x01x" + b"\xff" + http2.integer(5_000, 7)[1:] + b"\x00" * 5_000
"""One that may be sent: 8,000 bytes when it is read."""
PAUSE_SECONDS = 0.01
"""After a connection ended, so that to connect is not the flood."""

Parts = Callable[[], Iterator[bytes]]


def begun(stream: int, head: bytes = HEAD, flags: int = http2.END_HEADERS) -> bytes:
    """The headers of a call."""
    return frame(http2.HEADERS, flags, stream, head)


def same(data: bytes, first: bytes = b"") -> Parts:
    """The same bytes without end, after some first ones."""
    return lambda: itertools.chain((first,), itertools.repeat(data))


def each(request: Callable[[int], bytes], together: int = 50) -> Parts:
    """A request on one stream after the other, so many in one piece."""

    def parts() -> Iterator[bytes]:
        for first in itertools.count(1, 2 * together):
            yield b"".join(request(stream) for stream in range(first, first + 2 * together, 2))

    return parts


FLOODS: dict[str, Parts] = {
    "window updates": same(bytes.fromhex("000004 08 00 00000000 00000001") * 500),
    "stream window updates": same(http2.window_update(1, 1) * 500, begun(1)),
    "settings": same(frame(http2.SETTINGS, 0, 0) * 500),
    "pings": same(frame(http2.PING, 0, 0, bytes(8)) * 500),
    "empty data": same(frame(http2.DATA, 0, 1) * 500, begun(1)),
    "padded data": same(frame(http2.DATA, http2.PADDED, 1, b"\x00") * 500, begun(1)),
    "refused opens": each(lambda stream: begun(stream, WRONG, 5)),
    "continuation": same(frame(http2.CONTINUATION, 0, 1) * 500, begun(1, flags=0)),
    "rapid reset": each(
        lambda stream: begun(stream) + frame(http2.DATA, 1, stream, BODY) + http2.reset(stream, http2.CANCEL)
    ),
    "4,000 fields": each(lambda stream: begun(stream, FIELDS, 5), 1),
    "huffman": each(lambda stream: begun(stream, CODED), 1),
    "requests without end": each(lambda stream: begun(stream, CODED_SHORT + b"\x00\x01y" + http2.literal(str(stream)))),
    "zero windows": each(lambda stream: begun(stream) + frame(http2.DATA, 1, stream, BODY)),
}
FIRST = {"zero windows": frame(http2.SETTINGS, 0, 0, http2.SETTING.pack(http2.INITIAL_WINDOW_SIZE, 0))}


class Flood:
    """Connections that flood; `ends` counts how each of them ended."""

    def __init__(self, name: str, host: str, port: int) -> None:
        self.ends: Counter[str] = Counter()
        self._parts = FLOODS[name]
        self._first = GREETING + FIRST.get(name, b"")
        self._host, self._port = host, port

    async def keep_flooding(self) -> None:
        """On one connection after the other."""
        while True:
            try:
                reader, writer = await asyncio.open_connection(self._host, self._port)
            except OSError:
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            reading = asyncio.ensure_future(self._read(reader))
            try:
                writer.write(self._first)
                for part in self._parts():
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
                    if reading.done():
                        break
            except ConnectionError:
                pass
            finally:
                if not reading.done():  # what was said last may still be there
                    await asyncio.wait((reading,), timeout=0.5)
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
                writer.transport.abort()  # a flood that is read slowly has much left to say
            await asyncio.sleep(PAUSE_SECONDS)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        frames, end = FrameReader(2**24), "cut"
        try:
            while data := await reader.read(2**16):
                for got in frames.feed(data):
                    if got.kind == http2.GOAWAY:
                        calm = http2.UINT32.unpack_from(got.payload, 4)[0] == http2.ENHANCE_YOUR_CALM
                        end = "calm" if calm else "goaway"
        except ConnectionError:
            pass
        self.ends[end] += 1


async def flood(name: str, address: str, connections: int, seconds: float) -> Counter[str]:
    """For so long."""
    host, _, port = address.rpartition(":")
    one = Flood(name, host, int(port))
    tasks = [asyncio.ensure_future(one.keep_flooding()) for _ in range(connections)]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return one.ends


if __name__ == "__main__":
    ended = asyncio.run(flood(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
    print(ended["calm"], ended["goaway"], ended["cut"])
