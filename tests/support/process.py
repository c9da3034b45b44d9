"""One of our programs as a process, started from the installed packages with the interpreter that runs the tests."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
"""A worker starts in about a second; a busy machine may need far longer."""


class Process:
    """One of our programs, with what it says on stdout as lines."""

    def __init__(
        self, name: str, module: str, arguments: Sequence[str], folder: Path, *, before: Sequence[str] = ()
    ) -> None:
        """`before`: a command that becomes this one, having changed what it sees."""
        self.name = name
        self.stderr_path = folder / f"{name}.stderr"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ABFLEET_")}
        # For programs that are themselves tests; and whatever the tests themselves are to find.
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with self.stderr_path.open("ab") as stderr:
            self.popen = subprocess.Popen(
                [*before, sys.executable, "-m", module, *arguments],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                cwd=folder,
                env=environment,
                start_new_session=True,
            )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self._lines.put(line.rstrip("\n"))

    def ready(self) -> list[str]:
        """The words of the `ready` line."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(queue.Empty):
                line = self._lines.get(timeout=0.1)
                if line.startswith("ready "):
                    return line.split()
            if self.popen.poll() is not None and self._lines.empty():
                break
        raise AssertionError(f"{self.name} is not ready: {self.stderr_path.read_text()[-2000:]}")

    def kill(self) -> None:
        """SIGKILL, and waits until it is gone."""
        self.popen.kill()
        self.popen.wait()

    def stop(self) -> int:
        """SIGTERM, and waits; gives the exit code."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
        try:
            return self.popen.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise
