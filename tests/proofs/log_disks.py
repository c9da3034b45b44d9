"""The decision log on disks that fill, fail, stall or vanish: what callers see, and whether lost lines are counted.

`./run prove log-disks` at 1,000 calls a second; the suite at a third of it. Disks are mounted, which only root can do.
"""

import asyncio
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path

from abfleet_transport.client.rates import between

from tests.support.disks import (
    cannot_fail,
    cannot_freeze,
    cannot_mount,
    failing_disk,
    freezing_disk,
    old_of,
    small_disk,
)
from tests.support.fleet import Fleet, experiments_file, wait_until
from tests.support.load import Load
from tests.support.log_books import Books, read_books

SMALL_DISK_BYTES = 256 * 1024
RATE = 1000.0
VERSIONS = ("v1.2.3",)
"""Others fall back: the log does not care."""
POLICIES = ("keep_serving", "unhealthy", "refuse")
FEW_LINES = ("--log-buffer-lines", "200")
"""So that a disk which is broken for a moment already loses lines."""


def main() -> int:
    """Everything at full length; an assertion ends it."""
    with tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name:
        base = Path(name)
        print(sound(_made(base / "sound"), rate=RATE), flush=True)
        for policy in POLICIES:
            _unless(cannot_mount(), lambda policy=policy: full(_made(base / f"full-{policy}"), policy, rate=RATE))  # type: ignore[misc]
        for policy in POLICIES:
            reason = cannot_fail(_made(base / f"try-{policy}") / "logs")
            _unless(reason, lambda policy=policy: read_only(_made(base / f"ro-{policy}"), policy, rate=RATE))  # type: ignore[misc]
        print(gone(_made(base / "gone"), rate=RATE), flush=True)
        _unless(
            cannot_freeze(_made(base / "try") / "logs"), lambda: stalled(_made(base / "stall"), rate=RATE, seconds=5)
        )
    return 0


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _unless(reason: str | None, proof: Callable[[], str]) -> None:
    print(f"skipped: {reason}" if reason else proof(), flush=True)


def sound(folder: Path, rate: float) -> str:
    """Nothing happens to the disk: what the others are compared with."""
    with Fleet(folder, experiments=experiments_file(), versions=VERSIONS) as fleet:
        load = Load(fleet.address, rate, "sound")
        asyncio.run(load.until(shows(lambda: len(load.answers) > 3 * rate)))
        (books, lost), p99 = settle(fleet), p99_ms(fleet)
        assert (load.errors, lost) == ([], 0)
        assert {answer.request_id for _, _, answer in load.answers} <= set(books.exposed())
    return f"sound disk: {len(load.answers)} answers, all in the log, p99 {p99:.0f} ms"


def full(folder: Path, policy: str, rate: float) -> str:
    """The disk fills and gets room again: lost lines are counted exactly, and writing goes on by itself.

    keep_serving: calls go on, and health says nothing; unhealthy: calls go on, and health says so; refuse: whoever gets
    an answer has a line.
    """
    with small_disk(folder / "logs", SMALL_DISK_BYTES) as enlarge:
        return _broken_for_a_while("full disk", folder, policy, rate=rate, harm=None, mend=enlarge)


def read_only(folder: Path, policy: str, rate: float) -> str:
    """The kernel turns the disk read-only under the open file, and later another one is mounted in its place."""
    with failing_disk(folder / "logs") as (fail, replace):
        return _broken_for_a_while("read-only disk", folder, policy, rate=rate, harm=fail, mend=replace)


def _broken_for_a_while(
    name: str, folder: Path, policy: str, *, rate: float, harm: Callable[[], None] | None, mend: Callable[[], None]
) -> str:
    with Fleet(
        folder, experiments=experiments_file(), versions=VERSIONS, router_flags=("--log-policy", policy, *FEW_LINES)
    ) as fleet:
        load = Load(fleet.address, rate, "broken")

        async def story() -> None:
            if harm is not None:
                await shows(lambda: len(load.answers) > 100)
                await asyncio.to_thread(harm)
            await shows(lambda: fleet.status().decision_log.lost > 100)
            assert fleet.status().decision_log.failing
            await shows(lambda: fleet.status().serving is (policy == "keep_serving"))
            await asyncio.to_thread(mend)
            await shows(lambda: not fleet.status().decision_log.failing)
            await shows(lambda: fleet.status().serving)
            already = len(load.answers)
            await shows(lambda: len(load.answers) > already + 100)

        asyncio.run(load.until(story()))
        (books, lost), p99 = settle(fleet), p99_ms(fleet)
        exposed = books.exposed()
        torn, unreadable = books.torn, books.unreadable
        if harm is not None:
            earlier = read_books(old_of(folder / "logs"))
            exposed, torn, unreadable = (
                exposed + earlier.exposed(),
                torn + earlier.torn,
                unreadable + earlier.unreadable,
            )
        answered = {answer.request_id for _, _, answer in load.answers}
        assert (torn, unreadable) == (0, 0)
        if policy == "refuse":
            assert {error.code().name for error in load.errors} == {"UNAVAILABLE"}
            assert answered <= set(exposed)
            assert len(exposed) + lost == len(answered) + len(load.errors)
        else:
            assert load.errors == []
            assert len(answered - set(exposed)) == lost
    return (
        f"{name}, {policy}: {len(answered)} answers, {len(load.errors)} refused, {lost} lines lost and counted, "
        f"p99 {p99:.0f} ms"
    )


def stalled(folder: Path, rate: float, seconds: float) -> str:
    """The disk stalls: calls go on meanwhile, the router says that it cannot log, and no line is lost."""
    with (
        freezing_disk(folder / "logs") as (freeze, thaw),
        Fleet(folder, experiments=experiments_file(), versions=VERSIONS) as fleet,
    ):
        load = Load(fleet.address, rate, "stall")

        async def story() -> None:
            await shows(lambda: len(load.answers) > 100)
            await asyncio.to_thread(freeze)
            try:
                already = len(load.answers)
                await shows(lambda: fleet.status().decision_log.failing)
                await asyncio.sleep(seconds)  # the stall itself
                assert len(load.answers) > already + rate * seconds / 4, "calls go on"
            finally:
                await asyncio.to_thread(thaw)
            await shows(lambda: not fleet.status().decision_log.failing)

        asyncio.run(load.until(story()))
        (books, lost), p99 = settle(fleet), p99_ms(fleet)
        exposed = books.exposed()
        assert load.errors == []
        assert lost == 0
        assert {answer.request_id for _, _, answer in load.answers} <= set(exposed)
    return f"a disk that stalls {seconds:g} s: {len(load.answers)} answers, all in the log, p99 {p99:.0f} ms"


def gone(folder: Path, rate: float) -> str:
    """The folder is moved away under load: calls go on, and lines are in a new folder of the old name."""
    with Fleet(folder, experiments=experiments_file(), versions=VERSIONS) as fleet:
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
    wait_until(lambda: not fleet.status().decision_log.buffered, "an empty buffer")
    lost: int = fleet.status().decision_log.lost
    with urllib.request.urlopen(f"http://{fleet.metrics_address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    (shown,) = [line for line in text.splitlines() if line.startswith("abfleet_decision_log_dropped_total ")]
    assert float(shown.split()[1]) == lost
    return read_books(fleet.log_dir), lost


def p99_ms(fleet: Fleet) -> float:
    """Of all calls, by the router's own histogram."""
    return between(None, fleet.status()).total.p99_ms or float("nan")


if __name__ == "__main__":
    raise SystemExit(main())
