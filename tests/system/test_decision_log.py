"""The decision log of a real router that is killed, stopped, or loses its disk: a short form of `./run prove log`."""

import hmac
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from abfleet_protos.recommender_pb2 import Outcome, RecommendRequest, RecordRequest
from abfleet_protos.recommender_pb2_grpc import FeedbackStub

from tests.proofs import log as proof
from tests.proofs import log_disks
from tests.support import disks
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
    proof.kills(fleet, times=2, rate=400, seconds=0.5)


def test_stops(fleet: Fleet) -> None:
    """After a SIGTERM every answer is in the log, once."""
    proof.stops(fleet, times=2, rate=400, seconds=0.5)


def test_what_earlier_routers_left_is_compressed(fleet: Fleet) -> None:
    """Each start takes a new file and compresses those of routers that have ended; only the running one's is plain."""
    wait_until(lambda: len(list(fleet.log_dir.glob("*.jsonl"))) == 1, "one plain file")
    packed = list(fleet.log_dir.glob("*.jsonl.zst"))
    assert packed
    assert read_books(fleet.log_dir).unreadable == 0


def test_outcomes_across_a_restart(fleet: Fleet) -> None:
    """Outcomes with repeats, sent over a SIGKILL of the router by the client helper: analysis counts each once."""
    proof.outcomes(fleet, count=6000, duplicates=0.05)


def test_a_flood_of_lines(fleet: Fleet) -> None:
    """Lines come as fast as a machine at rest could take them for hours: each is acknowledged and in the log."""
    proof.flood(fleet, lines_a_second=20_000, seconds=0.5, share=0.0)


@pytest.mark.parametrize("policy", ["keep_serving", "unhealthy", "refuse"])
def test_a_full_disk(tmp_path: Path, policy: str) -> None:
    """Lost lines are counted exactly; callers and health see what the policy says; writing goes on by itself."""
    if (reason := disks.cannot_mount()) is not None:
        pytest.skip(reason)
    log_disks.full(tmp_path, policy, rate=300)


def test_a_disk_that_becomes_read_only(tmp_path: Path) -> None:
    """The same when the kernel turns the disk read-only under the open file, and another one is mounted later."""
    (tmp_path / "try").mkdir()
    if (reason := disks.cannot_fail(tmp_path / "try" / "logs")) is not None:
        pytest.skip(reason)
    log_disks.read_only(tmp_path, "keep_serving", rate=300)


def test_a_folder_that_is_moved_away(tmp_path: Path) -> None:
    """No call fails and no line is lost."""
    log_disks.gone(tmp_path, rate=300)


def test_a_disk_that_stalls(tmp_path: Path) -> None:
    """Calls go on, the router says that it cannot log, and every line is written in the end."""
    if (reason := disks.cannot_freeze(tmp_path / "try")) is not None:
        pytest.skip(reason)
    log_disks.stalled(tmp_path, rate=200, seconds=0.5)


def test_flags_of_the_log(tmp_path: Path) -> None:
    """Small files, an fsync for each write, retention, and hashed user ids: seen in the files of one router."""
    key = tmp_path / "key"
    key.write_bytes(b"0123456789abcdef")
    old = tmp_path / "logs" / "decisions-elsewhere-20200101T000000000000Z-1.jsonl"
    old.parent.mkdir()
    old.write_text("{}\n")
    os.utime(old, (0, 0))
    flags = (
        *("--log-rotate-bytes", "2048", "--flush-interval", "0.001", "--fsync", "always", "--log-retention", "1"),
        *("--user-id-hmac-key-file", str(key)),
    )
    hashed = hmac.new(b"0123456789abcdef", b"somebody", "sha256").hexdigest()
    with Fleet(tmp_path, experiments=experiments_file(), versions=VERSIONS, router_flags=flags) as fleet:
        with fleet.stub() as stub:
            for number in range(40):
                stub.Recommend(RecommendRequest(user_id="somebody", request_id=f"r-{number}"), timeout=10)
        with grpc.insecure_channel(fleet.address) as channel:
            record = FeedbackStub(channel).Record
            outcome = Outcome(outcome_id="o", request_id="r-1", user_id="somebody", type="click")
            assert record(RecordRequest(outcomes=[outcome]), timeout=10).accepted == 1
        assert fleet.router is not None
        wait_until(lambda: len(list(fleet.log_dir.glob("*.zst"))) >= 3, "three closed files")
        wait_until(lambda: not old.exists(), "the end of an old file")
        assert fleet.router.stop() == 0
        lines = [line for line in read_books(fleet.log_dir).lines if line["event"] in ("exposure", "outcome")]
    assert len(lines) == 41
    assert {(line["user_id"], line["user_id_hmac"]) for line in lines} == {(None, hashed)}
    assert {line["reason"] for line in lines if line["event"] == "exposure"} == {"allocated"}


@pytest.mark.parametrize(
    ("flags", "told"),
    [(("--user-id-hmac-key-file", "/nowhere"), "/nowhere"), (("--log-policy", "drop"), "keep_serving")],
)
def test_flags_that_are_wrong(tmp_path: Path, flags: tuple[str, ...], told: str) -> None:
    """The router does not start, exits 2, and says why in one line."""
    (tmp_path / "e.yaml").write_text(experiments_file())
    command = [sys.executable, "-m", "abfleet_router", "--experiments", "e.yaml", *flags]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_stdout_is_the_log_alone(tmp_path: Path) -> None:
    """With --log-sink stdout a collector reads lines of the log and nothing else; `ready` goes to stderr."""
    with Fleet(tmp_path, experiments=experiments_file(), versions=VERSIONS) as fleet:
        assert fleet.router is not None
        assert fleet.router.stop() == 0
        fleet.log_dir.rename(tmp_path / "before")
        lines = proof.lines_on_stdout(fleet)
        assert {line["event"] for line in lines} == {"allocation", "exposure"}
        assert not fleet.log_dir.exists()
