"""What a turn of the loop has room for: who is read from, whose bytes are kept for later, and who need not wait."""

import gc
import weakref

from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2 import turns
from abfleet_transport.http2.frames import frame

from tests.support.http2_wire import ServerSide
from tests.transport.http2_client import GREETING, PATH, Client, begun, data, message, setting

SETTINGS_FRAMES = frame(http2.SETTINGS, 0, 0) * (turns.FULL_TURN_BYTES // 9)
TAKEN = frame(http2.SETTINGS, http2.ACK, 0)


def read(client: Client, said: bytes) -> None:
    """As the event loop does, if the connection is read from."""
    assert client.wire.reads
    room = client.connection.get_buffer(-1)
    assert len(room) >= len(said)
    room[: len(said)] = said
    client.connection.buffer_updated(len(said))


async def answered(client: Client) -> Client:
    """Once it has called a few times, and had its answers: they have paid for its greeting."""
    await client.say(TAKEN)
    for stream in (1, 3, 5):
        (call,) = await client.calls(begun(stream), data(message(b"x"), stream=stream))
        call.reply(b"answer")
    await client.heard()
    return client


async def test_a_full_turn_takes_nothing_of_those_that_nothing_has_paid_for() -> None:
    """However many they are a turn's work is bounded; in the end all that they said is taken."""
    side = ServerSide((PATH,))
    many = [Client(side) for _ in range(30)]
    for one in many:
        await one.heard()
    reading = side.queue.turns
    for one in many:
        read(one, SETTINGS_FRAMES)
    assert turns.READ_UNITS <= reading.read_units < turns.READ_UNITS + 300
    waiting = [one for one in many if not one.wire.reads]
    assert len(waiting) > 20
    still = [len(waiting)]
    while still[-1] and len(still) < 100:
        reading._turn()
        assert reading.read_units < turns.READ_UNITS
        still.append(sum(not one.wire.reads for one in many))
    assert not still[-1]
    assert len(still) > 5
    for one in many:
        acks = [got for got in await one.heard() if got.kind == http2.SETTINGS and got.flags]
        assert len(acks) == len(SETTINGS_FRAMES) // 9
    assert side.queue.counts.cuts == {}


async def test_whose_calls_are_answered_does_not_wait_for_the_others() -> None:
    """In a turn that is full it is read all the same."""
    side = ServerSide((PATH,))
    honest, other = await answered(Client(side)), Client(side)
    side.calls.clear()
    side.queue.turns.read_units = turns.READ_UNITS
    read(other, begun(1) + data(message(b"later")))
    read(honest, begun(7) + data(message(b"now"), stream=7))
    side.queue._hand_over()
    assert [call.payload for call in side.calls] == [b"now"]
    side.queue.turns._turn()
    assert [call.payload for call in side.calls] == [b"now", b"later"]


async def test_an_honest_newcomer_from_the_address_of_a_flood_waits_but_shortly() -> None:
    """For those before it once, and not again with each part of its first call: it may share the address by chance."""
    side = ServerSide((PATH,))
    attacker = Client(side)
    await attacker.say(SETTINGS_FRAMES * 100)
    assert side.queue.counts.cuts == {"flood": 1}
    said = {Client(side, greeting=b""): GREETING + SETTINGS_FRAMES * 100 for _ in range(40)}
    honest = Client(side, greeting=b"")
    said[honest] = http2.client_preface() + TAKEN + begun() + data(message(b"x" * 100))
    waited = 0
    while not side.calls and waited < 100:
        waited += 1
        side.queue.turns._read_suspects()
        for one in [one for one in said if one.wire.reads]:
            while one.wire.reads and said[one] and not one.connection.closed:
                room = len(one.connection.get_buffer(-1))
                part, said[one] = said[one][:room], said[one][room:]
                read(one, part)
        await honest.heard()
    assert [call.payload for call in side.calls] == [b"x" * 100]
    assert waited <= 41 / turns.NEWCOMERS + 5
    side.calls[0].reply(b"answer")
    assert not honest.connection.account.suspect
    assert side.queue.counts.cuts["flood"] > 1


async def test_the_next_turn_is_empty_though_suspects_have_filled_this_one() -> None:
    """Or whoever comes then would find it full."""
    side = ServerSide((PATH,))
    suspect = Client(side)
    suspect.connection.account.suspect = True
    read(suspect, SETTINGS_FRAMES[:126])
    side.queue.turns.read_units = turns.READ_UNITS - 1
    suspect.wire.reads = True
    read(suspect, SETTINGS_FRAMES[:126])
    assert side.queue.turns.read_units >= turns.READ_UNITS
    await suspect.heard()
    assert side.queue.turns.read_units == 0


async def test_what_was_kept_comes_before_what_is_read_next() -> None:
    """Whether or not the client has read what was written to it meanwhile, and though its call was cut in two."""
    client = Client()
    await client.say(TAKEN)
    whole = begun() + data(message(b"abc"))
    client.side.queue.turns.read_units = turns.READ_UNITS
    read(client, whole[:50])
    assert not client.wire.reads
    client.connection.pause_writing()
    client.connection.resume_writing()
    assert not client.wire.reads
    await client.heard()
    read(client, whole[50:])
    await client.heard()
    assert [call.payload for call in client.side.calls] == [b"abc"]


async def test_what_was_kept_of_a_connection_that_has_gone_is_dropped() -> None:
    """Nobody is there to answer."""
    client = Client()
    client.side.queue.turns.read_units = turns.READ_UNITS
    read(client, begun() + data(message(b"abc")))
    client.wire.closing = True
    client.connection.connection_lost(None)
    await client.heard()
    assert client.side.calls == []


async def test_a_connection_that_has_gone_does_not_wait_for_the_collector() -> None:
    """A thousand that are cut in a second would have it stop the loop for ten milliseconds and more."""
    side = ServerSide((PATH,))
    clients = [await answered(Client(side)), Client(side, greeting=b"no"), Client(side)]
    held = clients[2]
    (call,) = await held.calls(setting(http2.INITIAL_WINDOW_SIZE, 0), begun(), data(message(b"x")))
    call.reply(b"kept, for want of a window")
    await held.heard()
    side.calls.clear()
    del call, held
    gone = [weakref.ref(one.connection) for one in clients]
    gc.collect()
    gc.disable()
    try:
        for one in clients:
            one.connection.connection_lost(None)
        await clients[0].heard()
        del one
        clients.clear()
        side.gone.clear()
        assert [one() for one in gone] == [None] * 3
    finally:
        gc.enable()


# --- honest clients that say much ----------------------------------------------------------------------------------


async def test_ten_thousand_streams() -> None:
    """A thousand calls at a time on one connection, again and again, each with a window and the whole with pings."""
    client = Client(greeting=GREETING + TAKEN)
    for first in range(1, 20_001, 2000):
        streams = range(first, first + 2000, 2)
        ping = frame(http2.PING, 0, 0, bytes(8))
        parts = (begun(one) + data(message(b"x"), stream=one) + http2.window_update(one, 9) for one in streams)
        client.connection.data_received(ping + b"".join(parts) + ping)
        for _ in range(20):
            await client.heard()
        assert len(client.side.calls) == len(streams)
        for call in client.side.calls:
            call.reply(b"answer")
        client.side.calls.clear()
        await client.heard()
    assert not client.side.queue.counts.cuts
    assert not client.side.queue.counts.refusals
    assert not client.connection.account.suspect


async def test_an_upload_in_small_frames() -> None:
    """Of a megabyte, 100 bytes in each DATA: that is 10,000 frames which carry no whole call."""
    client = Client(greeting=GREETING + TAKEN)
    payload = bytes(1_000_000)
    whole = message(payload)
    parts = [whole[start : start + 100] for start in range(0, len(whole), 100)]
    last = parts.pop()
    client.connection.data_received(begun() + b"".join(data(part, flags=0) for part in parts) + data(last))
    await client.heard()
    (call,) = client.side.calls
    assert len(call.payload) == len(payload)
    assert not client.side.queue.counts.cuts


async def test_many_pings() -> None:
    """Five for each call, as a client would that measures its connection all the time."""
    client = Client(greeting=GREETING + TAKEN)
    for stream in range(1, 6001, 2):
        pings = frame(http2.PING, 0, 0, bytes(8)) * 5
        calls = await client.calls(pings, begun(stream), data(message(b"x"), stream=stream))
        calls[0].reply(b"answer")
    assert not client.side.queue.counts.cuts
