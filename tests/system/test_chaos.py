"""Replicas that break under traffic cost no call: a short form of `./run prove chaos`."""

from pathlib import Path

import pytest

from tests.proofs.chaos import check, run
from tests.proofs.chaos_stages import stages

pytestmark = pytest.mark.system
SHORT = ("killed", "stopped", "wrong version", "workers restarted", "pool killed", "pool hangs")
SHORT_WITH_ROOT = ("partitioned", "DNS emptied", "disk full")


def test_replicas_that_break_cost_no_call(tmp_path: Path) -> None:
    """One replica of the default's two is killed, stopped, cut off or lies, both are restarted in turn, names
    go, the log's disk is full: no call fails. A treatment's whole pool is killed or hangs: no call fails, all of its
    calls fall back. Each call is logged once, as it ended."""
    main, *_ = stages("auto")[0]
    for row in run(tmp_path, main.only(SHORT + SHORT_WITH_ROOT), rate=150, hold_seconds=1, seed=1):
        check(row)


def test_a_router_that_restarts_costs_no_call(tmp_path: Path) -> None:
    """Of two routers one is stopped and started again, and callers have the retry policy that ships."""
    (stage,) = [one for one in stages("auto")[0] if one.routers == 2 and one.transport == "auto"]
    for row in run(tmp_path, stage, rate=100, hold_seconds=0.5, seed=1):
        check(row)
