"""A release that is killed at any point: the registry is valid at once, and whole again with the next release."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("killed_release.py")
BEFORE, DONE = 0, 1
LEAST_POINTS = {"promote": 15, "rollback": 15, "archive": 15, "restore": 15, "add": 20}


def outcomes_of(source: Path, scratch: Path, action: str, least: int) -> list[int | None]:
    """Kills an action at each of its points, and gives what came of it; nothing may be wrong after any of them."""
    ended = subprocess.run(
        [sys.executable, PROGRAM, source, scratch, action], capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
    points = [json.loads(line) for line in ended.stdout.splitlines()]
    *killed, last = points
    assert last["before"] is None, "the last child comes to its end"
    assert len(killed) >= least
    assert {"os.fsync", "open", "os.rename"} <= {one["before"] for one in killed}
    assert not [(number, one) for number, one in enumerate(points, 1) if one["problems"] or one["after"]]
    return [one["outcome"] for one in points]


@pytest.mark.parametrize("action", list(LEAST_POINTS))
def test_a_release_may_be_killed_anywhere(trained: Path, tmp_path: Path, action: str) -> None:
    """SIGKILL before each system call of a release, more than 80 points in all: at once every alias and version still
    verifies and registry.json agrees with the folders; and after the next release has begun, nothing is left behind,
    and links, folders and trail are together either as before or as if nothing had happened to the release."""
    outcomes = outcomes_of(trained, tmp_path, action, LEAST_POINTS[action])
    # There is one point of no return: before it nothing has happened, and after it everything will.
    assert outcomes == sorted(outcomes, key=[BEFORE, DONE].index)
    assert {*outcomes} == {BEFORE, DONE}


def test_the_end_of_a_killed_release_may_be_killed_too(trained: Path, tmp_path: Path) -> None:
    """A promotion that was killed once it was certain is being finished, and that is killed at each of its system
    calls: the registry serves at once, and the release after that one finishes the promotion."""
    assert {*outcomes_of(trained, tmp_path, "recover", 12)} == {DONE}
