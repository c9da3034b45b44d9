"""A replica that has just come, or come back, gets its full share only after some seconds."""

import random

from abfleet_router.balancing.picker import SLOW_START_SECONDS
from abfleet_router.fleet.health_watch import ReplicaHealth

from tests.router.bench import Bench

PICKS = 2000


def share(bench: Bench, version: str = "v2", number: int = 1) -> float:
    """The part of many picks, each in a turn of its own, that falls to a replica."""
    pool, replica = bench.fleet.pools[version], bench.replica(version, number)
    return sum(pool.picker.pick(bench.clock.now) is replica for _ in range(PICKS)) / PICKS


async def test_the_share_of_one_that_comes_back_rises() -> None:
    """Two replicas share alike from their common start; one goes and comes back: a twentieth of the pool's calls at
    first (a tenth of its half), half of its half at half time, its half at the end, and so it stays."""
    bench = Bench(draw=random.Random(1).random)
    await bench.open()
    assert 0.45 < share(bench) < 0.55
    replica = bench.replica("v2", 1)
    bench.clock.advance(60)
    replica.becomes(ReplicaHealth.LOST)
    assert share(bench) == 0
    bench.clock.advance(60)
    replica.becomes(ReplicaHealth.SERVING)
    assert 0.03 < share(bench) < 0.07
    bench.clock.advance(SLOW_START_SECONDS / 2)
    assert 0.22 < share(bench) < 0.28
    bench.clock.advance(SLOW_START_SECONDS / 2)
    assert 0.45 < share(bench) < 0.55
    bench.clock.advance(3600)
    assert 0.45 < share(bench) < 0.55
    await bench.close()


async def test_one_that_is_alone_gets_all() -> None:
    """There is nobody to take what it is not due."""
    bench = Bench(draw=random.Random(1).random)
    await bench.open()
    for number in range(2):
        bench.replica("v2", number).becomes(ReplicaHealth.LOST)
    bench.replica("v2", 1).becomes(ReplicaHealth.SERVING)
    assert share(bench) == 1
    await bench.close()


async def test_one_that_was_ejected_comes_back_slowly_too() -> None:
    """Its first calls after the ejection are few: if it still fails, few are hurt."""
    bench = Bench(draw=random.Random(1).random)
    await bench.open()
    bench.clock.advance(60)
    pool, replica = bench.fleet.pools["v2"], bench.replica("v2", 1)
    pool.outliers.note_failure(replica, pool.unavailable_reason, proven=True)
    assert share(bench) == 0
    bench.clock.advance(60)
    pool.outliers.readmit(replica)
    assert 0.03 < share(bench) < 0.07
    await bench.close()
