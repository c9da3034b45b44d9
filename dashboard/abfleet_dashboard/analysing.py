"""The process that analyses: tasks in, reports out, over one connection. Knows the analysis; shows and decides nothing.

`python -m abfleet_dashboard.analysing DESCRIPTOR PARENT`: it is a process of its own, started and not forked, so that
pages are made while it works, and so that what it takes is given back when it ends. It ends with its parent.
"""

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from abfleet_experiments.analysis.analyse import analyse
from abfleet_experiments.analysis.report import Report
from abfleet_experiments.config import Config
from abfleet_experiments.readlog import LogError

PARENT_LOOK_SECONDS = 1.0
NICENESS = 10
"""Calls and pages come first: a report that is a second later hurts nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What to analyse."""

    logs: tuple[Path, ...]
    config: Config
    registry: Path
    memory_limit_bytes: int


@dataclass(frozen=True, slots=True)
class Done:
    """A report, and how long it took."""

    report: Report
    seconds: float


@dataclass(frozen=True, slots=True)
class Failed:
    """Why there is none, for a person. `expected`: the input is at fault, and trying again does not help."""

    reason: str
    expected: bool


def main() -> None:
    """Answers tasks until the parent closes the connection."""
    connection, parent = Connection(int(sys.argv[1])), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    os.nice(NICENESS)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    while True:
        try:
            task: Task = connection.recv()
        except EOFError:
            return
        connection.send(answer(task))


def answer(task: Task) -> Done | Failed:
    """The report, or why there is none. Whatever goes wrong with one task, the next one is taken."""
    began = time.monotonic()
    try:
        report = analyse(task.logs, task.config)
    except LogError as error:
        return Failed(str(error), expected=True)
    except Exception as error:  # noqa: BLE001  # the page says so, and the process goes on
        return Failed(f"the analysis failed: {type(error).__name__}: {error}"[:400], expected=False)
    return Done(report, time.monotonic() - began)


def _end_with(parent: int) -> None:
    """The parent may be killed while a task runs; then nobody else would clear the folder that it made."""
    while os.getppid() == parent:
        time.sleep(PARENT_LOOK_SECONDS)
    shutil.rmtree(tempfile.gettempdir(), ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    main()
