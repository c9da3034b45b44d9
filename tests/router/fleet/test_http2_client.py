"""The wire to a worker, without a socket: calls, windows, pings, endings."""

import asyncio
import weakref

import hpack
import pytest
from abfleet_router.fleet.http2_client import DEAD_AFTER_CHECKS, DEAD_ALONE_AFTER_CHECKS, PING_AFTER_CHECKS
from abfleet_router.fleet.http2_client_stream import ClientStream, RpcFailed
from abfleet_transport.call import Code
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.frames import frame
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.router.peer import OK_HEADERS, Peer, failure
from tests.support.frames import Frame
from tests.support.header_fields import fields_of
from tests.transport.http2_client import Client, begun, data, message


async def test_a_call_and_its_answer(peer: Peer) -> None:
    """One HEADERS and one DATA frame out; the message back; each call a stream of its own."""
    first, second = peer.call(b"one"), peer.call(b"two", None)
    out = peer.wire.frames()
    assert [(one.kind, one.stream) for one in out] == [(1, 1), (0, 1), (1, 3), (0, 3)]
    assert fields_of(out[0].payload)["grpc-timeout"] == "500m"
    assert "grpc-timeout" not in fields_of(out[2].payload)
    assert (out[1].payload, out[1].flags) == (b"\x00\x00\x00\x00\x03one", http2.END_STREAM)
    peer.answer(3, b"second")
    peer.answer(1, b"first")
    assert (await first.done, await second.done) == (b"first", b"second")


@pytest.mark.parametrize(
    ("status", "text", "code", "says"),
    [
        (14, "going", Code.UNAVAILABLE, "going"),
        (8, "100%25 full", Code.RESOURCE_EXHAUSTED, "100% full"),
        (13, "", Code.INTERNAL, "no message"),
        (99, "odd", Code.UNKNOWN, "odd"),
    ],
)
async def test_a_status_is_told(peer: Peer, status: int, text: str, code: Code, says: str) -> None:
    """The code where it is one, and the worker's words, which are percent-encoded on the wire."""
    stream = peer.call()
    peer.answer(1, b"", status, text)
    error = await failure(stream)
    assert (error.code, error.connection_broke) == (code, False)
    assert says in str(error)


async def test_endings_without_an_answer(peer: Peer) -> None:
    """Only trailers; trailers without status; OK without a message; an HTTP error: each fails its own call alone."""
    calls = [peer.call() for _ in range(5)]
    peer.say(peer.headers(1, [*OK_HEADERS, ("grpc-status", "12")], end=True))
    peer.say(peer.headers(3, OK_HEADERS), peer.headers(3, [("a", "b")], end=True))
    peer.say(peer.headers(5, [*OK_HEADERS, ("grpc-status", "0")], end=True))
    peer.say(peer.headers(7, [(":status", "502")], end=True))
    assert [(await failure(call)).code for call in calls[:4]] == [
        Code.UNIMPLEMENTED,
        Code.UNKNOWN,
        Code.INTERNAL,
        Code.UNAVAILABLE,
    ]
    assert "502" in str(await failure(calls[3]))
    peer.answer(9, b"fine")
    assert await calls[4].done == b"fine"


async def test_an_answer_in_pieces(peer: Peer) -> None:
    """Any number of DATA frames, padded ones too, and a header block that is continued."""
    stream = peer.call()
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    block = encoder.encode(OK_HEADERS)
    message = b"a long answer" * 10
    data = http2.MESSAGE_PREFIX.pack(0, len(message)) + message
    peer.say(frame(http2.HEADERS, 0, 1, block[:3]), frame(http2.CONTINUATION, 0, 1, block[3:5]))
    peer.say(frame(http2.CONTINUATION, http2.END_HEADERS, 1, block[5:]))
    for begin in range(0, len(data), 7):
        piece = data[begin : begin + 7]
        peer.say(frame(http2.DATA, http2.PADDED, 1, b"\x03" + piece + b"\x00" * 3))
    peer.say(peer.headers(1, [("grpc-status", "0")], end=True))
    assert await stream.done == message


async def test_cancelling_resets_the_stream_and_nothing_else(peer: Peer) -> None:
    """The worker hears of it; what it had sent already is dropped; the neighbour is answered."""
    gone, stays = peer.call(), peer.call()
    peer.wire.frames()
    peer.give_up(gone)
    assert [(one.kind, one.stream) for one in peer.wire.frames()] == [(http2.RST_STREAM, 1)]
    peer.answer(1, b"late")
    peer.answer(3, b"fine")
    assert await stays.done == b"fine"
    assert not gone.done.done(), "nobody is told"


async def test_a_ping_is_answered_and_settings_are_acknowledged(peer: Peer) -> None:
    """Else the worker takes the connection for dead."""
    peer.say(frame(http2.PING, 0, 0, b"12345678"), frame(http2.SETTINGS, 0, 0), frame(http2.SETTINGS, http2.ACK, 0))
    assert peer.wire.frames() == [
        Frame(http2.PING, http2.ACK, 0, b"12345678"),
        Frame(http2.SETTINGS, http2.ACK, 0, b""),
    ]


def pings(peer: Peer) -> int:
    """How many were sent since the last call."""
    return sum(got.kind == http2.PING for got in peer.wire.frames())


async def test_a_worker_that_says_nothing_is_asked_and_given_up(peer: Peer) -> None:
    """A process that is stopped closes nothing: an unanswered ping after a silent call breaks the connection."""
    for _ in range(100):
        peer.connection.check_liveness()
    assert pings(peer) == 0, "nothing is owed"
    stream = peer.call()
    for _ in range(PING_AFTER_CHECKS):
        assert pings(peer) == 0
        peer.connection.check_liveness()
    assert pings(peer) == 1
    for _ in range(DEAD_AFTER_CHECKS - PING_AFTER_CHECKS):
        assert peer.lost == 0
        peer.connection.check_liveness()
    assert peer.lost == 1
    assert (await failure(stream)).connection_broke


async def test_the_last_worker_is_given_more_time(peer: Peer) -> None:
    """Its calls have nowhere else to go: a pause that others would not survive is no reason to fail them."""
    peer.call()
    for _ in range(DEAD_ALONE_AFTER_CHECKS):
        assert peer.lost == 0
        peer.connection.check_liveness(alone=True)
    assert peer.lost == 1


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_worker_that_answers_the_ping_is_only_slow(peer: Peer, cancelled: bool) -> None:
    """It lives, so the connection stays; it is not asked again before it has said something else, because servers hang
    up on clients that only ping. A call that is given up meanwhile changes nothing of that."""
    stream = peer.call()
    if cancelled:
        peer.give_up(stream)
    for _ in range(PING_AFTER_CHECKS):
        peer.connection.check_liveness()
    assert pings(peer) == 1
    peer.say(frame(http2.PING, http2.ACK, 0, bytes(8)))
    another = peer.call()
    for _ in range(5 * DEAD_AFTER_CHECKS):
        peer.connection.check_liveness()
    assert (pings(peer), peer.lost) == (0, 0)
    peer.answer(another.stream_id, b"late")
    assert await another.done == b"late"
    peer.call()
    for _ in range(PING_AFTER_CHECKS):
        peer.connection.check_liveness()
    assert pings(peer) == 1


async def test_a_stream_of_messages_may_be_silent(peer: Peer) -> None:
    """A health watch says nothing for as long as nothing changes: nobody pings for that."""
    stream = peer.watch(lambda message: None)
    peer.say(peer.headers(stream.stream_id, OK_HEADERS))
    for _ in range(5 * DEAD_AFTER_CHECKS):
        peer.connection.check_liveness()
    assert (pings(peer), peer.lost) == (0, 0)


async def test_a_worker_that_says_goodbye(peer: Peer) -> None:
    """After GOAWAY what it has begun is answered, what it has not may go elsewhere uncounted, then the line closes."""
    begun, not_begun = peer.call(), peer.call()
    peer.say(http2.goaway(1, http2.NO_ERROR))
    error = await failure(not_begun)
    assert (error.code, error.unsent, error.connection_broke) == (Code.UNAVAILABLE, True, False)
    assert (peer.left, peer.lost) == (1, 0)
    with pytest.raises(RpcFailed) as caught:
        peer.call()
    assert caught.value.unsent
    assert not peer.wire.closed
    peer.answer(1, b"fine")
    assert await begun.done == b"fine"
    assert peer.wire.closed


async def test_a_connection_that_ends_after_a_goodbye_proves_nothing(peer: Peer) -> None:
    """What was under way has no answer, but the worker is there for others."""
    begun = peer.call()
    peer.say(http2.goaway(http2.MAX_WINDOW, http2.NO_ERROR))
    peer.connection.connection_lost(None)
    error = await failure(begun)
    assert (error.code, error.unsent, error.connection_broke) == (Code.UNAVAILABLE, False, False)
    assert (peer.left, peer.lost) == (1, 1)


@pytest.mark.parametrize("code", range(14))
async def test_a_stream_that_is_reset(peer: Peer, code: int) -> None:
    """It ends one call and no connection; REFUSED_STREAM says that it was never begun (RFC 9113, 8.7)."""
    reset, stays = peer.call(), peer.call()
    peer.say(http2.reset(1, code))
    error = await failure(reset)
    assert (error.code, error.connection_broke) == (Code.UNAVAILABLE, False)
    assert error.unsent is (code == http2.REFUSED_STREAM)
    peer.answer(3, b"fine")
    assert await stays.done == b"fine"
    assert (peer.left, peer.lost, peer.connection.usable) == (0, 0, True)


@pytest.mark.parametrize(
    ("ending", "usable"),
    [
        (http2.reset(1, http2.CANCEL), True),
        (frame(http2.DATA, 0, 1, b"too early"), True),
        (http2.goaway(0, http2.NO_ERROR), False),
        (frame(http2.PING, 0, 0, bytes(7)), False),
    ],
)
async def test_who_hears_of_an_end_may_call_again(peer: Peer, ending: bytes, usable: bool) -> None:
    """At once, on the same connection: by then it knows whether it takes calls, and what it carries stays in order."""
    said: list[str] = []

    def again(outcome: bytes | RpcFailed) -> None:
        try:
            peer.connection.call("/s/m", b"again", 0.5, lambda outcome: said.append("ended"))
        except RpcFailed as error:
            said.append("refused" if error.unsent else "failed")
        else:
            said.append("begun")

    peer.connection.call("/s/m", b"first", 0.5, again)
    peer.say(ending)
    assert said == (["begun"] if usable else ["refused"])
    if usable:
        peer.answer(3, b"fine")
        assert said == ["begun", "ended"]


@pytest.mark.parametrize("end", ["lost", "closed"])
async def test_a_connection_that_breaks(peer: Peer, end: str) -> None:
    """Calls under way fail at once as UNAVAILABLE on a broken connection, and it is told once."""
    stream = peer.call()
    if end == "lost":
        peer.connection.connection_lost(ConnectionResetError("reset by peer"))
        peer.connection.connection_lost(None)
    else:
        peer.connection.close()
    error = await failure(stream)
    assert (error.code, error.connection_broke) == (Code.UNAVAILABLE, True)
    assert peer.lost == 1


