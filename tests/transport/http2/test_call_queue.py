"""What a turn of the loop has room for, driven by bytes on real connections' protocol with a transport made by hand."""

import asyncio
from collections.abc import Callable

import pytest
from abfleet_transport.end_of_turn import end_of_turn
from abfleet_transport.http2 import call_queue, turns
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.call_queue import CALL_UNITS, MAX_CALLS, TURN_CALLS, CallQueue
from abfleet_transport.http2.connection import ServerConnection
from abfleet_transport.http2.forwarding import GrpcioBackend
from abfleet_transport.http2.turns import READ_UNITS
from abfleet_transport.plan import ServerPlan

METHOD = "/test.Echo/Say"


class Wire(asyncio.Transport):
    """Keeps what is written, and whether it is read from."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.reads = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += bytes(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


class Scene:
    """A queue of calls, its connections, and what it delivers."""

    def __init__(self) -> None:
        self.turns: list[list[bytes]] = []
        self.queue = CallQueue(
            ServerPlan(address="", methods=(METHOD,), add_services=lambda server: None, max_concurrent_streams=100_000),
            lambda calls: self.turns.append([call.payload for call in calls]),
            lambda call: None,
            GrpcioBackend(ServerPlan(address="", methods=(METHOD,), add_services=lambda server: None)),
        )

    def connected(self) -> tuple[ServerConnection, Wire]:
        """A client whose preface and settings were read."""
        connection, wire = ServerConnection(self.queue), Wire()
        connection.connection_made(wire)
        connection.data_received(http2.client_preface())
        return connection, wire


def calls(first: int, count: int) -> bytes:
    """So many calls on streams of their own, each with its number as the message."""
    block = http2.request_headers(METHOD, "localhost")
    frames = []
    for number in range(first, first + count):
        stream, message = 2 * number + 1, b"%d" % number
        frames.append(http2.frame(http2.HEADERS, http2.END_HEADERS, stream, block))
        body = http2.MESSAGE_PREFIX.pack(0, len(message)) + message
        frames.append(http2.frame(http2.DATA, http2.END_STREAM, stream, body))
    return b"".join(frames)


async def turn() -> None:
    """One turn of the loop."""
    await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Lets turns pass until the condition holds."""
    async with asyncio.timeout(60):
        while not condition():
            await turn()


async def test_a_turn_delivers_so_many_calls_and_the_next_one_the_rest() -> None:
    """In the order in which they came, none twice and none left."""
    scene = Scene()
    connection, _ = scene.connected()
    connection.data_received(calls(0, 2 * TURN_CALLS + 5))
    assert scene.queue.waiting_calls == 2 * TURN_CALLS + 5
    await until(lambda: len(scene.turns) == 3)
    assert [len(one) for one in scene.turns] == [TURN_CALLS, TURN_CALLS, 5]
    assert [payload for one in scene.turns for payload in one] == [b"%d" % n for n in range(2 * TURN_CALLS + 5)]


async def test_what_two_full_turns_have_made_goes_out_together() -> None:
    """Batches of a busy router are fuller so, and a call of a turn that is not full waits for nobody."""
    scene, sent = Scene(), list[int]()
    turn = end_of_turn(asyncio.get_running_loop())
    told = scene.turns
    scene.queue._deliver = lambda calls: (told.append([]), turn.add(lambda: sent.append(len(told))))[0]
    connection, _ = scene.connected()
    connection.data_received(calls(0, 2 * TURN_CALLS + 5))
    while len(told) < 3:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sent == [2, 2, 3]
    connection.data_received(calls(2 * TURN_CALLS + 5, 3))
    while len(told) < 4:
        await asyncio.sleep(0)
    assert sent == [2, 2, 3, 4], "in the turn itself"
    assert scene.queue.waiting_calls == 0


async def test_a_call_whose_caller_has_gone_is_not_delivered() -> None:
    """And nobody is told, for nobody knew of it."""
    scene = Scene()
    connection, _ = scene.connected()
    connection.data_received(calls(0, 3))
    connection.data_received(http2.frame(http2.RST_STREAM, 0, 3, http2.UINT32.pack(http2.CANCEL)))
    await until(lambda: bool(scene.turns))
    assert scene.turns == [[b"0", b"2"]]


async def test_after_a_pause_of_the_process_few_calls_are_no_queue() -> None:
    """However old the oldest is: they have their turn at once, and so have those that come."""
    scene = Scene()
    connection, wire = scene.connected()
    now = 1000.0
    scene.queue.clock = lambda: now
    connection.data_received(calls(0, 10))
    now += 10.0
    connection.data_received(calls(10, 4))
    await until(lambda: bool(scene.turns))
    assert scene.turns == [[b"%d" % n for n in range(14)]]
    assert b"retry-pushback-ms" not in wire.sent


async def test_a_turn_reads_so_much_and_goes_on_in_the_next() -> None:
    """A connection that has brought enough is not read from again in the same turn, others have little room, and all
    are read on afterwards."""
    scene = Scene()
    (greedy, wire), (other, other_wire) = scene.connected(), scene.connected()
    data, room = calls(0, READ_UNITS // CALL_UNITS), len(scene.queue.turns.buffer)
    for start in range(0, len(data), room):
        part = data[start : start + room]
        greedy.get_buffer(-1)[: len(part)] = part
        greedy.buffer_updated(len(part))
    assert not wire.reads
    assert len(scene.queue.turns.buffer) == turns.FULL_TURN_BYTES < room
    more = calls(0, 1)
    other.get_buffer(-1)[: len(more)] = more
    other.buffer_updated(len(more))
    assert not other_wire.reads
    await until(lambda: wire.reads and other_wire.reads)
    assert len(scene.queue.turns.buffer) == room


@pytest.mark.parametrize("why", ["too old", "too many"])
async def test_what_cannot_have_its_turn_is_refused_at_once(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """RESOURCE_EXHAUSTED with a pushback, counted, never delivered; those that were there before keep their turn."""
    scene = Scene()
    connection, wire = scene.connected()
    now = 1000.0
    scene.queue.clock = lambda: now
    monkeypatch.setattr(call_queue, "MANY_CALLS", 10)
    monkeypatch.setattr(call_queue, "MAX_CALLS", 10 if why == "too many" else MAX_CALLS)
    connection.data_received(calls(0, 10))
    if why == "too old":
        now += call_queue.LONGEST_WAIT_SECONDS + 0.001
    connection.data_received(calls(10, 4))
    await until(lambda: bool(scene.turns) and b"retry-pushback-ms" in wire.sent)
    assert scene.turns == [[b"%d" % n for n in range(10)]]
    assert scene.queue.counts.refused == 4
    assert wire.sent.count(b"grpc-retry-pushback-ms") == 4
    families = {family.name: family for family in scene.queue.families()}
    assert families["abfleet_refused_unread"].samples[0].value == 4
    connection.data_received(calls(14, 1))
    await until(lambda: len(scene.turns) == 2)
    assert scene.turns[1] == [b"14"]
