"""What a client may have us do that serves no call: the buckets by themselves, and connections that use them up."""

import asyncio

import pytest
from abfleet_transport.http2 import allowance, turns
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.allowance import (
    BURST_UNITS,
    FREE_UNITS,
    UNITS_A_SECOND,
    Allowance,
    ClientAddress,
    ClientAddresses,
    spent,
)
from abfleet_transport.http2.frames import frame
from abfleet_transport.http2.socket import host_of
from hypothesis import given
from hypothesis import strategies as st

from tests.support.frames import FrameReader
from tests.support.http2_wire import ServerSide
from tests.transport.http2_client import HEAD, PATH, Client, begun, data, ended, message, setting

HUFFMAN = b"\x00\x01x" + http2.integer(8190, 7).replace(b"\x7f", b"\xff", 1) + b"\x00" * 8190
"""A field whose value is coded: of zeros, each five bits."""


@given(st.lists(st.tuples(st.integers(-500, 3000), st.floats(0, 1)), max_size=50))
def test_a_bucket(moves: list[tuple[int, float]]) -> None:
    """It never holds more than a burst, fills with time, and owes no more than a burst."""
    now, bucket = 100.0, Allowance(100.0)
    for units, seconds in moves:
        before, now = bucket.units, now + seconds
        good = bucket.spend(units, now)
        assert -BURST_UNITS <= bucket.units <= BURST_UNITS
        assert bucket.units <= before + seconds * UNITS_A_SECOND - units + 1e-6 or units < 0
        assert good == (bucket.units >= 0)


def test_many_may_not_do_together_what_one_may_not() -> None:
    """Each of them is cut once it has taken part in using up what they share; one that has not is left alone."""
    address = ClientAddress(0.0)
    greedy, honest = [Allowance(0.0) for _ in range(200)], Allowance(0.0)
    for own in greedy:
        if spent(own, address, FREE_UNITS + 1, 0, 0.0)[0]:
            break
    else:
        raise AssertionError("nobody was cut")
    assert spent(honest, address, FREE_UNITS, 0, 0.0) == (False, False)
    assert spent(honest, address, 1, 0, 0.0)[0], "but it, too, may only owe so much meanwhile"
    assert not spent(honest, address, -8, 0, 3.0)[0]


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.1:5000", "10.0.0.1"),
        ("ipv6:[2001:db8:1:2:3:4:5:6]:5000", "2001:db8:1:2::/64"),
        ("ipv6:[::1]:5000", "::/64"),
        ("ipv6:[::ffff:10.0.0.1]:5000", "::ffff:10.0.0.1"),
        ("unix:", ""),
    ],
)
def test_the_address_of_a_client(peer: str, host: str) -> None:
    """Without its port; one customer of a provider has a whole network of IPv6."""
    assert host_of(peer) == host


REFUSED = begun(head=http2.request_headers(PATH, "server", ("grpc-timeout", "x")), flags=5)


def numbered(request: bytes, count: int = 3000) -> bytes:
    """The same request again and again, each on a stream of its own; it has one stream in its frames."""
    frames = list(FrameReader(2**24).feed(request))
    return b"".join(
        frame(one.kind, one.flags, 2 * number + 3, one.payload) for number in range(count) for one in frames
    )