async def test_a_compressed_answer_fails_its_call(peer: Peer) -> None:
    """Compression was not offered; the caller is told at once, not when its time is up, and no other call is."""
    stream, stays = peer.call(), peer.call()
    data = http2.MESSAGE_PREFIX.pack(1, 3) + b"abc"
    peer.say(peer.headers(1, OK_HEADERS), frame(http2.DATA, 0, 1, data))
    peer.say(peer.headers(1, [("grpc-status", "0")], end=True))
    assert "compressed" in str(await failure(stream))
    peer.answer(3, b"fine")
    assert await stays.done == b"fine"


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 200_000), min_size=1, max_size=3),
    st.integers(16_384, 40_000),
    st.integers(0, 100_000),
    st.lists(st.tuples(st.sampled_from([0, 1, 3, 5]), st.integers(1, 60_000)), max_size=20),
)
async def test_windows_are_kept(sizes: list[int], most: int, first_window: int, updates: list[tuple[int, int]]) -> None:
    """Never more than connection, stream and frame allow, in order, and all of it once there is room."""
    peer = Peer()
    changed = ((http2.INITIAL_WINDOW_SIZE, first_window), (http2.MAX_FRAME_SIZE, most))
    peer.say(frame(http2.SETTINGS, 0, 0, b"".join(http2.SETTING.pack(*one) for one in changed)))
    messages = [bytes([number]) * size for number, size in enumerate(sizes, 65)]
    for text in messages:
        peer.call(text)
    room = {0: http2.DEFAULT_WINDOW} | {1 + 2 * number: first_window for number in range(len(sizes))}
    sent: dict[int, bytes] = dict.fromkeys(room, b"")
    ended: set[int] = set()
    for stream, more in [*updates, (0, 2**20), *((stream, 2**20) for stream in room if stream)]:
        for got in peer.wire.frames():
            if got.kind == http2.DATA:
                assert len(got.payload) <= most
                assert got.stream not in ended
                room[0] -= len(got.payload)
                room[got.stream] -= len(got.payload)
                sent[got.stream] += got.payload
                ended |= {got.stream} if got.flags & http2.END_STREAM else set()
                assert min(room[0], room[got.stream]) >= 0
        if stream in room:
            room[stream] += more
            peer.say(http2.window_update(stream, more))
    for got in peer.wire.frames():
        if got.kind == http2.DATA:
            sent[got.stream] += got.payload
            ended |= {got.stream} if got.flags & http2.END_STREAM else set()
    for number, text in enumerate(messages):
        assert sent[1 + 2 * number] == http2.MESSAGE_PREFIX.pack(0, len(text)) + text
    assert ended == set(room) - {0}
    peer.connection.close()


async def test_a_stream_of_messages(peer: Peer) -> None:
    """A health watch hears each message as it comes, however they are cut, until the stream ends."""
    heard: list[bytes] = []
    stream = peer.watch(heard.append)
    data = b"".join(http2.MESSAGE_PREFIX.pack(0, len(one)) + one for one in (b"one", b"", b"three"))
    peer.say(peer.headers(1, OK_HEADERS), frame(http2.DATA, 0, 1, data[:6]))
    assert heard == []
    peer.say(frame(http2.DATA, 0, 1, data[6:10]))
    assert heard == [b"one"]
    peer.say(frame(http2.DATA, 0, 1, data[10:]))
    assert heard == [b"one", b"", b"three"]
    peer.say(peer.headers(1, [("grpc-status", "0")], end=True))
    assert stream.done.done()


@pytest.mark.parametrize("answered", [True, False])
async def test_a_call_that_has_ended_is_freed_at_once(peer: Peer, answered: bool) -> None:
    """Not by the garbage collector: who waits for it has the stream, which has who waits, until it has ended."""

    class Waiting:
        stream: ClientStream

        def on_end(self, outcome: object) -> None:
            self.outcome = outcome

    waiting = Waiting()
    waiting.stream = peer.connection.call("/s/m", b"", None, waiting.on_end)
    freed = weakref.ref(waiting)
    if answered:
        peer.answer(1, b"x")
    else:
        peer.connection.cancel(waiting.stream)
    del waiting
    assert freed() is None


async def test_answers_to_callers_go_out_with_the_workers_bytes_that_brought_them(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same turn of the loop, which is asked for nothing."""
    client = Client()
    calls = await client.calls(*(begun(stream) + data(message(b"x"), stream=stream) for stream in (1, 3)))
    await client.heard()
    for call in calls:
        peer.connection.call("/s/m", b"", None, lambda outcome, call=call: call.reply(outcome))  # type: ignore[misc]
    with monkeypatch.context() as patched:
        patched.setattr(asyncio.get_running_loop(), "call_soon", None)
        peer.answer(1, b"one")
    assert [got.stream for got in client.wire.frames()] == [1, 1, 1]
    peer.answer(3, b"two")
    assert [got.stream for got in client.wire.frames()] == [3, 3, 3]
