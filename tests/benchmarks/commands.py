"""CPU time that short commands take, in fresh processes: what a person waits for before anything is done.

`python -m tests.benchmarks.commands` starts a fleet of one tiny worker, runs each command some times, and prints the
median seconds of CPU, user and system; exit code 1 where one takes more than its bound.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.up import Up, tiny_models, without_flags

BOUND_SECONDS = 0.5
RUNS = 7


def main() -> int:
    """Measures; 0 where every command keeps to the bound."""
    with tempfile.TemporaryDirectory(prefix="abfleet-commands-") as name:
        folder = Path(name)
        with Up(folder, tiny_models(folder / "models")) as up:
            up.ready()
            environment = without_flags() | {"ABFLEET_ADDRESS": up.address, "ABFLEET_ADMIN": up.admin_address}
            found = {
                words: cpu_seconds(words.split(), environment)
                for words in (
                    "--help",
                    "--version",
                    "status",
                    "status --json",
                    "status --help",
                    "client --user-id user-1 --items 1,2,3",
                    "client --help",
                    "up --help",
                )
            }
    for words, seconds in found.items():
        print(f"{seconds:6.3f} s  abfleet {words}")
    slow = [words for words, seconds in found.items() if seconds > BOUND_SECONDS]
    if slow:
        print(f"more than {BOUND_SECONDS:g} s of CPU: {', '.join(slow)}", file=sys.stderr)
    return int(bool(slow))


def cpu_seconds(words: list[str], environment: dict[str, str]) -> float:
    """Median of the CPU time of RUNS processes, after one that compiles what is not compiled."""
    took = []
    for _ in range(RUNS + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "abfleet", *words],
            check=True,
            stdout=subprocess.DEVNULL,
            env=environment,
            cwd=os.sep,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return statistics.median(took[1:])


if __name__ == "__main__":
    sys.exit(main())
