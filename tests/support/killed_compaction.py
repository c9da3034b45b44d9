"""`abfleet logs compact` that kills itself with SIGKILL at its N-th change of the file system, or counts its changes.

    python -m tests.support.killed_compaction FOLDER [N]

A change is what Python is about to do to a file or folder below FOLDER: make, write, rename or remove it. What DuckDB
does to files of its own is not among them. Without N it lives, and prints how many changes there were.
"""

import os
import signal
import sys

from typer.testing import CliRunner

from abfleet.cli import app

CHANGES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def main(folder: str, last: int | None) -> int:
    """Compacts the folder; at change `last`, counted from 1, the process is gone."""
    seen = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event not in CHANGES or not str(arguments[0]).startswith(folder):
            return
        if event == "open" and not int(str(arguments[2])) & WRITES:
            return
        seen += 1
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    result = CliRunner().invoke(app, ["logs", "compact", "--logs", folder])
    print(seen)
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None))
