"""The decision log under kills, stops and broken disks: what was answered and what was logged are compared id by id.

`./run prove log` kills a router 50 times and stops it 50 times under load, and breaks its disk in several ways; the
suite does a few of each. A small disk is a tmpfs, which only root can mount.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from abfleet_experiments.readlog import open_log
from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_transport.rates import between

from abfleet.feedback_client import FeedbackClient, Outcome, Tally
from tests.support.fleet import Fleet, experiments_file, wait_until
from tests.support.load import Load
from tests.support.log_books import Books, read_books

FLUSH_SECONDS = 0.05
GRACE_SECONDS = 2 * FLUSH_SECONDS + 0.05
"""Before a kill: what was answered earlier than this has to be in the log."""
SMALL_DISK_BYTES = 256 * 1024


def main() -> int:
    """Everything at full length; an assertion ends it."""
    with (
        tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name,
        Fleet(Path(name), experiments=experiments_file()) as fleet,
    ):
        print(kills(fleet, times=50, rate=2000), flush=True)
        print(stops(fleet, times=50, rate=2000), flush=True)
        print(outcomes(fleet, count=1_000_000, duplicates=0.05), flush=True)
    for policy in ("keep_serving", "unhealthy", "refuse"):
        with tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name:
            if (reason := cannot_mount()) is not None:
                print(f"full disk, {policy}: skipped: {reason}")
                continue
            print(full_disk(Path(name), policy, rate=1000), flush=True)
    with tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name:
        if (reason := cannot_freeze(Path(name) / "try")) is not None:
            print(f"a disk that stalls: skipped: {reason}")
        else:
            print(stalled_disk(Path(name), rate=1000, seconds=5), flush=True)
    with tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name:
        print(folder_gone(Path(name), rate=1000), flush=True)
    return 0


# --- kills and stops --------------------------------------------------------------------------------------------------


def under_load(fleet: Fleet, rate: float, name: str, end: Callable[[], None], seconds: float) -> tuple[Load, float]:
    """Calls at a rate; after a while `end` ends the router. Gives the calls and the instant just before it."""
    load = Load(fleet.address, rate, name)
    ended = 0.0

    async def story() -> None:
        nonlocal ended
        async with asyncio.timeout(60):
            while len(load.answers) < rate * seconds:
                await asyncio.sleep(0.01)
        ended = time.monotonic()
        await asyncio.to_thread(end)

    asyncio.run(load.until(story()))
    return load, ended


def kills(fleet: Fleet, times: int, rate: float, seconds: float = 0.5) -> str:
    """SIGKILL: what was answered before the last two flushes is in the log, and no torn line breaks a reader."""
    answered = latest = torn = 0
    for number in range(times):
        assert fleet.router is not None
        load, killed = under_load(fleet, rate, f"kill-{number}", fleet.router.kill, seconds)
        books = read_books(fleet.log_dir)
        exposed = books.exposed()
        due = [answer.request_id for at, _, answer in load.answers if at < killed - GRACE_SECONDS]
        missing = [request_id for request_id in due if request_id not in exposed]
        assert not missing, f"kill {number}: {len(missing)} of {len(due)} are missing, {missing[:3]} among them"
        assert books.unreadable == 0
        answered += len(load.answers)
        latest += sum(answer.request_id not in exposed for _, _, answer in load.answers)
        torn = books.torn
        fleet.start_router()
    return (
        f"{times} kills at {rate:g} calls/s: {answered} answers, none missing of those older than "
        f"{GRACE_SECONDS * 1000:g} ms; {latest} younger ones are not in the log; {torn} torn lines, each alone"
    )


def stops(fleet: Fleet, times: int, rate: float, seconds: float = 0.5) -> str:
    """SIGTERM: every answer is in the log, once, and no line is torn."""
    answered = 0
    torn_before = read_books(fleet.log_dir).torn
    for number in range(times):
        router = fleet.router
        assert router is not None
        load, _ = under_load(fleet, rate, f"stop-{number}", lambda router=router: exits_well(router.stop()), seconds)  # type: ignore[misc]
        books = read_books(fleet.log_dir)
        exposed = books.exposed()
        ids = [answer.request_id for _, _, answer in load.answers]
        assert [request_id for request_id in ids if exposed[request_id] != 1] == [], f"stop {number}"
        assert (books.torn, books.unreadable) == (torn_before, 0)
        answered += len(ids)
        fleet.start_router()
    return f"{times} stops at {rate:g} calls/s: {answered} answers, each in the log once"


def exits_well(code: int) -> None:
    assert code == 0, f"exit code {code}"


def outcomes(fleet: Fleet, count: int, duplicates: float) -> str:
    """Outcomes with repeats go through Feedback while the router is killed and started again: each is in the log, and
    counts once by its id."""

    async def send() -> Tally:
        async with FeedbackClient(fleet.address, linger_seconds=0.01, give_up_seconds=120) as client:
            for number in range(count):
                await client.record(
                    Outcome(outcome_id=f"outcome-{number}", type="click", user_id=f"user-{number % 997}")
                )
                if number == count // 2:
                    assert fleet.router is not None
                    await asyncio.to_thread(fleet.router.kill)
                    await asyncio.to_thread(fleet.start_router)
                if number * duplicates % 1 < duplicates:
                    earlier = number * 7919 % (number + 1)
                    await client.record(
                        Outcome(outcome_id=f"outcome-{earlier}", type="click", user_id=f"user-{earlier % 997}")
                    )
        return client.tally

    tally = asyncio.run(send())
    wait_until(lambda: not fleet.status()["decision_log"]["buffered"], "an empty buffer")
    with open_log([fleet.log_dir]) as log:
        query = "SELECT count(*), count(DISTINCT outcome) FROM lines WHERE event = 'outcome' AND type = 'click'"
        lines, counted = log.connection.con.execute(query).fetchone() or (0, 0)
    assert counted == count, f"{counted} of {count} are counted by analysis"
    assert (tally.rejected, tally.lost) == (0, 0)
    assert tally.accepted >= count
    assert tally.accepted + tally.duplicate >= count * (1 + duplicates) * 0.99
    return (
        f"{count} outcomes and repeats over a kill: {tally.accepted} accepted, {tally.duplicate} duplicate at once, "
        f"{tally.retries} retries; {lines} lines, {counted} counted"
    )


# --- broken disks -----------------------------------------------------------------------------------------------------


def cannot_mount() -> str | None:
    """Why a small disk cannot be made here, or None."""
    if os.geteuid() != 0:
        return "mounting a tmpfs needs root"
    with tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name:
        tried = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", name], capture_output=True, text=True, check=False)
        if tried.returncode:
            return tried.stderr.strip() or "mount failed"
        subprocess.run(["umount", name], check=True)
    return None


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[], None]]:
    """A disk that holds little; what it gives makes it large."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "tmpfs", str(folder)], check=True)
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True) and None
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def full_disk(folder: Path, policy: str, rate: float) -> str:
    """The disk fills and gets room again: lost lines are counted exactly, and writing goes on by itself.

    keep_serving: calls go on, and health says nothing; unhealthy: calls go on, and health says so; refuse: whoever gets
    an answer has a line.
    """
    with small_disk(folder / "logs") as enlarge:
        flags = ("--log-policy", policy, "--log-buffer-lines", "200")
        with Fleet(folder, experiments=experiments_file(), router_flags=flags) as fleet:
            load = Load(fleet.address, rate, "full")

            async def story() -> None:
                await shows(lambda: fleet.status()["decision_log"]["lost"] > 100)
                assert fleet.status()["decision_log"]["failing"]
                await shows(lambda: fleet.status()["serving"] is (policy == "keep_serving"))
                enlarge()
                await shows(lambda: not fleet.status()["decision_log"]["failing"])
                await shows(lambda: fleet.status()["serving"])
                already = len(load.answers)
                await shows(lambda: len(load.answers) > already + 100)

            asyncio.run(load.until(story()))
            (books, lost), p99 = settle(fleet), p99_ms(fleet)
        exposed = books.exposed()
        answered = {answer.request_id for _, _, answer in load.answers}
        assert (books.torn, books.unreadable) == (0, 0)
        if policy == "refuse":
            assert {error.code().name for error in load.errors} == {"UNAVAILABLE"}
            assert answered <= set(exposed)
            assert len(exposed) + lost == len(answered) + len(load.errors)
        else:
            assert load.errors == []
            assert len(answered - set(exposed)) == lost
    return (
        f"full disk, {policy}: {len(answered)} answers, {len(load.errors)} refused, {lost} lines lost and counted, "
        f"p99 {p99:.0f} ms"
    )


