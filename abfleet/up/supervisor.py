"""Keeps child processes running: starts them, restarts them with back-off, stops them."""

import asyncio
import json
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from abfleet_process.backoff import backoff_seconds

DIE_WITH_PARENT = Path(__file__).with_name("die_with_parent.py")
READY = "ready"
SHOWN_CHARACTERS = 200
TAIL_BYTES = 16 * 1024
MAX_LINE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """One process: what to run, and where its stderr goes."""

    name: str
    command: tuple[str, ...]
    """The first word is the path of the program."""
    log_path: Path
    environment: Mapping[str, str] | None = None
    """None: that of this process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackOff:
    """How long to wait before a child is started again."""

    first_seconds: float = 0.2
    most_seconds: float = 5.0
    reset_after_seconds: float = 10.0
    """A child that ran this long counts as healthy: its next failure is a first one."""

    def failures(self, before: int, ran_seconds: float) -> int:
        """Failures in a row after one more, of a child that ran for `ran_seconds`."""
        return 1 if ran_seconds >= self.reset_after_seconds else before + 1

    def delay_seconds(self, failures: int) -> float:
        """0.2, 0.4, 0.8, … up to the most."""
        return backoff_seconds(failures, first=self.first_seconds, most=self.most_seconds)


class Child:
    """A process that is started again whenever it ends, until `stop`. Starts nothing before `start`.

    A child says that it can do its work by a line on stdout that begins with `ready`.
    """

    def __init__(
        self,
        spec: ChildSpec,
        *,
        say: Callable[[str], None],
        on_ready: Callable[["Child"], None] = lambda child: None,
        on_line: Callable[[str], None] = lambda line: None,
        explain: Callable[["Child"], str] | None = None,
        back_off: BackOff | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.spec = spec  # changed only by the owner; counts from the next start on
        self.ready = asyncio.Event()  # changed only here, as are all that follow
        self.ready_line = ""
        self.settled = asyncio.Event()
        """The first start has come to something: the child was ready, or ended before it was."""
        self.ever_ready = False
        self.restarts = 0
        self._say = say
        self._on_ready = on_ready
        self._on_line = on_line
        """Takes its other lines."""
        self._explain = explain
        """Gives the reason why it ended; without it, the reason is the last line of its log."""
        self._back_off = back_off or BackOff()
        self._clock = clock
        self._sleep = sleep
        self._process: Process | None = None
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        state = "ready" if self.ready.is_set() else "running" if self._process else "down"
        return f"<Child {self.spec.name} {state} pid={self.pid} restarts={self.restarts}>"

    @property
    def pid(self) -> int | None:
        """Of the running process; None between two runs."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Starts the process and restarts it whenever it ends, until `stop`."""
        self._task = asyncio.get_running_loop().create_task(self._keep_running(), name=self.spec.name)

    async def stop(self, grace_seconds: float) -> bool:
        """Asks with SIGTERM, kills what is left after the grace, and returns when it has ended; whether it had to kill.

        A second call, while the first one waits, asks again: for servers that means at once.
        """
        self._stopping.set()
        self._signal(signal.SIGTERM)
        if self._task is None:
            return False
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._task), grace_seconds)
            return False
        self._kill()
        await self._task
        return True

    async def _keep_running(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            began = self._clock()
            try:
                ending = describe(await self._run())
            except OSError as error:
                ending = f"cannot be started: {error}"
            self.settled.set()
            if self._stopping.is_set():
                return
            failures = self._back_off.failures(failures, self._clock() - began)
            delay = self._back_off.delay_seconds(failures)
            self.restarts += 1
            why = self._explain(self) if self._explain else last_log_line(self.spec.log_path)
            self._say(f"{self.spec.name} {ending}{f' ({why})' if why else ''}; restarting it in {delay:g} s")
            await self._pause(delay)

    async def _pause(self, seconds: float) -> None:
        """Waits, at most until `stop`."""
        waits = [asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(self._stopping.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    async def _run(self) -> int:
        """One run, from start to end; gives the exit code, negative for a signal."""
        with self.spec.log_path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *bound_to_this_process(self.spec.command),
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=log,
                env=self.spec.environment,
                limit=MAX_LINE_BYTES,
                # Ctrl-C on a terminal goes to the whole foreground group: workers must outlive the router.
                start_new_session=True,
            )
        self._process = process
        if self._stopping.is_set():  # asked to stop while it was being started
            process.terminate()
        try:
            await self._read(process)
            return await process.wait()
        finally:
            self._process = None
            self.ready.clear()

    async def _read(self, process: Process) -> None:
        """Reads stdout to its end, so that the child never blocks on it."""
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # longer than the limit: not a line of ours
                continue
            if not line:
                return
            text = line.decode(errors="replace").strip()
            if text.split(" ", 1)[0] == READY:
                self.ready_line, self.ever_ready = text, True
                self.ready.set()
                self._on_ready(self)
                self.settled.set()
            else:
                self._on_line(text)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _kill(self) -> None:
        """Ends the process and whatever it has started; it leads a group of its own."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


def bound_to_this_process(command: Sequence[str]) -> tuple[str, ...]:
    """The command, started so that it ends when this process does."""
    return (sys.executable, "-I", "-S", str(DIE_WITH_PARENT), str(os.getpid()), *command)


def describe(code: int) -> str:
    """How a process ended: `was ended by SIGKILL`, `ended with code 1`."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a log; none where it cannot be read."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = log.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-lines:]


def last_log_line(path: Path) -> str:
    """The last line of a log for people: the event of a JSON line, cut to fit in a line; empty if there is none."""
    found = tail(path, 1)
    if not found:
        return ""
    line = found[0].strip()
    with suppress(ValueError):
        entry = json.loads(line)
        if not isinstance(entry, dict) or entry.get("level") not in ("error", "critical"):
            return ""  # an ordinary line of operation says nothing about the end
        line = str(entry.get("event", line))
    return line if len(line) <= SHOWN_CHARACTERS else line[:SHOWN_CHARACTERS] + "…"
