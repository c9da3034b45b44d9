"""What one client can make our own HTTP/2 server keep and do is bounded, whatever it does not read."""

import asyncio

from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.frames import frame

from tests.support.frames import Frame, FrameReader
from tests.support.http2_wire import ServerSide

HEAD = http2.request_headers("/Recommender/Recommend", "server")
BODY = http2.MESSAGE_PREFIX.pack(0, 0)
STREAMS = 32


def call(stream: int) -> bytes:
    """HEADERS and DATA of a call with an empty message."""
    return frame(http2.HEADERS, http2.END_HEADERS, stream, HEAD) + frame(http2.DATA, http2.END_STREAM, stream, BODY)


def no_window() -> bytes:
    """The beginning of a client that lets us send nothing."""
    return http2.PREFACE + frame(http2.SETTINGS, 0, 0, http2.SETTING.pack(http2.INITIAL_WINDOW_SIZE, 0))


def frames(written: bytes) -> list[Frame]:
    """The frames that were written, of any size."""
    return list(FrameReader(2**24).feed(bytes(written)))


async def test_answers_that_wait_for_a_window_count_as_open() -> None:
    """A client without a window gets as many calls answered as may be open; the next one is refused, and may be sent
    again."""
    side = ServerSide(max_concurrent_streams=STREAMS)
    connection, wire = side.connect()
    connection.data_received(no_window())
    for number in range(2 * STREAMS):
        connection.data_received(call(2 * number + 1))
        await asyncio.sleep(0)
        for one in side.calls:
            one.reply(b"answer")
        side.calls.clear()
        await asyncio.sleep(0)
    refused = [got.stream for got in frames(wire.written) if got.kind == http2.RST_STREAM]
    assert refused == [2 * number + 1 for number in range(STREAMS, 2 * STREAMS)]
    connection.connection_lost(None)


async def test_a_window_lets_its_own_stream_go_on() -> None:
    """Of several answers that wait, the one whose window opens is sent, and the others when the window is for all."""
    side = ServerSide()
    connection, wire = side.connect()
    connection.data_received(no_window() + b"".join(call(stream) for stream in (1, 3, 5)))
    await asyncio.sleep(0)
    for one in side.calls:
        one.reply(b"answer")
    await asyncio.sleep(0)
    wire.written.clear()
    connection.data_received(http2.window_update(3, 100))
    await asyncio.sleep(0)
    assert {got.stream for got in frames(wire.written)} == {3}
    connection.data_received(frame(http2.SETTINGS, 0, 0, http2.SETTING.pack(http2.INITIAL_WINDOW_SIZE, 65_535)))
    await asyncio.sleep(0)
    ended = [got.stream for got in frames(wire.written) if got.flags & http2.END_STREAM and got.kind == http2.HEADERS]
    assert sorted(ended) == [1, 3, 5]
    connection.connection_lost(None)


async def test_windows_that_change_for_every_stream_are_few() -> None:
    """A client that has begun many calls and changes the window of all of them again and again is cut off."""
    side = ServerSide()
    connection, wire = side.connect()
    begun = [frame(http2.HEADERS, http2.END_HEADERS, 2 * number + 1, HEAD) for number in range(4000)]
    connection.data_received(no_window() + b"".join(begun))
    setting = frame(http2.SETTINGS, 0, 0, http2.SETTING.pack(http2.INITIAL_WINDOW_SIZE, 1))
    connection.data_received(setting * 200)
    await asyncio.sleep(0)
    (last,) = [got for got in frames(wire.written) if got.kind == http2.GOAWAY]
    assert b"serve no call" in last.payload
    assert wire.closing
    connection.connection_lost(None)
