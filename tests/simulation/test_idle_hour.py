"""After an hour of nothing a fleet behaves as a new one, whatever was before: overload, failures, spent budgets."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from abfleet_router import serving as router_serving
from abfleet_router.balancing.balance import BURST_SECONDS
from abfleet_router.fleet.pool import Pool
from abfleet_router.serving import Serving

from tests.simulation.script import Fault, Phase, Script
from tests.simulation.simulation import Simulation, simulated

FLAGS = (
    *("--max-batch", "4", "--max-in-flight", "1", "--log-policy", "keep_serving", "--log-rotate-bytes", "20000"),
    *("--flush-interval", "1"),
)
BAD_MINUTE = (
    Fault(6.0, "flood", 1.0, 0, 400.0),
    Fault(9.0, "fail_model", 20.0, 0, 1.0),
    Fault(9.0, "fail_model", 20.0, 1, 1.0),
    Fault(9.0, "hang_model", 20.0, 2),
    Fault(9.0, "fail_model", 20.0, 3, 1.0),
)
"""Both replicas of the default fail, one of v2 hangs, that of v3 fails: ejections, open circuits, no retries left."""
HOUR = 3600.0
BAD_END = 29.5


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulation]:
    """After the bad minute, with checks seldom from then on: an hour of them every 100 ms is 36,000 turns."""
    script = Script("idle", 1, (2, 1, 1), (50.0, 50.0, 50.0), FLAGS, BAD_MINUTE, (Phase(3.0, 26.0, 900),), 0.0)
    with simulated(script, tmp_path) as simulation:
        simulation.begin()
        simulation.world.run_until(BAD_END)
        while serving_of(simulation).parts.router._attempts.budget.spend():
            pass
        monkeypatch.setattr(router_serving, "CHECK_SECONDS", 1.0)
        yield simulation


def serving_of(simulation: Simulation) -> Serving:
    serving = simulation.routers[0].serving
    assert serving is not None
    return serving


def marks(serving: Serving) -> list[str]:
    """What of the bad minute is still there, by name."""
    router, now = serving.parts.router, serving.parts.decision_log._clock()
    found = []
    if router._attempts.budget.tokens < router._settings.retry_banked:
        found.append("retry budget")
    if router._expected_wait.seconds > 0:
        found.append("expected wait")
    for pool in serving.parts.fleet.pools.values():
        found += [f"{name} of {pool.version}" for name in marks_of(pool, now)]
    return found


def marks_of(pool: Pool, now: float) -> Iterator[str]:
    if pool.circuit_open(now):
        yield "circuit"
    if pool.picker._bursts._call_seconds != BURST_SECONDS:
        yield "burst"
    for replica in pool.replicas:
        if not replica.is_in(now):
            yield "ejection"
        if replica.record.failures_in_a_row or replica.record.ejections_in_a_row:
            yield "record"
        if replica.queue._batch_seconds:
            yield "time of a batch"


def test_an_hour_of_nothing(fleet: Simulation) -> None:
    """The bad minute leaves its marks; after an hour the next calls are all answered, by the versions that they are
    assigned to, the first as well as the hundredth: nothing refused, nothing ejected, all budgets full."""
    before = marks(serving_of(fleet))
    assert {"retry budget", "expected wait"} <= set(before), before
    assert any("circuit" in mark for mark in before), before
    assert any("record" in mark for mark in before), before
    fleet.world.run_until(BAD_END + HOUR)
    first = len(fleet.callers.results)
    fleet.plan("after", BAD_END + HOUR + 0.1, 5.0, 60)
    fleet.world.run_until(BAD_END + HOUR + 10.0)
    calls = fleet.callers.results[first:]
    assert len(calls) == 60
    assert [call.status for call in calls if call.status not in ("OK", "left")] == []
    assert marks_that_count(serving_of(fleet)) == []


def marks_that_count(serving: Serving) -> list[str]:
    """Of good calls, too, the mean work and the time of a batch are learned."""
    return [mark for mark in marks(serving) if not mark.startswith(("burst", "time of a batch", "expected wait"))]


def test_one_failure_after_an_hour_is_the_first(fleet: Simulation) -> None:
    """A single failed call after the hour ejects nobody and opens no circuit: what was an hour ago does not count."""
    serving = serving_of(fleet)
    fleet.world.run_until(BAD_END + HOUR)
    ejections = {version: pool.outliers.counters.detected for version, pool in serving.parts.fleet.pools.items()}
    for worker in fleet.workers:
        worker.fails = 1.0
    fleet.plan("one", BAD_END + HOUR + 0.1, 0.0, 1)
    fleet.world.run_until(BAD_END + HOUR + 3.0)
    now = serving.parts.decision_log._clock()
    assert not any(pool.circuit_open(now) for pool in serving.parts.fleet.pools.values())
    detected = {version: pool.outliers.counters.detected for version, pool in serving.parts.fleet.pools.items()}
    assert detected == ejections
    assert all(replica.is_in(now) for replica in serving.parts.fleet.replicas())
