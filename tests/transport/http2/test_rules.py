"""What RFC 9113 asks of a server, byte by byte: what ends a connection, and what one request alone."""

import pytest
from abfleet_transport.call import Code
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.control_frames import NOT_KEPT
from abfleet_transport.http2.forwarding import passed_on
from abfleet_transport.http2.frames import frame

from tests.support.frames import Frame
from tests.transport.http2_client import HEAD, PATH, Client, begun, data, ended, message, setting

NAMED = HEAD + b"\x0f\x0d"
"""Headers that end with the name `content-length`."""


@pytest.fixture
async def client() -> Client:
    """One that has greeted, taken our settings, and read the greeting."""
    one = Client()
    await one.say(frame(http2.SETTINGS, http2.ACK, 0))
    return one


def resets(frames: list[Frame]) -> list[tuple[int, int]]:
    """Stream and code of each."""
    return [(got.stream, http2.uint31(got.payload)) for got in frames if got.kind == http2.RST_STREAM]


async def goes_on(client: Client, stream: int = 101) -> bool:
    """Whether the next call on the connection is delivered."""
    calls = await client.calls(begun(stream), data(message(b"next"), stream=stream))
    return [call.payload for call in calls] == [b"next"]


@pytest.mark.parametrize(
    ("hostile", "code"),
    [
        pytest.param(begun(5) + begun(3), http2.PROTOCOL_ERROR, id="a lower stream that was passed over"),
        pytest.param(begun(5) + data(b"", stream=3), http2.PROTOCOL_ERROR, id="data on such a stream"),
        pytest.param(begun(2), http2.PROTOCOL_ERROR, id="an even stream"),
        pytest.param(begun(head=bytes(4), flags=0x24), http2.FRAME_SIZE_ERROR, id="no room for a priority"),
        pytest.param(begun(head=b"\0" + bytes(4), flags=0x2C), http2.FRAME_SIZE_ERROR, id="none beside the padding"),
        pytest.param(begun(5) + frame(3, 0, 5, bytes(4)) + begun(5), http2.STREAM_CLOSED, id="one that was reset"),
        pytest.param(
            begun(5) + frame(3, 0, 5, bytes(4)) + data(b"", stream=5), http2.STREAM_CLOSED, id="data after a reset"
        ),
        pytest.param(
            frame(http2.SETTINGS, 0, 0, http2.SETTING.pack(5, 1) + http2.SETTING.pack(5, 16_384)),
            http2.PROTOCOL_ERROR,
            id="a forbidden setting, then an allowed one",
        ),
        pytest.param(
            begun() + frame(4, 0, 0, http2.SETTING.pack(4, 2**31 - 1)) + http2.window_update(1, 1),
            None,
            id="a window that is too large ends its stream alone",
        ),
        pytest.param(
            begun() + http2.window_update(1, 2**30)
            + frame(4, 0, 0, http2.SETTING.pack(4, 2**31 - 1) + http2.SETTING.pack(4, 0)),
            http2.FLOW_CONTROL_ERROR,
            id="settings in order: too large a window, then none",
        ),
    ],
)  # fmt: skip
async def test_what_ends_the_connection(client: Client, hostile: bytes, code: int | None) -> None:
    """It is told why, and counted."""
    assert ended(await client.say(hostile)) == code
    assert client.side.queue.counts.cuts["protocol"] == (code is not None)


