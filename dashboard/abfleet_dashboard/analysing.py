"""The analysis process: it gets tasks and returns reports, over one connection.

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
from multiprocessing.connection import Connection

from abfleet_analysis.analyse import analyse
from abfleet_analysis.reading.open_log import LogError
from abfleet_analysis.shadow.compare import compare_answers
from abfleet_models.offline import offline_facts

from abfleet_dashboard.tasks import AnalysisDone, AnalysisFailed, AnalysisTask, ShadowDone, ShadowTask

PARENT_CHECK_SECONDS = 1.0
NICENESS = 5
"""Calls and pages come first, but a report is made on a busy machine too: this is a third of a share."""


def main() -> None:
    """Answers tasks until the parent sends None or has ended."""
    connection, parent = Connection(int(sys.argv[1])), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    os.nice(NICENESS)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    while True:
        try:
            task: AnalysisTask | ShadowTask | None = connection.recv()
        except EOFError:
            _clear()
            return
        if task is None:
            return
        connection.send(answer(task))


def answer(task: AnalysisTask | ShadowTask) -> AnalysisDone | ShadowDone | AnalysisFailed:
    """The report, or why there is none. Catches every exception, so that the next task can run."""
    began = time.monotonic()
    try:
        if isinstance(task, ShadowTask):
            found = compare_answers(task.logs, memory_limit_bytes=task.memory_limit_bytes)
            return ShadowDone(found, time.monotonic() - began)
        known = offline_facts(task.registry).versions
        report = analyse(task.logs, task.config, detailed=True, known=known, memory_limit_bytes=task.memory_limit_bytes)
    except LogError as error:
        return AnalysisFailed(str(error), expected=True)
    except Exception as error:  # noqa: BLE001  # the page says so, and the process goes on
        return AnalysisFailed(f"the analysis failed: {type(error).__name__}: {error}"[:400], expected=False)
    return AnalysisDone(report, time.monotonic() - began)


def _end_with(parent: int) -> None:
    """Ends this process when the parent is killed, also while a task runs."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    _clear()
    os._exit(1)


def _clear() -> None:
    """Removes the folder for temporary files, which the parent made for this process and can no longer remove."""
    shutil.rmtree(tempfile.gettempdir(), ignore_errors=True)


if __name__ == "__main__":
    main()
