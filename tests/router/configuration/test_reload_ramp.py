"""Rows of a ramp come into force at their times, beside edits of the file that has them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from abfleet_router.configuration.snapshot import Snapshot
from abfleet_router.fleet.health_watch import ReplicaHealth

from tests.router.follower import Follower, experiments

RAMP = """    ramp:
      - {at: 2026-11-01T00:00:00Z, traffic: 100, control: 90, treatment: 10}
      - {at: 2026-11-02T00:00:00Z, traffic: 100, control: 50, treatment: 50}
      - {at: 2026-11-03T00:00:00Z, traffic: 50, control: 100, treatment: 0}
"""


@pytest.fixture
async def ramping(tmp_path: Path, followers: list[Follower]) -> Follower:
    """One whose first ramp row is in force."""
    one = Follower(tmp_path, experiments(100, 0, extra=RAMP))
    followers.append(one)
    await one.begin()
    return one


def shares(snapshot: Snapshot) -> dict[str, float]:
    """Group to its share in force."""
    return {arm.group: arm.propensity for arm in snapshot.arms if arm.group and arm.propensity is not None}


async def test_a_ramp_row_comes_into_force(ramping: Follower) -> None:
    """At its time, from the same file: a new snapshot with its allocation, and no reload."""
    await ramping.poll(3)
    assert len(ramping.used) == 1
    assert shares(ramping.used[0]) == {"control": 0.9, "treatment": 0.1}
    ramping.now = datetime(2026, 11, 2, tzinfo=UTC) - timedelta(microseconds=1)
    await ramping.poll()
    assert len(ramping.used) == 1, "not before its time"
    ramping.now += timedelta(microseconds=1)
    await ramping.poll(3)
    assert len(ramping.used) == 2, "once"
    assert shares(ramping.used[1]) == {"control": 0.5, "treatment": 0.5}
    assert ramping.used[1].revision == ramping.used[0].revision
    first, second = ramping.events("allocation")
    assert first["allocation"] != second["allocation"]
    assert (second["weights"], second["moved"]) == ({"control": 50, "treatment": 50}, pytest.approx(0.4))
    assert second["ts"] == "2026-11-02T00:00:00.000000Z"
    assert ramping.events("reload") == []


async def test_rows_that_were_slept_through_count_as_one(ramping: Follower) -> None:
    """After a pause the row in force counts, not each that was missed."""
    ramping.now = datetime(2026, 11, 5, tzinfo=UTC)
    await ramping.poll(3)
    assert len(ramping.used) == 2
    assert [line["traffic"] for line in ramping.events("allocation")] == [100, 50]


async def test_a_ramp_row_does_not_wait_for_a_newer_file(ramping: Follower) -> None:
    """A row that is due comes into force although a newer file waits for its workers; then that one does."""
    ramping.bench.down.add("v9")
    ramping.replace(experiments(60, 30, 10, v9=True))
    await ramping.poll(2)
    ramping.now = datetime(2026, 11, 2, tzinfo=UTC)
    await ramping.poll(2)
    assert shares(ramping.used[-1]) == {"control": 0.5, "treatment": 0.5}
    assert any("v9" in error for error in ramping.reloader.state.errors), "it still waits"
    assert "v9" in ramping.bench.fleet.pools
    ramping.health("v9", ReplicaHealth.SERVING)
    await ramping.poll()
    assert ramping.weights == [60, 30, 10]


async def test_a_ramp_row_does_not_hide_a_wrong_file(ramping: Follower) -> None:
    """The row of the good configuration is taken, and what is wrong with the file is still told."""
    ramping.replace("nonsense")
    await ramping.poll()
    errors = ramping.reloader.state.errors
    ramping.now = datetime(2026, 11, 2, tzinfo=UTC)
    await ramping.poll()
    assert shares(ramping.used[-1]) == {"control": 0.5, "treatment": 0.5}
    assert ramping.reloader.state.errors == errors != ()