@pytest.mark.parametrize(
    ("hostile", "code"),
    [
        pytest.param(begun() + http2.window_update(1, 0), http2.PROTOCOL_ERROR, id="no window"),
        pytest.param(begun() + http2.window_update(1, 2**31 - 1), http2.FLOW_CONTROL_ERROR, id="too much window"),
        pytest.param(begun() + data(message(b"")) + data(b""), http2.STREAM_CLOSED, id="data after the end"),
        pytest.param(begun() + data(message(b"")) + begun(flags=5), http2.STREAM_CLOSED, id="headers after the end"),
        pytest.param(begun() + begun(), http2.PROTOCOL_ERROR, id="trailers without an end"),
        pytest.param(begun() + begun(head=b"\x88", flags=5), http2.PROTOCOL_ERROR, id="a status in trailers"),
        pytest.param(begun() + begun(head=b"\x83", flags=5), http2.PROTOCOL_ERROR, id="a method in trailers"),
        pytest.param(begun() + begun(head=b"\x00\x01X\x011", flags=5), http2.PROTOCOL_ERROR, id="upper-case trailers"),
        pytest.param(
            begun() + begun(head=b"\x00\x0aconnection\x011", flags=5), http2.PROTOCOL_ERROR, id="HTTP/1 in trailers"
        ),
        pytest.param(begun() + begun(head=b"\x00\x01x\x01\x00", flags=5), http2.PROTOCOL_ERROR, id="NUL in trailers"),
        pytest.param(begun(head=HEAD + b"\x00\x01X\x011"), http2.PROTOCOL_ERROR, id="upper case"),
        pytest.param(begun(head=HEAD + b"\x00\x01x\x01\n"), http2.PROTOCOL_ERROR, id="a line feed"),
        pytest.param(begun(head=HEAD + b"\x83"), http2.PROTOCOL_ERROR, id="a pseudo-header at the end"),
        pytest.param(begun(head=NAMED + b"\x019") + data(message(b"abc")), http2.PROTOCOL_ERROR, id="9 of 8 bytes"),
        pytest.param(begun(head=NAMED + b"\x017") + data(message(b"abc")), http2.PROTOCOL_ERROR, id="7 of 8 bytes"),
        pytest.param(
            begun(head=NAMED + b"\x017") + data(message(b"abc"), flags=0), http2.PROTOCOL_ERROR, id="already too many"
        ),
        pytest.param(begun(head=NAMED + b"\x018", flags=5), http2.PROTOCOL_ERROR, id="8 bytes, and none"),
        pytest.param(begun(head=NAMED + b"\x02xx"), http2.PROTOCOL_ERROR, id="garbage for a length"),
        pytest.param(begun(head=NAMED + b"\x018" + b"\x0f\x0d\x018"), http2.PROTOCOL_ERROR, id="two lengths"),
    ],
)
async def test_what_ends_one_request(client: Client, hostile: bytes, code: int) -> None:
    """Its stream is reset, it is counted, nobody gets it, and the connection goes on."""
    assert resets(await client.say(hostile)) == [(1, code)]
    assert client.side.queue.counts.refusals["malformed"] == 1
    client.side.calls.clear()
    assert await goes_on(client)


@pytest.mark.parametrize("path", [PATH, "/other.Service/Method"])
async def test_a_right_content_length(client: Client, path: str) -> None:
    """In pieces, too, with padding that it does not count; also of what is passed on."""
    head = http2.request_headers(path, "server", ("content-length", "8"))
    parts = data(b"\x02" + message(b"abc")[:4] + b"\0\0", flags=http2.PADDED), data(message(b"abc")[4:])
    calls = await client.calls(begun(head=head), *parts)
    assert [call.payload for call in calls] == ([b"abc"] if path == PATH else [])
    assert not client.side.queue.counts.refusals.total()


async def test_half_closed_streams_take_what_rfc_9113_lets_them(client: Client) -> None:
    """After END_STREAM: windows, priorities and a reset, which gives the call up."""
    (call,) = await client.calls(begun(), data(message(b"x")))
    assert await client.say(http2.window_update(1, 9), frame(http2.PRIORITY_FRAME, 0, 1, bytes(5))) == []
    assert await client.say(http2.reset(1, http2.CANCEL)) == []
    assert client.side.gone == [call]
    assert await goes_on(client)


async def test_a_refused_request_may_go_on_until_its_client_knows(client: Client) -> None:
    """What was on its way is passed over, to its end; after that the stream has ended for both."""
    wrong = http2.request_headers(PATH, "server", ("grpc-timeout", "x"))
    await client.say(begun(head=wrong))
    assert await client.say(data(b"a", flags=0), data(b"b", flags=0), http2.window_update(1, 1), begun(flags=5)) == []
    assert ended(await client.say(data(b"c"))) == http2.STREAM_CLOSED


