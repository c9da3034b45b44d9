"""`abfleet up` as a process for tests, in a folder of its own with random ports. Nothing outlives the `with`."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tests.support.fleet import VERSIONS, experiments_file, replace, wait_until
from tests.support.tiny_model import add_version

START_SECONDS = 90.0
STOP_SECONDS = 15.0
"""Three times what `up` promises: machines that run tests are busy."""
ANY_PORTS = (
    *("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--metrics-port", "0", "--worker-port", "0"),
    *("--dashboard-port", "off"),
)
"""No dashboard: it would take a machine's time in tests that are about something else."""


def without_flags() -> dict[str, str]:
    """This process' environment without settings of abfleet."""
    return {key: value for key, value in os.environ.items() if not key.startswith("ABFLEET_")}


def tiny_models(root: Path, versions: Sequence[str] = VERSIONS) -> Path:
    """A registry of tiny models."""
    for version in versions:
        add_version(root, version)
    return root


class Up:
    """A running `abfleet up`; what it prints is in `lines`."""

    def __init__(
        self,
        folder: Path,
        registry: Path,
        *flags: str,
        experiments: str | None = None,
        ports: Sequence[str] = ANY_PORTS,
    ) -> None:
        self.folder = folder
        self.experiments_path = folder / "experiments.yaml"
        self.experiments_path.write_text(experiments_file() if experiments is None else experiments)
        self.lines: list[str] = []
        self._command = [
            *(sys.executable, "-m", "abfleet", "up", "--experiments", str(self.experiments_path)),
            *("--registry", str(registry), *ports, *flags),
        ]
        self.popen: subprocess.Popen[str] = None  # type: ignore[assignment]  # set on entering
        self._seen: dict[int, psutil.Process] = {}

    def __enter__(self) -> Self:
        self.popen = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env=without_flags(),
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.lines.append(line.rstrip("\n"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        children = self.children()
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(STOP_SECONDS)
        for process in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        self._reader.join()

    @property
    def text(self) -> str:
        """Everything it has printed."""
        return "\n".join(self.lines)

    def wait_for(self, pattern: str, seconds: float = 30.0) -> "re.Match[str]":
        """The first line that has the pattern."""

        def found() -> "re.Match[str] | None":
            return next((match for line in list(self.lines) if (match := re.search(pattern, line))), None)

        def found_or_ended() -> "re.Match[str] | bool | None":
            return found() or self.popen.poll() is not None

        wait_until(found_or_ended, f"{pattern!r} in:\n{self.text}", seconds)
        if self.popen.poll() is not None:
            self._reader.join(5)
        match = found()
        assert match is not None, f"it ended without {pattern!r}:\n{self.text}"
        return match

    def ready(self) -> Self:
        """Waits until it says so."""
        self.wait_for(r"^ready ", START_SECONDS)
        return self

    @property
    def address(self) -> str:
        """Of the router."""
        return self.wait_for(r"^ready (\S+) admin (\S+)").group(1)

    @property
    def admin_address(self) -> str:
        """Of its admin port."""
        return self.wait_for(r"^ready (\S+) admin (\S+)").group(2)

    def edit(self, experiments: str) -> None:
        """Replaces the experiments file the way editors do."""
        replace(self.experiments_path, experiments)

    def children(self) -> list[psutil.Process]:
        """Every process it has started and that runs, with theirs; those seen earlier too."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.popen.pid).children(recursive=True):
                self._seen[process.pid] = process
        return [process for process in self._seen.values() if process.is_running()]

    def child(self, *words: str) -> psutil.Process:
        """The one process whose command line has all these words."""
        found = []
        for process in self.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if set(words) <= set(process.cmdline()):
                    found.append(process)
        assert len(found) == 1, f"{words}: {found}"
        return found[0]

    def interrupt(self) -> None:
        """As Ctrl-C does."""
        self.popen.send_signal(signal.SIGINT)

    def ended(self) -> int:
        """Waits for its end; gives the exit code."""
        code = self.popen.wait(STOP_SECONDS)
        self._reader.join(5)
        return code


def run_abfleet(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """One `abfleet` command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "abfleet", *arguments],
        cwd=folder,
        env=without_flags(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
