"""Which replicas of a pool are out, for how long, and who is asked meanwhile."""

import asyncio

import pytest
from abfleet_router.fleet.failure import FailureReason
from abfleet_router.fleet.health_watch import ReplicaHealth
from abfleet_router.fleet.replica import PENALTY_SECONDS

from tests.router.place import GENEROUS_SECONDS, Place, bench_of, serving


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
async def test_on_suspicion_at_most_half_is_out(count: int) -> None:
    """Every replica fails: floor(n / 2) are ejected, and the others go on; what was due is counted all the same."""
    bench, pool = await bench_of(count)
    for replica in pool.replicas:
        pool.outliers.note_failure(replica, FailureReason.MODEL_ERROR, proven=False, calls=2)
    assert len(pool.available) == count - count // 2
    assert (pool.outliers.counters.detected, pool.outliers.counters.enforced) == (count, count // 2)
    await bench.close()


async def test_suspicion_spares_the_half_that_is_left() -> None:
    """A replica that is dead is out as well: the last one that lives is not ejected on suspicion."""
    bench, pool = await bench_of(2)
    dead, alive = pool.replicas
    dead.becomes(ReplicaHealth.LOST)
    pool.outliers.note_failure(alive, FailureReason.TIMEOUT, proven=False, suspicious=True, calls=9)
    assert pool.available == [alive]
    await bench.close()


async def test_proof_knows_no_half() -> None:
    """Broken connections take out everybody, and the pool says why nobody is there."""
    bench, pool = await bench_of(3)
    for replica in pool.replicas:
        pool.outliers.note_failure(replica, FailureReason.UNAVAILABLE, proven=True)
    assert pool.available == []
    assert pool.unavailable_reason is FailureReason.EJECTED
    await bench.close()


async def test_to_detect_is_not_to_eject() -> None:
    """With detect_only the counters tell what would have been done."""
    bench, pool = await bench_of(4, detect_only=True)
    for replica in pool.replicas:
        pool.outliers.note_failure(replica, FailureReason.UNAVAILABLE, proven=True)
    assert len(pool.available) == 4
    assert (pool.outliers.counters.detected, pool.outliers.counters.enforced) == (4, 0)
    await bench.close()


async def test_a_failure_looks_like_load() -> None:
    """A replica that fails fast does not attract the calls that it fails."""
    bench, pool = await bench_of(2)
    first, second = pool.replicas
    pool.outliers.note_failure(first, FailureReason.MODEL_ERROR, proven=False)
    assert {pool.picker.pick(float(turn)) for turn in range(20)} == {second}
    pool.outliers.note_success(first)
    assert first.load == 0
    await bench.close()


async def test_a_failure_is_load_for_a_moment_only() -> None:
    """Else one failure would keep a replica from being tried again, and so from being ejected or trusted."""
    bench, pool = await bench_of(2)
    first, _ = pool.replicas
    pool.outliers.note_failure(first, FailureReason.MODEL_ERROR, proven=False)
    bench.clock.advance(PENALTY_SECONDS - 0.001)
    assert first.load > 0
    bench.clock.advance(0.002)
    assert first.load == 0
    assert first.record.failures_in_a_row == 1, "in a row they still are"
    await bench.close()


async def test_a_suspicious_failure_ejects_at_once_but_only_half() -> None:
    """One failure of a kind that no chance makes is reason enough, and suspicion all the same."""
    bench, pool = await bench_of(2)
    for replica in pool.replicas:
        pool.outliers.note_failure(replica, FailureReason.TIMEOUT, proven=False, suspicious=True)
    assert len(pool.available) == 1
    await bench.close()


async def test_the_circuit_opens_when_no_replica_answers() -> None:
    """The last replica may not be ejected on suspicion, but calls with another place to go need not wait for it. It is
    tried again by one call at a time, and one answer closes the circuit."""
    bench, pool = await bench_of(2)
    first, last = pool.replicas
    pool.outliers.note_failure(first, FailureReason.TIMEOUT, proven=False, suspicious=True)
    assert not pool.circuit_open(bench.clock()), "the other one may be well"
    pool.outliers.note_failure(last, FailureReason.TIMEOUT, proven=False, suspicious=True)
    assert pool.available == [last]
    assert pool.circuit_open(bench.clock())
    bench.clock.advance(1.0)
    assert not pool.circuit_open(bench.clock())
    last.queue.load = 1
    assert pool.circuit_open(bench.clock()), "one tries already"
    last.queue.load = 0
    pool.outliers.note_success(last)
    last.queue.load = 1
    assert not pool.circuit_open(bench.clock())
    last.queue.load = 0
    await bench.close()


async def test_an_ejected_replica_comes_back_by_itself(place: Place) -> None:
    """When its time is over, without a call and without a change of health."""
    pool = place.pool(await place.worker())
    await serving(pool, 1)
    (replica,) = pool.replicas
    pool.outliers.note_failure(replica, FailureReason.UNAVAILABLE, proven=True)
    assert pool.available == []
    await serving(pool, 1)
    pool.outliers.note_failure(replica, FailureReason.MODEL_ERROR, proven=False)
    assert pool.outliers.counters.enforced == 1, "on probation one failure is reason enough, but it is all there is"
    assert pool.outliers.counters.detected == 2


async def test_a_timer_that_comes_early_comes_again() -> None:
    """The end of an ejection is by the router's clock: a timer that is a little early must not lose the replica."""
    bench, pool = await bench_of(1, base_seconds=0.002)
    (replica,) = pool.replicas
    pool.outliers.note_failure(replica, FailureReason.UNAVAILABLE, proven=True)
    async with asyncio.timeout(GENEROUS_SECONDS):
        while pool.available == []:
            await asyncio.sleep(0.001)  # the loop's timers fire while the router's clock stands still
            bench.clock.advance(0.0001)
    assert not replica.record.failures_in_a_row
    await bench.close()


async def test_pick_other_is_another() -> None:
    """Never the one that has just failed, none where there is no other."""
    bench, pool = await bench_of(3)
    for replica in pool.replicas:
        assert pool.picker.pick_other(replica) not in (None, replica)
    lonely_bench, lonely = await bench_of(1)
    assert lonely.picker.pick_other(lonely.replicas[0]) is None
    assert lonely.picker.pick_other(None) is lonely.replicas[0]
    await bench.close()
    await lonely_bench.close()


async def test_calls_that_arrive_together_travel_together() -> None:
    """As long as they are about a millisecond of work for one replica; then, and in a new turn, it is drawn anew."""
    bench, pool = await bench_of(2)
    drawn = 0

    def draw() -> float:
        nonlocal drawn
        drawn += 1
        return 0.0

    bench.draw = draw
    for _ in range(200):
        pool.picker.learn(8, 0.001)  # 125 µs a call: eight of them are a millisecond
    assert len({pool.picker.pick(1.0) for _ in range(7)}) == 1
    assert drawn == 2, "one draw of two candidates"
    pool.picker.pick(2.0)
    assert drawn == 4
    for _ in range(200):
        pool.picker.learn(1, 0.005)  # one alone is more than that
    pool.picker.pick(3.0)
    pool.picker.pick(3.0)
    assert drawn == 8
    await bench.close()


async def test_an_ejected_replica_is_not_picked_again_in_the_same_turn() -> None:
    """Calls that arrived together are kept together only while the replica is in."""
    bench, pool = await bench_of(3)
    for _ in range(200):
        pool.picker.learn(100, 0.001)
    first = pool.picker.pick(1.0)
    assert first is not None
    pool.outliers.note_failure(first, FailureReason.UNAVAILABLE, proven=True)
    assert pool.picker.pick(1.0) not in (None, first)
    await bench.close()