FLOODS = {
    "window updates": http2.window_update(0, 1) * 30_000,
    "window updates of a stream": begun() + http2.window_update(1, 1) * 30_000,
    "settings": frame(http2.SETTINGS, 0, 0) * 10_000,
    "settings of many values": frame(http2.SETTINGS, 0, 0, http2.SETTING.pack(0xFF, 1) * 2700) * 20,
    "acknowledgements": frame(http2.SETTINGS, http2.ACK, 0) * 10_000,
    "pings": frame(http2.PING, 0, 0, bytes(8)) * 20_000,
    "pongs": frame(http2.PING, http2.ACK, 0, bytes(8)) * 20_000,
    "priorities": frame(http2.PRIORITY_FRAME, 0, 1, bytes(5)) * 30_000,
    "unknown frames": frame(0x20, 0, 0) * 30_000,
    "goodbyes": http2.goaway(0, 0) * 30_000,
    "empty data": begun() + data(b"", flags=0) * 30_000,
    "padded data": begun() + data(b"\x00", flags=http2.PADDED) * 15_000,
    "data of a byte": begun() + data(message(bytes(30_000))[:5], flags=0) + data(b"\0", flags=0) * 30_000,
    "data of refused requests": begun(head=b"\x82") + data(b"", flags=0) * 30_000,
    "refused requests": numbered(REFUSED),
    "malformed requests": numbered(begun(head=HEAD + b"\x00\x01X\x011", flags=5)),
    "requests that are no gRPC": numbered(begun(head=HEAD.replace(b"\x83", b"\x82"), flags=5)),
    "broken messages": numbered(begun() + data(b"\0\0\0\0\x09abc")),
    "too large messages": numbered(begun() + data(b"\0\x7f\0\0\0", flags=0)),
    "4,000 fields": numbered(begun(head=HEAD + b"\x00\x01x\x011" * 3200, flags=5), 100),
    "huffman": numbered(begun(head=HEAD + HUFFMAN, flags=4), 100),
    "rapid resets": numbered(begun() + data(message(b"x")) + http2.reset(1, http2.CANCEL)),
    "resets of what has begun": numbered(begun() + http2.reset(1, http2.CANCEL)),
    "continuations": begun(flags=0) + frame(http2.CONTINUATION, 0, 1) * 30_000,
}


@pytest.mark.parametrize("acknowledged", [True, False])
@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_is_cut(name: str, acknowledged: bool) -> None:
    """With ENHANCE_YOUR_CALM, and counted; a neighbour of the same address is not touched."""
    side = ServerSide((PATH,))
    honest, attacker = Client(side), Client(side)
    if acknowledged:
        await attacker.say(frame(http2.SETTINGS, http2.ACK, 0))
    await attacker.heard()
    attacker.connection.data_received(FLOODS[name])
    assert ended(await attacker.heard()) == http2.ENHANCE_YOUR_CALM
    assert side.queue.counts.cuts == {"flood": 1}
    side.calls.clear()
    (call,) = await honest.calls(begun(), data(message(b"x")))
    assert call.payload == b"x"


