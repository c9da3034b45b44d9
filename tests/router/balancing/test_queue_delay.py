"""Shedding: by the wait that calls would have, the same for every group, and over as soon as the queues are."""

import pytest
from abfleet_router.balancing.queue_delay import MAX_WAIT_SECONDS, SMOOTHING, ExpectedWait
from abfleet_router.fleet.batching import BatchingSettings
from abfleet_router.fleet.health_watch import ReplicaHealth
from abfleet_transport.call import Code
from hypothesis import given
from hypothesis import strategies as st

from tests.router.bench import Bench
from tests.router.fakes import Failed, FakeCall, turns


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 2)), max_size=300))
def test_the_mean_is_one_of_what_was_learned(calls: list[tuple[float, int]]) -> None:
    """It never leaves the range of the waits, so what is never too long is never said to be; nor is anything where
    nothing waits, whatever was learned before."""
    expected, waits = ExpectedWait(), list[float]()
    for wait, waiting in calls:
        too_long = expected.is_too_long(wait, waiting)
        assert waiting or (not too_long and expected.seconds <= wait)
        waits.append(wait)
        assert 0 <= expected.seconds <= max(waits) + 1e-9
        assert not too_long or max(waits) > MAX_WAIT_SECONDS


def test_a_short_burst_is_taken_in_and_a_lasting_queue_is_not() -> None:
    """A few calls that would wait are no overload; when all wait twice as long as they may, it is seen in time."""
    expected = ExpectedWait()
    few, many = int(0.25 / SMOOTHING), int(1 / SMOOTHING)
    assert not any(expected.is_too_long(2 * MAX_WAIT_SECONDS) for _ in range(few))
    assert [expected.is_too_long(2 * MAX_WAIT_SECONDS) for _ in range(many)][-1]
    assert not [expected.is_too_long(0.0) for _ in range(many)][-1]


async def test_a_queue_that_lasts_too_long_sheds_and_a_short_one_does_not() -> None:
    """Workers take a tenth of a second for a batch: calls are taken in until they would wait longer than allowed;
    the rest is refused at once, with a pushback and a line that names its group; then all goes on as before."""
    bench = Bench()
    await bench.open()
    await make_slow(bench, 0.1)
    crowd = await crowd_in(bench)
    refused = [call for call in crowd if call.answers]
    taken = [call for call in crowd if not call.answers]
    assert refused
    assert len(taken) > 128
    for call in refused:
        assert isinstance(call.only, Failed)
        assert call.only.code is Code.RESOURCE_EXHAUSTED
        assert call.only.pushback_ms
    lines = {line["request_id"]: line for line in bench.log.exposures()}
    assert sum(line["status"] == "RESOURCE_EXHAUSTED" for line in lines.values()) == len(refused)
    await bench.run_dry()
    assert all(call.code is Code.OK for call in taken)
    later = [bench.call("on-v1", request_id=f"later-{number}") for number in range(200)]
    for call in later:
        await bench.arrive(call)
        await bench.answer()
    await turns()
    assert [call.code for call in later] == [Code.OK] * 200
    bench.books_balance(bench.calls)
    await bench.close()


async def make_slow(bench: Bench, seconds: float) -> None:
    """Batches of one version take so long until it is known; the last one is still under way."""
    await bench.arrive(bench.call("on-v1", request_id="first"))
    for number in range(30):
        bench.clock.advance(seconds)
        await bench.answer()
        await bench.arrive(bench.call("on-v1", request_id=f"early-{number}"))


async def crowd_in(bench: Bench) -> list[FakeCall]:
    """More calls at once than may wait."""
    crowd = [bench.call("on-v1", request_id=f"crowd-{number}") for number in range(2000)]
    await bench.arrive(*crowd)
    assert any(call.answers for call in crowd)
    return crowd


@pytest.mark.parametrize("end", ["answered", "expired", "cancelled", "lost"])
@pytest.mark.parametrize("quiet_seconds", [0.0, 5.0])
@pytest.mark.parametrize("user_id", ["on-v1", "on-v2"])
async def test_nothing_is_refused_where_nothing_waits(end: str, quiet_seconds: float, user_id: str) -> None:
    """However a crowd ended, the first call after it is taken, and so are those after it, whatever their group."""
    bench = Bench()
    await bench.open()
    await make_slow(bench, 0.1)
    crowd = await crowd_in(bench)
    gone: list[FakeCall] = []
    if end == "expired":
        bench.clock.advance(3.0)
        bench.fleet.sweep()
    elif end == "cancelled":
        gone = [call for call in bench.calls if not call.answers]
        for call in gone:
            bench.router.on_cancelled(call)
    elif end == "lost":
        for replica in bench.made[:2]:
            replica.becomes(ReplicaHealth.LOST)
            replica.becomes(ReplicaHealth.SERVING)
    await turns()
    await bench.run_dry()
    assert end == "lost" or all(call.answers or call in gone for call in crowd)
    bench.nothing_is_left()
    bench.clock.advance(quiet_seconds)
    later = [bench.call(user_id, request_id=f"later-{number}") for number in range(25)]
    for call in later:
        await bench.arrive(call)
        await bench.answer()
    assert [call.code for call in later] == [Code.OK] * 25
    bench.books_balance(bench.calls, gone)
    await bench.close()


async def test_a_call_behind_a_slow_batch_is_taken_while_nobody_waits() -> None:
    """The last batch of a crowd takes longer than calls may wait; the next call is the first to wait."""
    bench = Bench()
    await bench.open()
    await make_slow(bench, 0.45)
    await crowd_in(bench)
    while bench.fleet.backlog.calls:
        await bench.answer()
    assert bench.open_batches()
    call = bench.call("on-v1", request_id="next")
    await bench.arrive(call)
    assert call.answers == []
    await bench.run_dry()
    assert call.code is Code.OK
    await bench.close()


async def test_a_small_crowd_after_an_hour_is_not_held_to_what_batches_took_before() -> None:
    """Batches took nearly half a second; an hour later two hundred calls in turns of 64 are all taken. A tenth of a
    second later they are not: then it is still the best guess."""
    taken = {}
    for quiet_seconds in (0.1, 3600.0):
        bench = Bench(batching=BatchingSettings(max_batch=16))
        await bench.open()
        await make_slow(bench, 0.45)
        await bench.run_dry()
        bench.clock.advance(quiet_seconds)
        crowd = [bench.call("on-v1", request_id=f"crowd-{number}") for number in range(200)]
        for begin in range(0, 200, 64):
            await bench.arrive(*crowd[begin : begin + 64])
        taken[quiet_seconds] = sum(not call.answers for call in crowd)
        await bench.run_dry()
        await bench.close()
    assert taken[3600.0] == 200
    assert taken[0.1] < 200
