"""The HTTP/2 that our own server speaks: what is forbidden ends a connection, all else is read as it was meant."""

import pytest
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.frames import frame

from tests.support.frames import Frame
from tests.transport.http2_client import GREETING, HEAD, MIB, PATH, Client, begun, data, ended, message, setting


@pytest.fixture
async def client() -> Client:
    """One that has greeted, and read the greeting."""
    one = Client()
    await one.heard()
    return one


async def test_the_greeting_says_what_is_taken() -> None:
    """No header table, the limits, and a window for the connection."""
    client = Client(max_metadata_bytes=5000, max_concurrent_streams=7)
    ours, window, *_ = await client.heard()
    assert dict(http2.settings(ours.payload)) == {
        http2.HEADER_TABLE_SIZE: 0,
        http2.MAX_CONCURRENT_STREAMS: 7,
        http2.INITIAL_WINDOW_SIZE: 65_535,
        http2.MAX_HEADER_LIST_SIZE: 5000,
    }
    assert (window.kind, window.stream, http2.uint31(window.payload)) == (http2.WINDOW_UPDATE, 0, 16 * MIB - 65_535)


@pytest.mark.parametrize(
    ("hostile", "code"),
    [
        (frame(http2.PING, 0, 0, bytes(7)), http2.FRAME_SIZE_ERROR),
        (frame(http2.PING, 0, 1, bytes(8)), http2.PROTOCOL_ERROR),
        (frame(http2.SETTINGS, 0, 1), http2.PROTOCOL_ERROR),
        (frame(http2.SETTINGS, 0, 0, bytes(5)), http2.FRAME_SIZE_ERROR),
        (frame(http2.SETTINGS, http2.ACK, 0, bytes(6)), http2.FRAME_SIZE_ERROR),
        (setting(http2.INITIAL_WINDOW_SIZE, 2**31), http2.FLOW_CONTROL_ERROR),
        (setting(http2.MAX_FRAME_SIZE, 16_383), http2.PROTOCOL_ERROR),
        (setting(http2.MAX_FRAME_SIZE, 2**24), http2.PROTOCOL_ERROR),
        (setting(http2.ENABLE_PUSH, 2), http2.PROTOCOL_ERROR),
        (frame(http2.RST_STREAM, 0, 1, bytes(3)), http2.FRAME_SIZE_ERROR),
        (frame(http2.RST_STREAM, 0, 0, bytes(4)), http2.PROTOCOL_ERROR),
        (frame(http2.RST_STREAM, 0, 1, bytes(4)), http2.PROTOCOL_ERROR),
        (frame(http2.PRIORITY_FRAME, 0, 1, bytes(4)), http2.FRAME_SIZE_ERROR),
        (frame(http2.PRIORITY_FRAME, 0, 0, bytes(5)), http2.PROTOCOL_ERROR),
        (frame(http2.GOAWAY, 0, 0, bytes(7)), http2.FRAME_SIZE_ERROR),
        (frame(http2.GOAWAY, 0, 1, bytes(8)), http2.PROTOCOL_ERROR),
        (frame(http2.PUSH_PROMISE, 4, 1, bytes(4)), http2.PROTOCOL_ERROR),
        (frame(http2.WINDOW_UPDATE, 0, 0, bytes(3)), http2.FRAME_SIZE_ERROR),
        (frame(http2.WINDOW_UPDATE, 0, 0, bytes(5)), http2.FRAME_SIZE_ERROR),
        (http2.window_update(0, 0), http2.PROTOCOL_ERROR),
        (http2.window_update(0, 2**31 - 1), http2.FLOW_CONTROL_ERROR),
        (
            begun() + http2.window_update(1, 2**30) + setting(http2.INITIAL_WINDOW_SIZE, 2**31 - 1),
            http2.FLOW_CONTROL_ERROR,
        ),
        (http2.window_update(1, 1), http2.PROTOCOL_ERROR),
        (frame(http2.CONTINUATION, 4, 1, b""), http2.PROTOCOL_ERROR),
        (begun(flags=0) + frame(http2.PING, 0, 0, bytes(8)), http2.PROTOCOL_ERROR),
        (begun(flags=0) + frame(http2.CONTINUATION, 4, 3, b""), http2.PROTOCOL_ERROR),
        (begun(flags=0) + frame(http2.CONTINUATION, 0, 1, bytes(16_384)) * 4, http2.ENHANCE_YOUR_CALM),
        (data(b"", stream=0), http2.PROTOCOL_ERROR),
        (data(b""), http2.PROTOCOL_ERROR),
        (begun(3) + data(b"", stream=2), http2.PROTOCOL_ERROR),
        (begun(stream=0), http2.PROTOCOL_ERROR),
        (begun(stream=2), http2.PROTOCOL_ERROR),
        (begun() + data(b"\x09abc", flags=http2.PADDED), http2.PROTOCOL_ERROR),
        (begun() + data(b"", flags=http2.PADDED), http2.PROTOCOL_ERROR),
        (begun(head=b"\x00\x00", flags=http2.END_HEADERS | http2.PRIORITY), http2.FRAME_SIZE_ERROR),
        (frame(http2.SETTINGS, http2.ACK, 0) + begun(head=b"\xbe"), http2.COMPRESSION_ERROR),
        (begun(head=b"\xbe"), http2.COMPRESSION_ERROR),
        (http2.frame_header(http2.DATA, 0, 1, 16_385), http2.FRAME_SIZE_ERROR),
    ],
)
async def test_what_the_protocol_forbids_ends_the_connection(client: Client, hostile: bytes, code: int) -> None:
    """It is told why, nothing more is read, and calls that were under way are given up."""
    calls = await client.calls(begun(101), data(message(b"x"), stream=101))
    client = Client(client.side)
    await client.heard()
    assert ended(await client.say(hostile)) == code
    assert client.wire.closing
    assert await client.say(frame(http2.PING, 0, 0, bytes(8))) == []
    client.connection.connection_lost(None)
    assert calls[0] not in client.side.gone, "that of another client is not touched"
    assert len(client.side.queue.connections) == 1


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\n",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        http2.PREFACE + frame(http2.PING, 0, 0, bytes(8)),
        http2.PREFACE + frame(http2.SETTINGS, http2.ACK, 0),
        http2.PREFACE[:-1] + b"x",
    ],
)
async def test_who_does_not_greet(first: bytes) -> None:
    """A connection without preface and settings gets GOAWAY with PROTOCOL_ERROR, and is closed."""
    client = Client(greeting=first)
    assert ended(await client.heard()) == http2.PROTOCOL_ERROR
    assert client.wire.closing


