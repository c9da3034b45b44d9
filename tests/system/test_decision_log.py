"""The decision log of a real router that is killed, stopped, or loses its disk: a short form of `./run prove log`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proofs import log as proof
from tests.support.fleet import Fleet, experiments_file, wait_until
from tests.support.log_books import read_books

pytestmark = pytest.mark.system
VERSIONS = ("v1.2.3",)
"""Others fall back: the log does not care."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet whose router is killed and stopped by tests of this module."""
    folder = tmp_path_factory.mktemp("log")
    with Fleet(
        folder, experiments=experiments_file(), versions=VERSIONS, router_flags=("--drain-timeout", "1")
    ) as running:
        yield running


def test_kills(fleet: Fleet) -> None:
    """What was answered two flushes before a SIGKILL is in the log; no torn line breaks a reader."""
    proof.kills(fleet, times=3, rate=400)


def test_stops(fleet: Fleet) -> None:
    """After a SIGTERM every answer is in the log, once."""
    proof.stops(fleet, times=3, rate=400)


def test_what_earlier_routers_left_is_compressed(fleet: Fleet) -> None:
    """Each start takes a new file and compresses those of routers that have ended; only the running one's is plain."""
    wait_until(lambda: len(list(fleet.log_dir.glob("*.jsonl"))) == 1, "one plain file")
    packed = list(fleet.log_dir.glob("*.jsonl.zst"))
    assert packed
    assert read_books(fleet.log_dir).unreadable == 0


def test_outcomes_across_a_restart(fleet: Fleet) -> None:
    """Outcomes with repeats, sent over a SIGKILL of the router by the client helper: analysis counts each once."""
    proof.outcomes(fleet, count=6000, duplicates=0.05)


@pytest.mark.parametrize("policy", ["keep_serving", "unhealthy", "refuse"])
def test_a_full_disk(tmp_path: Path, policy: str) -> None:
    """Lost lines are counted exactly; callers and health see what the policy says; writing goes on by itself."""
    if (reason := proof.cannot_mount()) is not None:
        pytest.skip(reason)
    proof.full_disk(tmp_path, policy, rate=300)


def test_a_folder_that_is_moved_away(tmp_path: Path) -> None:
    """No call fails and no line is lost."""
    proof.folder_gone(tmp_path, rate=300)


def test_stdout_is_the_log_alone(tmp_path: Path) -> None:
    """With --log-sink stdout a collector reads lines of the log and nothing else; `ready` goes to stderr."""
    with Fleet(tmp_path, experiments=experiments_file(), versions=VERSIONS) as fleet:
        assert fleet.router is not None
        assert fleet.router.stop() == 0
        fleet.log_dir.rename(tmp_path / "before")
        lines = proof.lines_on_stdout(fleet)
        assert {line["event"] for line in lines} == {"allocation", "exposure"}
        assert not fleet.log_dir.exists()