async def test_very_many_refused_requests_are_not_remembered(client: Client) -> None:
    """The memory is bounded: of the oldest it is not known any more who ended them, which harms nobody."""
    wrong = http2.request_headers(PATH, "server", ("grpc-timeout", "x"))
    for stream in range(1, 2 * NOT_KEPT + 21, 2):
        client.connection.account.due = 0
        client.connection.data_received(begun(stream, wrong))
    await client.heard()
    assert await client.say(data(b"a", stream=1), data(b"a", stream=2 * NOT_KEPT + 19)) == []


async def test_settings_are_taken_in_order(client: Client) -> None:
    """The last of a name counts; the smallest table is told, whatever comes after it (RFC 7541, 4.2)."""
    pairs = ((http2.INITIAL_WINDOW_SIZE, 0), (http2.HEADER_TABLE_SIZE, 0), (http2.MAX_FRAME_SIZE, 20_000))
    more = ((http2.INITIAL_WINDOW_SIZE, 65_535), (http2.HEADER_TABLE_SIZE, 4096), (http2.MAX_FRAME_SIZE, 16_384))
    await client.say(frame(http2.SETTINGS, 0, 0, b"".join(http2.SETTING.pack(*one) for one in (*pairs, *more))))
    (call,) = await client.calls(begun(), data(message(b"x")))
    call.reply(bytes(17_000))
    frames = await client.heard()
    assert frames[0].payload[:1] == b"\x20"
    assert [len(got.payload) for got in frames if got.kind == http2.DATA] == [16_384, 17_005 - 16_384]


async def test_an_encoding_that_we_do_not_have(client: Client) -> None:
    """The refusal says which we have, as gRPC wants it."""
    head = http2.request_headers(PATH, "server", ("grpc-encoding", "snappy"))
    frames = await client.say(begun(head=head, flags=5))
    fields = client.fields(frames[0])
    assert (int(fields["grpc-status"]), fields["grpc-accept-encoding"]) == (
        Code.UNIMPLEMENTED,
        "identity,gzip,deflate",
    )
    assert client.side.queue.counts.refusals["header"] == 1


async def test_every_refusal_is_counted_by_its_reason() -> None:
    """So that an operator finds what callers complain of."""
    client = Client(max_concurrent_streams=1, max_metadata_bytes=400, max_message_bytes=10)
    await client.say(begun(1, HEAD + b"\x00\x01X\x011", flags=5))
    await client.say(begun(3, HEAD.replace(b"\x83", b"\x82"), flags=5))
    await client.say(begun(5, http2.request_headers(PATH, "server", ("x", "y" * 400)), flags=5))
    await client.say(begun(7, http2.request_headers(PATH, "s", ("grpc-timeout", "x")), flags=5))
    await client.say(begun(9), data(message(bytes(11)), stream=9))
    await client.say(begun(11), begun(13))
    assert client.side.queue.counts.refusals == dict.fromkeys(
        ("malformed", "not_grpc", "metadata", "header", "message", "streams"), 1
    )
    counted = {
        (sample.name, sample.labels.get("reason")): sample.value
        for family in client.side.queue.families()
        for sample in family.samples
    }
    assert counted["abfleet_requests_refused_total", "streams"] == 1
    assert counted["abfleet_requests_refused_total", "crowded"] == 0
    await client.say(setting(http2.ENABLE_PUSH, 2))
    assert client.side.queue.counts.cuts == {"protocol": 1}


@pytest.mark.parametrize("value", ["André".encode(), "André".encode("latin-1"), b"a\tb"])
@pytest.mark.parametrize("name", ["tailscale-user-name", "user-agent", "x-bin"])
async def test_foreign_headers_harm_no_call(client: Client, name: str, value: bytes) -> None:
    """Neither a call nor a stream that is passed on, and nothing is refused."""
    field = b"\x00" + http2.literal(name) + http2.integer(len(value), 7) + value
    (call,) = await client.calls(begun(head=HEAD + field), data(message(b"x")))
    assert call.payload == b"x"
    assert list(passed_on(call.metadata)) == []
    assert not client.side.queue.counts.refusals.total()
