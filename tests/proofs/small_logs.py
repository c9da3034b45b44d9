"""What `abfleet analyze --json` of a small log costs: CPU seconds of the command, and of a report in one process.

`./run prove small-logs` makes 1,000 lines and analyses them 20 times, each in a process of its own, and 20 times in one
process. Prints median and least CPU seconds (user and system, of all threads); exit code 1 where a median is above its
bound. Whether bytecode of what is imported is kept makes a second of difference; it is printed too.
"""

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from abfleet_analysis.analyse import analyse

from tests.proofs.analysis_scale import ran
from tests.support import made_log
from tests.support.made_log import Size

LINES, USERS_IN, RUNS = 1_001, 3, 20
COMMAND_SECONDS, REPORT_SECONDS = 2.0, 0.8


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the proof; 0 when both bounds are kept."""
    parser = argparse.ArgumentParser(prog="./run prove small-logs", description=__doc__)
    parser.add_argument("--lines", type=int, default=LINES)
    parser.add_argument("--runs", type=int, default=RUNS)
    wanted = parser.parse_args(arguments)
    count = max(wanted.lines // made_log.OUTCOMES_IN, 1) * made_log.OUTCOMES_IN
    kept = "not kept" if sys.dont_write_bytecode else "kept"
    print(f"{count:,} lines, {wanted.runs} runs; bytecode is {kept}", flush=True)
    with tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name:
        folder = Path(name)
        made_log.write_lines(folder, Size(count, max(count // USERS_IN, 1)), files=1)
        command = told("abfleet analyze --json", commands(folder, wanted.runs))
        report = told("a report in one process", reports(folder, wanted.runs))
    held = command <= COMMAND_SECONDS and report <= REPORT_SECONDS
    print("held" if held else f"MISSED: {COMMAND_SECONDS} s of the command, {REPORT_SECONDS} s of a report")
    return int(not held)


def commands(folder: Path, runs: int) -> list[float]:
    """CPU seconds of each run of the command; a first one fills caches."""
    file = folder / "experiments.yaml"
    file.write_text(made_log.TEXT)
    return [
        ran("analyze", "--logs", str(folder), "--experiments", str(file), "--json").cpu_seconds for _ in range(runs + 1)
    ][1:]


def reports(folder: Path, runs: int) -> list[float]:
    """CPU seconds of each report in this process, after a first one; cycles of objects are collected between them."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    found = []
    gc.disable()
    for _ in range(runs + 1):
        begin = time.process_time()
        analyse([folder], made_log.config())
        found.append(time.process_time() - begin)
        gc.collect()
    gc.enable()
    return found[1:]


def told(what: str, seconds: Sequence[float]) -> float:
    """The median, which is printed with the least."""
    median = statistics.median(seconds)
    print(f"{what}: {median:.2f} s CPU, at best {min(seconds):.2f}", flush=True)
    return median


if __name__ == "__main__":
    raise SystemExit(main())
