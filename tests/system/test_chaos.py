"""Replicas that break under traffic cost no call: a short form of `./run prove chaos`."""

from pathlib import Path

import pytest

from tests.proofs.chaos import check, faults, run

pytestmark = pytest.mark.system
SHORT = ("killed", "stopped", "refuses every batch", "wrong version", "pool killed", "pool hangs")


def test_replicas_that_break_cost_no_call(tmp_path: Path) -> None:
    """One replica of the default's two is killed, stopped, fails or lies: no call fails, none falls back. A treatment's
    whole pool is killed or hangs: no call fails, all of its calls fall back. Each call is logged once, as it ended."""
    chosen = [fault for fault in faults() if fault.name in SHORT]
    for row in run(tmp_path, chosen, rate=150, hold_seconds=1, seed=1):
        check(row)
