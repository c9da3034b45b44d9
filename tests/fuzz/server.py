"""Targets of our own HTTP/2 server, in this process: a hostile caller's connection, and header blocks alone."""

import asyncio
import gzip
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import hpack
from abfleet_transport.call import Code
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.connection import ServerConnection
from abfleet_transport.http2.frames import ProtocolError
from abfleet_transport.http2.header_block import EarlyDecoder, decode, head_of

from tests.fuzz import frames
from tests.fuzz.mutation import any_of
from tests.fuzz.target import Target, Trial
from tests.fuzz.wire import REQUESTS
from tests.support.frames import Frame
from tests.support.http2_wire import ServerSide

PAYLOADS = (*REQUESTS, gzip.compress(b"x" * 200_000), b"y" * 20_000)
MOST_FIELDS = 512


def look_at_answers(written: Sequence[Frame]) -> None:
    """Nothing follows the end of a stream, nor a mistake of ours."""
    ended: set[int] = set()
    for got in written:
        if got.kind == http2.GOAWAY:
            assert got.payload[4:8] != http2.UINT32.pack(http2.INTERNAL_ERROR), got
        if got.kind in (http2.HEADERS, http2.DATA):
            assert got.stream not in ended, got
        if got.kind == http2.RST_STREAM or (got.kind == http2.HEADERS and got.flags & http2.END_STREAM):
            ended.add(got.stream)


def answer(side: ServerSide, source: random.Random) -> int:
    """Answers, refuses or leaves alone what was delivered; gives how many calls that were."""
    calls, side.calls[:] = list(side.calls), []
    for call in calls:
        match source.randrange(4):
            case 0:
                call.reply(b"x" * source.choice((0, 5, 50_000)))
            case 1:
                call.fail(Code.RESOURCE_EXHAUSTED, "no\r\nж", pushback_ms=200)
            case 2:
                call.reply(b"")
                call.fail(Code.INTERNAL, "twice")
    return len(calls)


def disturb(connection: ServerConnection, source: random.Random) -> None:
    """What else may happen meanwhile."""
    match source.randrange(8):
        case 0:
            connection.drain()
        case 1:
            connection.cut_slow_streams(0)
            connection.cut_slow_streams(1000)
        case 2:
            connection.pause_writing()
            connection.resume_writing()


@asynccontextmanager
async def http2_server() -> AsyncIterator[Trial]:
    """A connection of a hostile caller, in pieces, whose calls are answered, refused or left alone; then it goes.

    Nothing is raised; nothing of it is kept; what comes in makes it say no more than a little.
    """
    side = ServerSide(max_message_bytes=100_000, max_concurrent_streams=8)

    async def trial(source: random.Random) -> int:
        connection, wire = side.connect()
        data = frames.client_bytes(source, PAYLOADS)
        cut = source.randrange(len(data) + 1)
        delivered = 0
        for part in (data[:cut], data[cut:]):
            connection.data_received(part)
            disturb(connection, source)
            await asyncio.sleep(0)
            delivered += answer(side, source)
            await asyncio.sleep(0)
        assert len(wire.written) < 2_000_000 + 20 * len(data)
        look_at_answers(wire.frames())
        connection.connection_lost(None)
        assert not side.queue.connections
        assert side.queue.unfinished_bytes == 0
        assert side.queue.in_progress == 0
        side.gone.clear()
        return delivered

    yield trial


@asynccontextmanager
async def header_blocks() -> AsyncIterator[Trial]:
    """Header blocks: they are refused, or read as another library reads them, and whatever they say it is judged."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    fields = [(":method", "POST"), ("x-user-id", "u-1"), ("x-user-id-bin", "AP8"), ("grpc-timeout", "10S"), ("te", "x")]
    huffman = tuple(encoder.encode(fields[:number]) for number in range(1, 6))

    async def trial(source: random.Random) -> int:
        block = any_of(source, (*frames.REQUESTS, *huffman))
        with suppress(ProtocolError):
            head_of(EarlyDecoder().decode(block))
        try:
            found = decode(block, MOST_FIELDS)
        except ProtocolError:
            return 0
        head = head_of(found)
        if len(found) <= MOST_FIELDS:
            other = hpack.Decoder(2**31)
            other.header_table_size = other.max_allowed_table_size = 0
            assert [tuple(pair) for pair in other.decode(block, raw=True)] == found
        return int(head.http_status == 200 and head.problem is None)

    yield trial


TARGETS = (
    Target(name="http/2 server", inputs=60_000, open=http2_server),
    Target(name="header blocks", inputs=30_000, open=header_blocks),
)