@pytest.mark.parametrize(
    "harmless",
    [
        frame(http2.PRIORITY_FRAME, 0, 99, bytes(5)),
        frame(0x20, 0xFF, 99, b"of an extension"),
        setting(0xFFFF, 1),
        frame(http2.GOAWAY, 0, 0, bytes(8)),
        frame(http2.PING, http2.ACK, 0, bytes(8)),
    ],
)
async def test_what_concerns_nobody_is_passed_over(client: Client, harmless: bytes) -> None:
    """Frames and settings that we do not know, or have no use for."""
    (call,) = await client.calls(harmless, begun(), harmless, data(message(b"x")), harmless)
    assert call.payload == b"x"


async def test_frames_may_be_cut_anywhere() -> None:
    """Byte by byte the same calls come."""
    client = Client(greeting=b"")
    every = GREETING + begun() + data(message(b"one")) + begun(3) + data(message(b"two"), stream=3)
    for byte in every:
        client.connection.data_received(bytes((byte,)))
    await client.heard()
    assert [call.payload for call in client.side.calls] == [b"one", b"two"]


async def test_headers_with_padding_and_priority_and_in_pieces(client: Client) -> None:
    """Headers are read alike with padding, with priority and with CONTINUATION."""
    flags = http2.END_HEADERS | http2.PADDED | http2.PRIORITY
    padded = frame(http2.HEADERS, flags, 1, b"\x03" + bytes(5) + HEAD + bytes(3))
    pieces = begun(3, HEAD[:10], flags=0) + frame(http2.CONTINUATION, 0, 3, HEAD[10:11])
    calls = await client.calls(
        padded, data(message(b"1")), pieces, frame(http2.CONTINUATION, 4, 3, HEAD[11:]), data(message(b"2"), stream=3)
    )
    assert [call.payload for call in calls] == [b"1", b"2"]


async def test_padding_gets_its_window_back(client: Client) -> None:
    """It counts in the stream's window, of which a message needs all."""
    padded = b"\x05" + message(b"x" * 60_000)[:10] + bytes(5)
    (update,) = await client.say(begun(), data(padded, flags=http2.PADDED))
    assert (update.kind, update.stream, http2.uint31(update.payload)) == (http2.WINDOW_UPDATE, 1, 6)


async def test_trailers_end_a_request(client: Client) -> None:
    """No gRPC client sends them, but HTTP/2 has them."""
    (call,) = await client.calls(begun(), data(message(b"x"), flags=0), begun(head=b"\x00\x01a\x01b", flags=5))
    assert call.payload == b"x"


async def test_a_ping_and_settings_are_answered(client: Client) -> None:
    """With the same bytes, and once each."""
    assert await client.say(frame(http2.PING, 0, 0, b"12345678"), frame(http2.SETTINGS, 0, 0)) == [
        Frame(http2.PING, http2.ACK, 0, b"12345678"),
        Frame(http2.SETTINGS, http2.ACK, 0, b""),
    ]


async def test_what_comes_after_an_answer_is_passed_over(client: Client) -> None:
    """A client that is refused while it sends has frames under way; without end they are no call."""
    await client.say(begun(head=http2.request_headers(PATH, "server", ("grpc-timeout", "x"))))
    late = data(b"late", flags=0) + http2.window_update(1, 5) + data(b"", flags=0)
    assert await client.say(late) == []
    assert ended(await client.say(data(b"", flags=0) * 40_001)) == http2.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("kind", [http2.PING, http2.SETTINGS, http2.PRIORITY_FRAME, 0x20])
async def test_frames_that_carry_no_call_are_few(client: Client, kind: int) -> None:
    """Twenty thousand a second are more than any client needs."""
    one = frame(
        kind, 0, int(kind == http2.PRIORITY_FRAME), bytes({http2.PING: 8, http2.PRIORITY_FRAME: 5}.get(kind, 0))
    )
    assert ended(await client.say(one * 40_001)) == http2.ENHANCE_YOUR_CALM


@pytest.mark.parametrize("size", [0, 100])
async def test_a_client_that_wants_a_smaller_table_is_told_once(size: int) -> None:
    """Strict decoders take no block after their setting before the encoder has said so (RFC 7541, 4.2)."""
    client = Client(greeting=http2.PREFACE + setting(http2.HEADER_TABLE_SIZE, size))
    await client.heard()
    client._decoder.max_allowed_table_size = size
    for stream in (1, 3):
        (call,) = await client.calls(begun(stream), data(message(b""), stream))
        call.reply(b"answer")
        got = await client.heard()
        assert client.status(got, stream) == (0, "")
        assert got[0].payload.startswith(b"\x20") is (stream == 1)