@contextlib.contextmanager
def freezing_disk(folder: Path) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """A disk on which every write waits between the first and the second function that it gives."""
    folder.mkdir()
    image = folder.with_suffix(".image")
    with image.open("wb") as file:
        file.truncate(32 * 1024 * 1024)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    frozen = False

    def freeze() -> None:
        nonlocal frozen
        subprocess.run(["fsfreeze", "--freeze", str(folder)], check=True)
        frozen = True

    def thaw() -> None:
        nonlocal frozen
        if frozen:
            subprocess.run(["fsfreeze", "--unfreeze", str(folder)], check=True)
            frozen = False

    try:
        yield freeze, thaw
    finally:
        thaw()
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def cannot_freeze(folder: Path) -> str | None:
    """Why a disk cannot be made to stall here, or None."""
    if os.geteuid() != 0:
        return "mounting a disk needs root"
    try:
        with freezing_disk(folder) as (freeze, _):
            freeze()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no disk can be frozen here: {error}"
    return None


def stalled_disk(folder: Path, rate: float, seconds: float) -> str:
    """The disk stalls: calls go on meanwhile, the router says that it cannot log, and no line is lost."""
    with (
        freezing_disk(folder / "logs") as (freeze, thaw),
        Fleet(folder, experiments=experiments_file()) as fleet,
    ):
        load = Load(fleet.address, rate, "stall")

        async def story() -> None:
            await shows(lambda: len(load.answers) > 100)
            await asyncio.to_thread(freeze)
            try:
                already = len(load.answers)
                await shows(lambda: fleet.status()["decision_log"]["failing"])
                await asyncio.sleep(seconds)  # the stall itself
                assert len(load.answers) > already + rate * seconds / 4, "calls go on"
            finally:
                await asyncio.to_thread(thaw)
            await shows(lambda: not fleet.status()["decision_log"]["failing"])

        asyncio.run(load.until(story()))
        (books, lost), p99 = settle(fleet), p99_ms(fleet)
        exposed = books.exposed()
        assert load.errors == []
        assert lost == 0
        assert {answer.request_id for _, _, answer in load.answers} <= set(exposed)
    return f"a disk that stalls {seconds:g} s: {len(load.answers)} answers, all in the log, p99 {p99:.0f} ms"


