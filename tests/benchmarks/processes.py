"""Child processes of the benchmark: start, wait until ready, read CPU and memory, stop. Knows nothing of gRPC."""

import re
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_POLL_S = 0.02
_GRACE_S = 5.0


class NotStarted(Exception):
    """A child ended, or did not say that it is ready, in time; the message has the end of what it wrote."""


def free_port() -> int:
    """Returns a TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU time that a set of process trees has used so far, threads included."""

    cpu_s: float

    def since(self, earlier: "Usage") -> float:
        return self.cpu_s - earlier.cpu_s


class Child:
    """A running process and its children. What it writes goes to two files."""

    def __init__(self, name: str, process: subprocess.Popen, output: Path, errors: Path) -> None:
        self.name, self._output, self._errors = name, output, errors
        self._process = process
        self._tree = psutil.Process(process.pid)

    @classmethod
    def start(
        cls,
        name: str,
        argv: Sequence[str | Path],
        *,
        directory: Path,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> "Child":
        output, errors = directory / f"{name}.out", directory / f"{name}.err"
        with output.open("wb") as sink, errors.open("wb") as error_sink:
            process = subprocess.Popen(
                [str(argument) for argument in argv],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=error_sink,
                env=environment,
                cwd=cwd,
            )
        return cls(name, process, output, errors)

    def wait_for_line(self, pattern: str, *, timeout_s: float) -> None:
        """Returns when a line of the standard output contains `pattern`. Raises NotStarted."""
        self._wait(lambda: re.search(pattern, _text(self._output)) is not None, f"no line with {pattern!r}", timeout_s)

    def wait_for_port(self, port: int, *, timeout_s: float) -> None:
        """Returns when `port` takes connections. Raises NotStarted."""

        def listens() -> bool:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return True
            return False

        self._wait(listens, f"nothing on port {port}", timeout_s)

    def usage(self) -> Usage:
        return Usage(sum(sum(process.cpu_times()[:2]) for process in self.members()))

    def resident_mb(self) -> float:
        return sum(process.memory_info().rss for process in self.members()) / 2**20

    def stop(self) -> None:
        """Asks with SIGTERM, then kills; waits for the end. Stopping twice does nothing."""
        members = self.members() if self._process.poll() is None else []
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(_GRACE_S)
        for member in members:  # a master that was killed leaves its workers
            with suppress(psutil.NoSuchProcess):
                if member.is_running() and member.pid != self._process.pid:
                    member.kill()

    def members(self) -> list[psutil.Process]:
        """The process and its children. Raises NotStarted when it has ended."""
        try:
            return [self._tree, *self._tree.children(recursive=True)]
        except psutil.NoSuchProcess as error:
            raise NotStarted(f"{self.name} has ended: {self._tail()}") from error

    def _wait(self, condition, complaint: str, timeout_s: float) -> None:
        limit = time.monotonic() + timeout_s
        while not condition():
            if self._process.poll() is not None:
                raise NotStarted(f"{self.name} ended with code {self._process.returncode}: {self._tail()}")
            if time.monotonic() > limit:
                self.stop()
                raise NotStarted(f"{self.name}: {complaint} within {timeout_s:g} s: {self._tail()}")
            time.sleep(_POLL_S)

    def _tail(self) -> str:
        """Returns the last line it wrote, which in a traceback says what went wrong."""
        lines = (_text(self._errors) or _text(self._output)).strip().splitlines()
        return lines[-1][-300:] if lines else "it wrote nothing"


def _text(path: Path) -> str:
    return path.read_text(errors="replace")


def usage(children: Sequence[Child]) -> Usage:
    return Usage(sum(child.usage().cpu_s for child in children))
