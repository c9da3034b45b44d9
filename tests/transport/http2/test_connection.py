"""Requests on a connection to our own HTTP/2 server, without a socket: messages, limits, time, and mistakes of ours."""

import asyncio
import gzip
import zlib
from collections.abc import Callable

import pytest
from abfleet_transport.call import Call, Code
from abfleet_transport.http2 import call_queue, connection, socket
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


async def test_a_request_that_is_malformed_or_no_grpc(client: Client) -> None:
    """It is answered by an HTTP status, the rest of it is not wanted, and the connection goes on."""
    upper = HEAD + b"\x00" + http2.literal("X-User") + http2.literal("1")
    head, reset = await client.say(begun(head=upper))
    assert client.fields(head) == {":status": "400"}
    assert (reset.kind, http2.uint31(reset.payload)) == (http2.RST_STREAM, http2.PROTOCOL_ERROR)
    (head,) = await client.say(begun(3, HEAD.replace(b"\x83", b"\x82"), flags=5))
    assert client.fields(head) == {":status": "405"}
    assert await client.calls(begun(5), data(message(b""), stream=5))


async def test_metadata_past_the_limit(client: Client) -> None:
    """However short the block is that they come in."""
    refused = await client.say(frame(http2.SETTINGS, http2.ACK, 0), begun(head=HEAD + b"\x90" * 2000, flags=5))
    assert client.status(refused)[0] == Code.RESOURCE_EXHAUSTED
    assert await client.calls(begun(3), data(message(b""), stream=3))


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ([data(b"")], Code.INTERNAL),
        ([data(message(b"abc")[:4])], Code.INTERNAL),
        ([data(message(b"abc", length=4))], Code.INTERNAL),
        ([data(message(b"abc", length=2))], Code.INTERNAL),
        ([data(message(b"abc", length=2), flags=0)], Code.INTERNAL),
        ([data(message(b"") * 2, flags=0)], Code.INTERNAL),
        ([data(message(b"", length=1001), flags=0)], Code.RESOURCE_EXHAUSTED),
        ([data(message(b"", length=2**32 - 1)[:5], flags=0)], Code.RESOURCE_EXHAUSTED),
        ([data(message(b"abc", compressed=1))], Code.INTERNAL),
    ],
)
async def test_a_message_that_is_none(parts: list[bytes], code: Code) -> None:
    """The call fails as soon as that shows, the rest is not wanted, and nothing of it is kept."""
    client = Client(max_message_bytes=1000)
    await client.heard()
    got = await client.say(begun(), *parts)
    assert client.status(got)[0] == code
    unended = not any(part[4] & http2.END_STREAM for part in parts)
    assert [one.payload for one in got if one.kind == http2.RST_STREAM] == [bytes(4)] * unended
    assert client.side.calls == []
    assert client.side.queue.unfinished_bytes == 0
    assert client.side.queue.counts.oversized == (code is Code.RESOURCE_EXHAUSTED)


