"""`abfleet logs compact` killed with SIGKILL and run again: not a line more or less than before, wherever it was.

Real processes: one is killed before each change that it makes to the file system, then others at moments spread over
their run, which lie inside of what DuckDB does. After each kill the log must be whole for a reader, and when the
command has run again, counts, sums and the digest of all lines must be what they were. `./run prove compaction`; the
suite kills at two changes.
"""

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from abfleet_analysis.reading.open_log import open_log
from abfleet_log.tools.check import Checker, CheckResult
from abfleet_log.tools.read_lines import all_lines

from tests.log.books import exposure, outcome, put
from tests.support.fleet import ROOT
from tests.support.up import run_abfleet, without_flags

MOMENTS = 30
SOONER = 0.8
LINES = 20_000
"""Enough that what DuckDB does takes a while."""


def main() -> int:
    """Everything at full length; an assertion ends it."""
    with tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name:
        base = Path(name)
        made = make(base / "made", LINES)
        changes, seconds = living(base, made)
        print(f"a run that lives: {changes} changes of the file system, {seconds:.1f} s")
        print(killed_at_changes(base, made, range(1, changes + 1)), flush=True)
        print(killed_at_moments(base, made, [seconds * (n + 1) / MOMENTS for n in range(MOMENTS)]), flush=True)
    return 0


def make(folder: Path, lines: int) -> Path:
    """Two closed files over two days, with outcomes, repeats and a torn end."""
    half = lines // 3
    first = [exposure(n, f"user-{n % 97}") for n in range(half)] + [outcome(n, f"user-{n % 97}") for n in range(half)]
    put(folder, [*first, exposure(3, "user-3")])
    late = [exposure(86_400 + n, f"user-{n % 97}", experiment=None, group=None) for n in range(half)]
    put(folder, late, number=2, tail=b'{"schema":1,"event":"expo')
    return folder


def living(base: Path, made: Path) -> tuple[int, float]:
    """How many changes a run makes that is not killed, and how long it takes."""
    folder = Path(shutil.copytree(made, base / "living"))
    begun = time.monotonic()
    done = _start(folder, None).communicate(timeout=120)[0]
    return int(done), time.monotonic() - begun


def killed_at_changes(base: Path, made: Path, changes: Sequence[int]) -> str:
    """Before each of these changes, counted from 1."""
    before = _seen(made)
    for number in changes:
        folder = Path(shutil.copytree(made, base / f"change-{number}"))
        process = _start(folder, number)
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, f"change {number}: it lived"
        _whole_and_the_same(made, folder, before, f"change {number}")
        shutil.rmtree(folder)
    return f"killed before each of {len(changes)} changes: whole for readers, and after another run the same"


def killed_at_moments(base: Path, made: Path, moments: Sequence[float]) -> str:
    """So many seconds after the start of the process; sooner where it has ended by then."""
    before = _seen(made)
    ended = 0
    waiting = list(reversed(moments))
    while waiting:
        seconds = waiting.pop()
        folder = Path(shutil.copytree(made, base / "moment"))
        process = _start(folder, None)
        try:
            process.wait(timeout=seconds)
            waiting.append(seconds * SOONER)
            ended += 1
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate(timeout=120)
        _whole_and_the_same(made, folder, before, f"{seconds:.2f} s")
        shutil.rmtree(folder)
    return (
        f"killed at {len(moments)} moments, {ended} runs beside them had ended: whole, and after another run the same"
    )


def _start(folder: Path, change: int | None) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.support.killed_compaction", str(folder)]
    command += [] if change is None else [str(change)]
    return subprocess.Popen(
        command, cwd=ROOT, env={**without_flags(), "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )


def _seen(folder: Path) -> tuple[object, ...]:
    """What `check` counts, its digest, and what analysis sums up."""
    check = _checked(folder)
    with open_log([folder]) as log:
        query = "SELECT count(*), sum(latency_ms), count(DISTINCT outcome), sum(propensity) FROM lines"
        sums = log.storage.connection.con.execute(query).fetchone()
    return check.lines, check.digest, check.torn, check.by_event, check.by_experiment, check.repeated_exposures, sums


def _checked(folder: Path) -> CheckResult:
    return Checker(gap_seconds=1e9).take(all_lines([folder]))


def _whole_and_the_same(made: Path, folder: Path, before: tuple[object, ...], where: str) -> None:
    known, between = _checked(made), _checked(folder)
    repeats = (between.repeated_exposures - known.repeated_exposures) + between.repeated_outcomes
    assert set(between.by_event) == set(known.by_event), where
    assert between.lines - repeats == known.lines, f"{where}: lines are missing"
    again = run_abfleet("logs", "compact", "--logs", str(folder), folder=folder)
    assert again.returncode == 0, f"{where}: {again.stderr}"
    assert _seen(folder) == before, f"{where}: not the same"
    out = folder / "compacted"
    assert {path.name for path in out.iterdir() if path.is_file()} == {".compact.lock"}, where
    assert not list(out.glob(".compacting*")), where
    assert not list(folder.glob("*.jsonl*")), where


if __name__ == "__main__":
    raise SystemExit(main())
