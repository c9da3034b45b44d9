"""Starts, asks and ends the analysis process."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import structlog

from abfleet_dashboard.tasks import AnalysisDone, AnalysisFailed, AnalysisTask, ShadowDone, ShadowTask

log = structlog.get_logger("abfleet.dashboard")

TASKS_A_PROCESS: Final = 200
"""Then a new one is started: what libraries keep is given back."""
END_SECONDS: Final = 1.0


class AnalysisProcess:
    """The analysis process; an async context manager. It does one task at a time."""

    def __init__(self) -> None:
        self._folder: Path | None = None  # changed only on entering and leaving
        self._process: subprocess.Popen[bytes] | None = None  # changed only by _start and rest, as are the next two
        self._connection: Connection | None = None
        self._tasks = 0
        self._free = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="abfleet-dashboard-"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._end)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        return self._process.pid if self._process else None

    async def ask(self, task: AnalysisTask) -> AnalysisDone | AnalysisFailed:
        """Has a report made. A process that dies meanwhile is a failure like others; the next task gets a new one."""
        answer: AnalysisDone | AnalysisFailed = await self._ask(task)
        return answer

    async def compare(self, task: ShadowTask) -> ShadowDone | AnalysisFailed:
        """Has answers in the shadow compared, likewise."""
        answer: ShadowDone | AnalysisFailed = await self._ask(task)
        return answer

    async def release(self) -> None:
        """Ends the process, so that its memory is free; the next task starts another."""
        async with self._free:
            await asyncio.to_thread(self._end)

    async def _ask(self, task: AnalysisTask | ShadowTask) -> Any:
        async with self._free:
            if self._process is None or self._tasks >= TASKS_A_PROCESS:
                await asyncio.to_thread(self._end)
                self._start()
            self._tasks += 1
            asking = asyncio.ensure_future(asyncio.to_thread(self._send_and_receive, task))
            try:
                return await asyncio.shield(asking)
            except asyncio.CancelledError:
                self._kill()  # then the thread that waits for its answer ends too
                await asyncio.gather(asking, return_exceptions=True)
                raise
            except (EOFError, OSError):
                code = await asyncio.to_thread(self._end, wait_seconds=END_SECONDS)
                return AnalysisFailed(f"the analysis process ended with code {code} and gave no answer", expected=False)

    def _start(self) -> None:
        assert self._folder is not None, "enter it first"
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "abfleet_dashboard.analysing", str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, "TMPDIR": str(self._folder)},
            )
            self._connection = Connection(ours.detach())
        self._tasks = 0
        log.debug("analysis process started", pid=self._process.pid)

    def _send_and_receive(self, task: AnalysisTask | ShadowTask) -> Any:
        assert self._connection is not None
        self._connection.send(task)
        return self._connection.recv()

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _end(self, *, wait_seconds: float = 0.0) -> int | None:
        """Ends it, at once unless it is about to end by itself, and clears its folder; gives its exit code."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if connection is not None:
            with suppress(OSError):
                connection.send(None)  # without it, the end of the connection means that this process has died
            connection.close()
        if process is None:
            return None
        with suppress(subprocess.TimeoutExpired):
            process.wait(wait_seconds)
        process.kill()
        code = process.wait()
        if self._folder is not None:  # what a killed process could not remove
            for left in self._folder.iterdir():
                shutil.rmtree(left, ignore_errors=True)
        return code
