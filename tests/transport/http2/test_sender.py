"""Answers on a connection to our own HTTP/2 server, without a socket: windows, late answers, and the drain."""

import asyncio
import threading
import weakref

import pytest
from abfleet_transport.call import Call, Code
from abfleet_transport.end_of_turn import end_of_turn
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2 import sender, socket
from abfleet_transport.http2.flow_control import FlowControl
from abfleet_transport.http2.frames import frame
from abfleet_transport.http2.sender import DRAIN_PING
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.frames import Frame
from tests.transport.http2_client import Client, begun, data, message, setting


@pytest.fixture
async def client() -> Client:
    """One that has greeted, and read the greeting."""
    one = Client()
    await one.heard()
    return one


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 100_000), min_size=1, max_size=3),
    st.integers(16_384, 40_000),
    st.lists(st.integers(0, 70_000), min_size=1, max_size=3),
    st.lists(st.tuples(st.sampled_from([0, 1, 3, 5]), st.integers(1, 60_000)), max_size=20),
)
async def test_windows_are_kept(
    sizes: list[int], most: int, windows: list[int], updates: list[tuple[int, int]]
) -> None:
    """Never more than connection, stream and frame allow, in order, and all of it once there is room. Windows that a
    setting makes smaller while an answer is under way may become negative."""
    client = Client(greeting=http2.PREFACE + setting(http2.MAX_FRAME_SIZE, most))
    stream_window, *changes = windows
    await client.say(setting(http2.INITIAL_WINDOW_SIZE, stream_window))
    streams = [1 + 2 * number for number in range(len(sizes))]
    answers = {stream: bytes([stream]) * size for stream, size in zip(streams, sizes, strict=True)}
    room = {0: 65_535} | dict.fromkeys(streams, stream_window)
    sent = dict.fromkeys(streams, b"")
    over: set[int] = set()

    def read(frames: list[Frame]) -> None:
        for got in frames:
            assert got.stream not in over
            if got.kind == http2.DATA:
                assert 0 < len(got.payload) <= most
                room[0] -= len(got.payload)
                room[got.stream] -= len(got.payload)
                assert min(room[0], room[got.stream]) >= 0
                sent[got.stream] += got.payload
            elif got.flags & http2.END_STREAM and got.kind == http2.HEADERS:
                over.add(got.stream)

    for call in await client.calls(*(begun(stream) + data(message(b""), stream) for stream in streams)):
        call.reply(answers[call.stream])  # type: ignore[attr-defined]
    read(await client.heard())
    for change in changes:
        for stream in streams:
            room[stream] += change - stream_window
        stream_window = change
        read(await client.say(setting(http2.INITIAL_WINDOW_SIZE, change)))
    for stream, more in [*updates, (0, 2**20), *((stream, 2**20) for stream in streams)]:
        if stream in room and stream not in over:
            room[stream] += more
            read(await client.say(http2.window_update(stream, more)))
    assert over == set(streams)
    assert sent == {stream: message(answer) for stream, answer in answers.items()}
    client.connection.connection_lost(None)


