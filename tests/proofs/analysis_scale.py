"""How long `abfleet analyze` takes on large logs, and how much memory: in a process of its own, as a person runs it.

`./run prove analysis-scale` makes 10 million lines of 1 million users, analyses them as JSON lines, compacts them with
`abfleet logs compact`, and analyses the Parquet; both reports must be the same. `--rows 100_000_000` makes Parquet rows
of a tenth as many users instead, in a compaction's columns without the text of the lines. Everything is in a temporary
folder (TMPDIR), which is refused when it has too little room, and removed. Prints wall time, CPU time and resident
memory; exit code 1 where a bound is missed: CPU seconds of two cores for the wall time that is promised on a quiet
machine with two.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import made_log
from tests.support.made_log import Size

LINES, USERS_IN = 10_000_000, 10
LINE_BYTES, ROW_BYTES = 600, 130
"""On disk: of a JSON line, and of a row of Parquet; with what an analysis writes beside them."""
LINES_SECONDS, PARQUET_SECONDS, HUGE_SECONDS = 45.0, 15.0, 240.0
HUGE_RESIDENT_BYTES = 8e9
CORES = 2
OLD = 1_700_000_000
"""A time long gone: files that nobody has written to since are closed."""


@dataclass(frozen=True, slots=True)
class Run:
    """One process: what it took and what it said."""

    wall_seconds: float
    cpu_seconds: float
    resident_bytes: int
    output: str

    def __str__(self) -> str:
        return (
            f"{self.wall_seconds:.1f} s wall, {self.cpu_seconds:.1f} s CPU, {self.resident_bytes / 1e9:.2f} GB resident"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the proof; 0 when every bound is kept."""
    parser = argparse.ArgumentParser(prog="./run prove analysis-scale", description=__doc__)
    parser.add_argument("--lines", type=int, default=LINES, help="Of the log that is analysed as lines and compacted.")
    parser.add_argument("--rows", type=int, default=0, help="Instead, so many rows of Parquet.")
    wanted = parser.parse_args(arguments)
    count = (wanted.rows or wanted.lines) // made_log.OUTCOMES_IN * made_log.OUTCOMES_IN
    size = Size(count, max(count // USERS_IN, 1))
    with tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name:
        needed = count * ROW_BYTES * 2 if wanted.rows else count * LINE_BYTES * 3 // 2
        free = shutil.disk_usage(name).free
        if free < needed:
            print(f"{name}: {free / 1e9:.0f} GB are free, {needed / 1e9:.0f} are needed; set TMPDIR", file=sys.stderr)
            return 2
        Path(name, "experiments.yaml").write_text(made_log.TEXT)
        missed = huge(Path(name), size) if wanted.rows else large(Path(name), size)
    for line in missed:
        print(f"MISSED: {line}", file=sys.stderr)
    print("missed" if missed else "held")
    return int(bool(missed))


def large(folder: Path, size: Size) -> list[str]:
    """JSON lines, compaction, Parquet. Gives what was missed."""
    logs = folder / "logs"
    logs.mkdir()
    begin = time.monotonic()
    made_log.write_lines(logs, size, files=max(size.lines // 250_000, 2))
    for path in logs.iterdir():
        os.utime(path, (OLD, OLD))
    print(f"{size.lines:,} lines of {size.users:,} users made in {time.monotonic() - begin:.0f} s", flush=True)
    lines = analysed(folder, logs)
    print(f"analyze, JSON lines: {lines}", flush=True)
    compaction = ran("logs", "compact", "--logs", str(logs))
    print(f"logs compact: {compaction}", flush=True)
    parquet = analysed(folder, logs)
    print(f"analyze, compacted Parquet: {parquet}", flush=True)
    share = round(size.lines / LINES, 3)  # lines are a multiple of 7
    missed = [
        f"{what} took {run.cpu_seconds:.1f} s CPU, more than {seconds * CORES * share:.0f}"
        for what, run, seconds in (("JSON lines", lines, LINES_SECONDS), ("Parquet", parquet, PARQUET_SECONDS))
        if share >= 1 and run.cpu_seconds > seconds * CORES * share
    ]
    if rounded(lines.output) != rounded(parquet.output):
        missed.append("the reports of lines and Parquet differ")
    return missed


def huge(folder: Path, size: Size) -> list[str]:
    """Rows of Parquet alone. Gives what was missed."""
    logs = folder / "logs"
    logs.mkdir()
    begin = time.monotonic()
    made_log.write_parquet(
        logs, size, files=max(size.lines // 2_500_000, 2), options="(FORMAT parquet, COMPRESSION zstd)"
    )
    print(f"{size.lines:,} rows of {size.users:,} users made in {time.monotonic() - begin:.0f} s", flush=True)
    run = analysed(folder, logs)
    print(f"analyze, Parquet: {run}", flush=True)
    missed = []
    if run.resident_bytes > HUGE_RESIDENT_BYTES:
        missed.append(f"{run.resident_bytes / 1e9:.2f} GB were resident, more than {HUGE_RESIDENT_BYTES / 1e9:.0f}")
    if run.cpu_seconds > HUGE_SECONDS * CORES * max(size.lines / 100_000_000, 1):
        missed.append(f"{run.cpu_seconds:.0f} s CPU, more than {HUGE_SECONDS * CORES:.0f}")
    return missed


def analysed(folder: Path, logs: Path) -> Run:
    """`abfleet analyze --json`; the report has every call, and nothing is left in the temporary folder."""
    temporary = folder / "temporary"
    temporary.mkdir(exist_ok=True)
    run = ran(
        "analyze", "--logs", str(logs), "--experiments", str(folder / "experiments.yaml"), "--json", temporary=temporary
    )
    (experiment,) = json.loads(run.output)["experiments"]
    assert experiment["srm"]["ok"], experiment["srm"]
    assert list(temporary.iterdir()) == [], "the analysis removes what it writes"
    return run


def ran(*arguments: str, temporary: Path | None = None) -> Run:
    """The command in a process of its own."""
    environment = dict(os.environ, **({} if temporary is None else {"TMPDIR": str(temporary)}))
    begin = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "abfleet", *arguments], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    output = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"abfleet {arguments[0]} ended with {process.returncode}")
    return Run(time.monotonic() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, output)


def rounded(report: str) -> Any:
    """Numbers cut to 9 digits: sums of floats depend on the order of rows, which is nobody's."""
    return json.loads(report, parse_float=lambda text: f"{float(text):.8e}")


if __name__ == "__main__":
    raise SystemExit(main())
