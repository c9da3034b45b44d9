"""`abfleet logs compact` as a process that is killed: a short form of `./run prove compaction`."""

from pathlib import Path

import pytest

from tests.proofs import compaction as proof

pytestmark = pytest.mark.system


def test_killed_while_it_publishes_and_removes(tmp_path: Path) -> None:
    """SIGKILL in the middle of the two steps that change what readers see: nothing is missing, then nothing differs."""
    made = proof.make(tmp_path / "made", lines=300)
    proof.killed_at_changes(tmp_path, made, [16, 22])