def folder_gone(folder: Path, rate: float) -> str:
    """The folder is moved away under load: calls go on, and lines are in a new folder of the old name."""
    with Fleet(folder, experiments=experiments_file()) as fleet:
        load = Load(fleet.address, rate, "gone")

        async def story() -> None:
            await shows(lambda: len(load.answers) > 100)
            fleet.log_dir.rename(folder / "moved")
            already = len(load.answers)
            await shows(lambda: len(load.answers) > already + 200)

        asyncio.run(load.until(story()))
        (books, lost), p99 = settle(fleet), p99_ms(fleet)
        exposed = books.exposed() + read_books(folder / "moved").exposed()
        assert load.errors == []
        assert lost == 0
        assert {answer.request_id for _, _, answer in load.answers} <= set(exposed)
        assert books.lines, "the folder is there again"
    return f"folder moved away: {len(load.answers)} answers, all in the log, p99 {p99:.0f} ms"


async def shows(condition: Callable[[], object]) -> None:
    """Waits, while calls go on, until the router shows something."""
    await asyncio.to_thread(wait_until, condition, "the router to show what it must")


def settle(fleet: Fleet) -> tuple[Books, int]:
    """The log when nothing is buffered any more, and the lines that are counted as lost."""
    wait_until(lambda: not fleet.status()["decision_log"]["buffered"], "an empty buffer")
    lost: int = fleet.status()["decision_log"]["lost"]
    with urllib.request.urlopen(f"http://{fleet.metrics_address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    (shown,) = [line for line in text.splitlines() if line.startswith("abfleet_decision_log_dropped_total ")]
    assert float(shown.split()[1]) == lost
    return read_books(fleet.log_dir), lost


def p99_ms(fleet: Fleet) -> float:
    """Of all calls, by the router's own histogram."""
    return between(None, fleet.status()).total.p99_ms or float("nan")


def lines_on_stdout(fleet: Fleet) -> list[dict[str, Any]]:
    """Runs a router of the fleet that logs to standard output for one call, and gives what a collector would read."""
    command = [
        *(sys.executable, "-m", "abfleet_router", "--log-sink", "stdout", "--metrics-port", "off"),
        *("--experiments", str(fleet.experiments_path), "--fleet", str(fleet.fleet_path)),
        *("--listen", fleet.address, "--admin-listen", "127.0.0.1:0", "--log-dir", str(fleet.log_dir)),
    ]
    errors = fleet.folder / "stdout-router.stderr"
    with errors.open("wb") as stderr, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr) as router:
        try:
            wait_until(lambda: "ready " in errors.read_text(), "a router that logs to stdout", 60)
            with fleet.stub() as stub:
                stub.Recommend(RecommendRequest(user_id="user-1"), timeout=10)
        finally:
            router.send_signal(signal.SIGTERM)
            out, _ = router.communicate(timeout=30)
    return [json.loads(line) for line in out.splitlines()]


if __name__ == "__main__":
    raise SystemExit(main())