@pytest.mark.parametrize("name", ["window updates", "settings", "pings", "refused requests", "rapid resets"])
async def test_a_flood_of_many_connections_is_cut(name: str) -> None:
    """Each sends what would be little for one; together it is a flood."""
    side = ServerSide((PATH,))
    attackers = [Client(side) for _ in range(60)]
    part = FLOODS[name][: len(FLOODS[name]) // 25]
    codes = [ended(await one.say(part)) for one in attackers]
    assert codes.count(http2.ENHANCE_YOUR_CALM) > 20
    assert set(codes) <= {http2.ENHANCE_YOUR_CALM, None}
    again = Client(side)
    assert again.connection.account.suspect, "who comes from there next is read from last"


async def test_answers_that_nobody_takes_are_a_flood() -> None:
    """A client that gives its streams no window, and calls and calls."""
    client = Client()
    await client.say(setting(http2.INITIAL_WINDOW_SIZE, 0))
    for stream in range(1, 4001, 2):
        for call in await client.calls(begun(stream), data(message(b"x"), stream=stream)):
            call.reply(b"answer")
        if client.connection.closed:
            break
    assert client.side.queue.counts.cuts == {"flood": 1}


async def test_calls_pay_for_what_belongs_to_them() -> None:
    """Windows, pings and cancelled calls of a client that is answered are no flood, at any rate."""
    client = Client()
    for stream in range(1, 30_001, 10):
        streams = range(stream, stream + 10, 2)
        calls = await client.calls(
            *(begun(one) + data(message(b"x"), stream=one) + http2.window_update(one, 5) for one in streams),
            http2.window_update(0, 25) * 5,
            frame(http2.PING, 0, 0, bytes(8)) * 2,
        )
        for call in calls[:-1]:
            call.reply(b"answer")
        await client.say(http2.reset(stream + 8, http2.CANCEL))
    assert client.side.queue.counts.cuts == {}
    assert not client.connection.account.suspect


async def test_a_long_header_block_that_leads_to_an_answer_is_paid_back() -> None:
    """A caller with a large token in each call is no flood."""
    client = Client()
    await client.say(frame(http2.SETTINGS, http2.ACK, 0))
    for stream in range(1, 401, 2):
        head = http2.request_headers(PATH, "server", ("authorization", f"{stream}" * 2000))
        (call,) = await client.calls(begun(stream, head), data(message(b"x"), stream=stream))
        call.reply(b"answer")
    assert client.side.queue.counts.cuts == {}


def called(stream: int, client: int) -> bytes:
    """The header block of one call, as no other has it."""
    return begun(stream, http2.request_headers(PATH, "server", ("x-user-id", f"{client:0>20}-{stream:0>20}")))


def promised(side: ServerSide) -> int:
    """Units of requests from the address of all clients whose messages are on their way."""
    return side.queue.addresses._addresses["127.0.0.1"].promised


@pytest.mark.parametrize("acknowledged", [True, False])
async def test_first_calls_on_many_new_connections_are_no_flood(acknowledged: bool) -> None:
    """Many clients send all header blocks of their first calls before the messages: none is refused."""
    side = ServerSide((PATH,))
    clients = [Client(side) for _ in range(60)]
    for number, one in enumerate(clients):
        if acknowledged:
            await one.say(frame(http2.SETTINGS, http2.ACK, 0))
        one.connection.data_received(b"".join(called(stream, number) for stream in range(1, 101, 2)))
    assert promised(side) > BURST_UNITS
    assert any(one.connection.account.suspect for one in clients), "they are read from in turn"
    for one in clients:
        for stream in range(1, 101, 2):
            await one.say(data(message(b"x")[:3], stream, 0) + data(message(b"x")[3:], stream))
    assert side.queue.counts.refusals == {}
    assert side.queue.counts.cuts == {}
    assert len(side.calls) == 60 * 50
    assert promised(side) == 0


ENDINGS = {
    "reset": lambda stream: http2.reset(stream, http2.CANCEL),
    "a broken message": lambda stream: data(b"abc", stream),
    "a message that is too large": lambda stream: data(b"\0\x7f\0\0\0", stream, 0),
    "content past the end": lambda stream: data(b"", stream, 0) + begun(stream, b"\x82", 5),
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_what_has_come_to_nothing_is_owed(ending: str) -> None:
    """By its address, too, however the request ended: of each connection a little, of all of them a flood."""
    side = ServerSide((PATH,))
    for number in range(300):
        one = Client(side)
        await one.say(
            *(called(stream, number) for stream in range(1, 17, 2)),
            *(ENDINGS[ending](stream) for stream in range(1, 13, 2)),
        )
        if side.queue.counts.cuts:
            break
        one.connection.connection_lost(None)
    assert side.queue.counts.cuts == {"flood": 1}
    one.connection.connection_lost(None)
    assert promised(side) == 0


@pytest.mark.parametrize("connections", [1, 50])
async def test_nobody_may_promise_without_end(connections: int) -> None:
    """One connection and many of an address: who goes on is cut, and who has promised little is not."""
    side = ServerSide((PATH,))
    honest, attackers = Client(side), [Client(side) for _ in range(connections)]
    await honest.say(begun())
    long = HEAD + b"\x00\x01x" + http2.literal("x" * 3000) + b"\x00\x01y"
    for stream in range(1, 2001, 2):
        for number, one in enumerate(attackers):
            one.connection.data_received(begun(stream, long + http2.literal(f"{number}-{stream}")))
        if side.queue.counts.cuts:
            break
    assert side.queue.counts.cuts["flood"] > 0
    assert 100 < stream * connections < 1000
    (call,) = await honest.calls(data(message(b"x")))
    assert call.payload == b"x"


async def test_an_hour_later_nothing_is_left_of_a_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor of requests that never ended: the address owes nothing, and its connections are read from as any other."""
    now = 100.0
    side = ServerSide((PATH,))
    monkeypatch.setattr(side.queue, "clock", lambda: now)
    side.queue.addresses = ClientAddresses(lambda: now)
    clients = [Client(side) for _ in range(60)]
    for number, one in enumerate(clients):
        one.connection.data_received(b"".join(called(stream, number) for stream in range(1, 101, 2)))
        if number % 2:
            one.connection.data_received(FLOODS["pings"])
    assert side.queue.counts.cuts["flood"] > 0
    assert promised(side) > 0
    for now in (101.0, 3700.0):
        for one in clients:
            one.connection.cut_slow_streams(now)
    assert promised(side) == 0
    late = Client(side)
    assert not late.connection.account.suspect
    await late.say(frame(http2.SETTINGS, http2.ACK, 0), FLOODS["pings"][: 17 * 1000])
    assert not late.connection.account.suspect, "the bucket of its address is full again"


async def test_suspects_are_read_from_in_small_parts_and_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So however many they are, the others have the loop; one that is answered is no suspect any more."""
    monkeypatch.setattr(turns, "SUSPECTS", 2)
    monkeypatch.setattr(turns, "SUSPECT_SECONDS", 0.001)
    monkeypatch.setattr(turns, "NEWCOMERS", 4)
    side = ServerSide((PATH,))
    first = Client(side)
    await first.say(FLOODS["window updates"])
    suspects = [Client(side) for _ in range(5)]
    for said in (frame(http2.SETTINGS, http2.ACK, 0), *(frame(http2.PING, 0, 0, bytes(8)) * 7,) * 4):
        assert not any(one.wire.reads for one in suspects)
        side.queue.turns._turn()
        side.queue.turns._read_suspects()
        assert sum(one.wire.reads for one in suspects) == turns.NEWCOMERS
        side.queue.turns._read_suspects()
        assert all(one.wire.reads for one in suspects), "who has but greeted may be anybody"
        for one in suspects:
            room = one.connection.get_buffer(-1)
            assert len(room) == turns.FRESH_BYTES
            room[: len(said)] = said
            one.connection.buffer_updated(len(said))
    assert [one.wire.reads for one in suspects] == [False] * 5
    assert {len(one.connection.get_buffer(-1)) for one in suspects} == {turns.FULL_TURN_BYTES}
    side.queue.turns._read_suspects()
    assert [one.wire.reads for one in suspects] == [True, True, False, False, False]
    async with asyncio.timeout(30):
        while not all(one.wire.reads for one in suspects):
            await asyncio.sleep(0.001)
    (call,) = await suspects[0].calls(begun(), data(message(b"x")))
    call.reply(b"answer")
    assert [one.connection.account.suspect for one in suspects] == [False, True, True, True, True]


async def test_addresses_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """When there are too many, and none before: who comes again and again would begin anew each time."""
    monkeypatch.setattr(allowance, "MAX_ADDRESSES", 2)
    side = ServerSide((PATH,))
    for _ in range(10):
        one = Client(side)
        one.connection.data_received(http2.window_update(0, 1) * 5000)
        one.connection.connection_lost(None)
    assert side.queue.counts.cuts["flood"] > 0
    side.queue.addresses.come("10.0.0.1")
    assert list(side.queue.addresses._addresses) == ["127.0.0.1", "10.0.0.1"]
    side.queue.addresses.come("10.0.0.2")
    assert list(side.queue.addresses._addresses) == ["10.0.0.1", "10.0.0.2"], "that of an open connection stays"