async def test_a_small_window_for_all_does_not_make_us_visit_all(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of answers wait for their own windows: what is said of the connection's costs nothing for them."""
    await client.say(setting(http2.INITIAL_WINDOW_SIZE, 0))
    streams = range(1, 101, 2)
    for call in await client.calls(*(begun(stream) + data(message(b""), stream) for stream in streams)):
        call.reply(b"answer")
    await client.heard()
    visited: list[object] = []
    monkeypatch.setattr(FlowControl, "send", lambda self, buffer: visited.append(buffer))
    assert await client.say(http2.window_update(0, 1) * 100) == []
    assert visited == []


async def test_an_answer_from_a_thread_when_the_loop_has_ended() -> None:
    """It does nothing: a worker's answer may be late by more than the process has left."""
    calls: list[Call] = []

    async def served() -> None:
        client = Client()
        calls.extend(await client.calls(begun(), data(message(b""))))

    thread = threading.Thread(target=lambda: asyncio.run(served()))
    thread.start()
    thread.join()
    calls[0].reply(b"late")
    calls[0].fail(Code.INTERNAL, "later")


# --- drain ------------------------------------------------------------------------------------------------------------

PONG = frame(http2.PING, http2.ACK, 0, DRAIN_PING)
WATCH = http2.request_headers("/grpc.health.v1.Health/Watch", "server")
RECORD = http2.request_headers("/Feedback/Record", "server")


def goaways(frames: list[Frame]) -> list[int]:
    """The last streams of what says goodbye."""
    return [http2.uint31(got.payload) for got in frames if got.kind == http2.GOAWAY]


async def test_a_drain_loses_no_call(client: Client) -> None:
    """What is under way when the client is told is taken and answered; what comes after its PING came back is not
    read, which the client knows; the connection ends after the last answer, when the client has read it."""
    calls = await client.calls(begun(), data(message(b"1")))
    client.connection.drain()
    got = await client.heard()
    assert goaways(got) == [2**31 - 1]
    assert Frame(http2.PING, 0, 0, DRAIN_PING) in got
    calls += await client.calls(begun(3), data(message(b"2"), stream=3))
    assert goaways(await client.say(PONG)) == [3]
    assert await client.say(begun(5), data(message(b"3"), stream=5), frame(http2.RST_STREAM, 0, 5, bytes(4))) == []
    assert client.side.calls == []
    calls[1].reply(b"b")
    assert client.status(await client.heard(), 3)[0] == 0
    assert not client.wire.ended
    calls[0].reply(b"a")
    assert client.status(await client.heard())[0] == 0
    assert client.wire.ended
    assert not client.wire.closing, "to close now could cost the client the answer"
    assert await client.say(frame(http2.PING, 0, 0, bytes(8))) == []


@pytest.mark.parametrize("way", ["reset", "window"])
async def test_a_drain_ends_when_the_last_call_does(client: Client, way: str) -> None:
    """Given up by its caller, or answered once there is a window for it."""
    await client.say(setting(http2.INITIAL_WINDOW_SIZE, 0))
    (call,) = await client.calls(begun(), data(message(b"")))
    client.connection.drain()
    await client.say(PONG)
    if way == "reset":
        await client.say(frame(http2.RST_STREAM, 0, 1, bytes(4)))
    else:
        call.reply(b"answer")
        await client.heard()
        assert not client.wire.ended
        assert client.status(await client.say(http2.window_update(1, 100)))[0] == 0
    assert client.wire.ended


async def test_a_drain_does_not_wait_for_those_that_watch(client: Client) -> None:
    """A watch of health lasts as long as its client likes; other forwarded streams end with an answer."""
    await client.say(begun(1, WATCH, flags=5), begun(3, RECORD), data(message(b""), stream=3))
    client.connection.drain()
    await client.say(PONG)
    assert not client.wire.ended
    other = client.connection.streams[3]
    client.connection._sender.begin(other)  # type: ignore[arg-type]
    await client.heard()
    assert not client.wire.ended, "its end is still missing"
    client.connection._sender.end(other, http2.frame(http2.HEADERS, 5, 3, b"\x88"), whole=True)  # type: ignore[arg-type]
    await client.heard()
    assert client.wire.ended


async def test_a_client_that_answers_no_ping_or_does_not_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dead or stopped, it holds nothing up for long."""
    monkeypatch.setattr(sender, "PONG_SECONDS", 0.001)
    monkeypatch.setattr(socket, "CLOSE_SECONDS", 0.001)
    client = Client()
    client.connection.drain()
    await asyncio.sleep(0.05)
    assert goaways(await client.heard()) == [2**31 - 1, 0]
    assert client.wire.ended
    assert client.wire.closing


async def test_a_connection_that_comes_while_the_server_goes(client: Client) -> None:
    """It was accepted at the last moment: it is drained like the others."""
    client.side.queue.draining = True
    late = Client(client.side)
    assert goaways(await late.heard()) == [2**31 - 1]


class Owner:
    """As a router's: it has the call that has it."""

    call: Call


@pytest.mark.parametrize("end", ["reply", "fail"])
async def test_a_call_that_is_answered_is_freed_at_once(client: Client, end: str) -> None:
    """Not by the garbage collector, with its owner: under load there would be thousands of them, and cold memory."""
    (call,) = await client.calls(begun(), data(message(b"")))
    call.owner = owner = Owner()
    owner.call = call
    freed = weakref.ref(owner)
    if end == "reply":
        call.reply(b"answer")
    else:
        call.fail(Code.INTERNAL, "no")
    del owner, call
    assert freed() is None


async def test_what_is_answered_at_delivery_goes_out_in_the_same_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker with a quick model, and a router that refuses: the loop is not asked for a turn for the write alone."""
    client = Client()
    await client.heard()
    client.side.queue._deliver = lambda calls: [call.reply(b"answer") for call in calls]  # type: ignore[assignment, return-value]
    client.connection.data_received(begun() + data(message(b"")))
    assert client.wire.frames() == []
    with monkeypatch.context() as patched:
        patched.setattr(asyncio.get_running_loop(), "call_soon", None)
        client.side.queue.turns._turn()
    assert [got.kind for got in client.wire.frames()] == [http2.HEADERS, http2.DATA, http2.HEADERS]


async def test_what_is_written_between_the_beginning_and_the_end_of_a_turn_goes_out_then(client: Client) -> None:
    """Before that nothing does, and it is one write for a connection, also where the turn has failed."""
    first, second = await client.calls(begun(), data(message(b"")), begun(3), data(message(b""), stream=3))
    turn = end_of_turn(asyncio.get_running_loop())
    turn.begin()
    first.reply(b"1")
    second.reply(b"2")
    assert client.wire.written == b""
    turn.end()
    assert [got.stream for got in client.wire.frames()] == [1, 1, 1, 3, 3, 3]