def deflated(payload: bytes) -> bytes:
    """As gRPC means `deflate`: with zlib's header."""
    return zlib.compress(payload)


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", deflated)])
async def test_compressed_messages(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    """Up to the limit they are unpacked, past it not; what does not end as it should is refused."""
    client = Client(max_message_bytes=MIB)
    await client.heard()
    head = http2.request_headers(PATH, "server", ("grpc-encoding", encoding))
    (call,) = await client.calls(begun(1, head), data(message(pack(bytes(MIB)), compressed=1)))
    assert call.payload == bytes(MIB)
    for stream, packed, code in (
        (3, pack(bytes(MIB + 1)), Code.RESOURCE_EXHAUSTED),
        (5, pack(b"abc")[:-1], Code.INTERNAL),
        (7, pack(b"abc") + b"x", Code.INTERNAL),
        (9, b"none", Code.INTERNAL),
        (11, b"", Code.INTERNAL),
    ):
        got = await client.say(begun(stream, head), data(message(packed, compressed=1), stream))
        assert client.status(got, stream)[0] == code


async def test_a_large_message_gets_the_window_that_it_needs(client: Client) -> None:
    """No less, or it would stop; no more, because nothing may follow."""
    payload = bytes(200_000)
    whole = message(payload)
    await client.say(begun())
    (update,) = await client.say(data(whole[:16_000], flags=0))
    assert (update.stream, http2.uint31(update.payload)) == (1, len(whole) - 65_535)
    parts = [data(whole[start : start + 16_000], flags=0) for start in range(16_000, len(whole), 16_000)]
    assert await client.say(*parts) == []
    (call,) = await client.calls(data(b""))
    assert call.payload == payload


async def test_the_connections_window_is_given_back(client: Client) -> None:
    """Of all DATA, also of what nobody wants any more."""
    await client.say(begun(head=http2.request_headers(PATH, "server", ("grpc-timeout", "x"))))
    got = await client.say(data(bytes(16_384), flags=0) * (8 * MIB // 16_384))
    assert got == [Frame(http2.WINDOW_UPDATE, 0, 0, http2.UINT32.pack(8 * MIB))]


async def test_messages_that_are_not_whole_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """On all connections; the one that is too much fails, and says that it may come again."""
    monkeypatch.setattr(call_queue, "MAX_UNFINISHED_BYTES", 1000)
    client = Client(max_message_bytes=200)
    await client.heard()
    part = message(bytes(150), length=200)
    got = await client.say(*(begun(stream) + data(part, stream, flags=0) for stream in range(1, 15, 2)))
    assert [client.status(got, one.stream)[0] for one in got if one.kind == http2.HEADERS] == [Code.UNAVAILABLE]
    client.connection.connection_lost(None)
    assert client.side.queue.unfinished_bytes == 0


async def test_calls_that_are_given_up_before_they_are_delivered(client: Client) -> None:
    """A reset in the same turn: nobody hears of the call."""
    cancel = frame(http2.RST_STREAM, 0, 1, http2.UINT32.pack(http2.CANCEL))
    assert await client.calls(begun(), data(message(b"")), cancel) == []
    assert client.side.gone == []


# --- time -------------------------------------------------------------------------------------------------------------


async def test_a_request_that_does_not_end_is_cut(client: Client) -> None:
    """Else a client could hold streams for ever; one that ends in time is not touched."""
    (call,) = await client.calls(begun(), data(message(b"abc")[:6], flags=0), begun(3), data(message(b""), stream=3))
    seconds = connection.STREAM_SECONDS
    client.connection.cut_slow_streams(0)
    client.connection.cut_slow_streams(seconds)
    assert await client.heard() == []
    client.connection.cut_slow_streams(seconds + 1)
    got = await client.heard()
    assert client.status(got) == (Code.DEADLINE_EXCEEDED, connection.TOO_SLOW)
    assert client.side.queue.unfinished_bytes == 0
    call.reply(b"")
    assert client.status(await client.heard(), 3)[0] == 0


async def test_an_answer_that_nobody_takes_is_dropped(client: Client) -> None:
    """A client that gives no window would have us keep it for ever."""
    await client.say(setting(http2.INITIAL_WINDOW_SIZE, 3))
    (call,) = await client.calls(begun(), data(message(b"")))
    call.reply(b"answer")
    await client.heard()
    client.connection.cut_slow_streams(0)
    client.connection.cut_slow_streams(connection.STREAM_SECONDS + 1)
    (reset,) = await client.heard()
    assert (reset.kind, reset.payload) == (http2.RST_STREAM, http2.UINT32.pack(http2.CANCEL))
    assert await client.say(http2.window_update(1, 1000)) == []


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A millisecond for each wait, so that a test sees its end."""
    monkeypatch.setattr(connection, "GREETING_SECONDS", 0.001)
    monkeypatch.setattr(socket, "UNREAD_SECONDS", 0.001)
    monkeypatch.setattr(socket, "CLOSE_SECONDS", 0.001)


async def cut(client: Client) -> bool:
    """Whether the connection is cut, given time."""
    await asyncio.sleep(0.05)
    return client.wire.closing


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("said", "stays"),
    [(b"", False), (http2.PREFACE[:5], False), (GREETING, False), (GREETING + frame(http2.SETTINGS, 1, 0), True)],
)
async def test_who_does_not_greet_or_take_our_settings_is_cut(said: bytes, stays: bool) -> None:
    """A connection that says nothing is none of a client; one that has greeted may be silent."""
    assert await cut(Client(greeting=said)) is not stays


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("reads", [False, True])
async def test_who_does_not_read_is_not_read_from_and_then_cut(reads: bool) -> None:
    """Until it has read, and for no longer than its time."""
    client = Client(greeting=GREETING + frame(http2.SETTINGS, 1, 0))
    client.connection.pause_writing()
    assert not client.wire.reads
    client.connection.read_on()
    assert not client.wire.reads, "another turn changes nothing of that"
    if reads:
        client.connection.resume_writing()
        assert client.wire.reads
    assert await cut(client) is not reads


# --- mistakes of ours -------------------------------------------------------------------------------------------------


async def test_a_mistake_costs_one_connection(client: Client) -> None:
    """Whatever is raised while a client's bytes are read: it is told, closed, and the loop goes on."""
    other = Client(client.side)
    client.connection._requests.methods = None  # type: ignore[assignment]
    assert ended(await client.say(begun(), data(message(b"")))) == http2.INTERNAL_ERROR
    assert client.wire.closing
    assert await other.calls(begun(), data(message(b"")))


async def test_a_mistake_about_one_call_that_is_gone_leaves_the_others(client: Client) -> None:
    """Each of a lost connection's calls is told, and the connection is forgotten."""
    await client.calls(begun(), data(message(b"")), begun(3), data(message(b""), stream=3))
    reported: list[Call] = []

    def clumsy(call: Call) -> None:
        reported.append(call)
        raise RuntimeError

    client.side.queue._cancelled = clumsy
    client.connection.connection_lost(None)
    assert len(reported) == 2
    assert client.side.queue.emptied.is_set()


def test_connections_leave_descriptors_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a limit of their own they stop before the process has no more of them, for its files and its workers."""
    for soft, most in ((1024, 896), (100, 50), (call_queue.resource.RLIM_INFINITY, 2**31)):
        monkeypatch.setattr(call_queue.resource, "getrlimit", lambda which, soft=soft: (soft, soft))
        assert call_queue.most_connections() == most
