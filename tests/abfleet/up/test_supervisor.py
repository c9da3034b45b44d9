"""The supervisor with real processes that are tiny, and a clock that is not real."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abfleet.up.supervisor import BackOff, Child, ChildSpec, describe, last_log_line, tail

READY_THEN_WAIT = "import signal; print('ready here', flush=True); signal.pause()"
STUBBORN = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True)\nwhile 1: signal.pause()"
)
WAIT_SECONDS = 30.0


def spec(folder: Path, program: str) -> ChildSpec:
    return ChildSpec(name="child", command=(sys.executable, "-c", program), log_path=folder / "child.log")


class Pauses:
    """A sleep that ends at once and remembers; after `most` of them it never ends."""

    def __init__(self, most: int) -> None:
        self.seconds: list[float] = []
        self.all = asyncio.Event()
        self._most = most

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        if len(self.seconds) == self._most:
            self.all.set()
            await asyncio.Event().wait()


def clock_of_runs(run_seconds: Iterable[float]) -> Callable[[], float]:
    """A clock for children that run for these times: it is read at the start and at the end of each run."""
    now, readings = 0.0, []
    for seconds in run_seconds:
        readings += [now, now + seconds]
        now += seconds
    return iter(readings).__next__


async def test_a_child_that_fails_is_started_again_ever_later(tmp_path: Path) -> None:
    """Pauses double from 0.2 s to 5 s, and every restart is said in one line with the reason."""
    pauses, said = Pauses(7), []
    child = Child(
        spec(tmp_path, "import sys; print('no such thing', file=sys.stderr); sys.exit(3)"),
        say=said.append,
        clock=clock_of_runs([0.0] * 7),
        sleep=pauses,
    )
    child.start()
    await asyncio.wait_for(pauses.all.wait(), WAIT_SECONDS)
    await child.stop(1)
    assert pauses.seconds == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert child.restarts == 7
    assert said[0] == "child ended with code 3 (no such thing); restarting it in 0.2 s"
    assert not child.ever_ready
    assert child.settled.is_set()


async def test_ten_good_seconds_make_the_next_failure_a_first_one(tmp_path: Path) -> None:
    """A child that ran for 10 s starts again after 0.2 s, one that ran for less goes on where it was."""
    pauses = Pauses(4)
    child = Child(
        spec(tmp_path, "raise SystemExit(1)"), say=lambda line: None, clock=clock_of_runs([0, 9.5, 10, 0]), sleep=pauses
    )
    child.start()
    await asyncio.wait_for(pauses.all.wait(), WAIT_SECONDS)
    await child.stop(1)
    assert pauses.seconds == [0.2, 0.4, 0.2, 0.4]


async def test_a_killed_child_comes_back_ready(tmp_path: Path) -> None:
    """After SIGKILL there is another process, ready in its turn; `ready` is cleared in between."""
    said: list[str] = []
    times: list[int | None] = []
    child = Child(spec(tmp_path, READY_THEN_WAIT), say=said.append, on_ready=lambda child: times.append(child.pid))
    child.start()
    await asyncio.wait_for(child.ready.wait(), WAIT_SECONDS)
    first = child.pid
    assert first is not None
    assert child.ready_line == "ready here"
    process = psutil.Process(first)
    process.kill()
    async with asyncio.timeout(WAIT_SECONDS):
        while len(times) < 2:
            await asyncio.sleep(0.01)
    assert child.pid != first
    assert times == [first, child.pid]
    assert said == ["child was ended by SIGKILL; restarting it in 0.2 s"]
    assert not await child.stop(WAIT_SECONDS)
    assert not child.ready.is_set()


async def test_a_stuck_child_is_killed_after_its_grace(tmp_path: Path) -> None:
    """A child that ignores SIGTERM is gone when `stop` returns, and `stop` says that it had to kill."""
    child = Child(spec(tmp_path, STUBBORN), say=lambda line: None)
    child.start()
    await asyncio.wait_for(child.ready.wait(), WAIT_SECONDS)
    process = psutil.Process(child.pid)
    assert await child.stop(0.05)
    assert not process.is_running()
    assert child.pid is None


async def test_a_pause_does_not_hold_up_a_stop(tmp_path: Path) -> None:
    """A child that waits to be started again is stopped at once, and not started any more."""
    pauses = Pauses(1)
    child = Child(spec(tmp_path, "raise SystemExit(1)"), say=lambda line: None, sleep=pauses)
    child.start()
    await asyncio.wait_for(pauses.all.wait(), WAIT_SECONDS)
    assert not await asyncio.wait_for(child.stop(WAIT_SECONDS), WAIT_SECONDS)
    assert child.pid is None
    assert child.restarts == 1


async def test_a_stop_during_the_start_leaves_no_process(tmp_path: Path) -> None:
    """Whatever the moment of `stop`, the process that was being started is gone afterwards."""
    before = set(psutil.Process().children())
    for turns in range(6):
        child = Child(spec(tmp_path, READY_THEN_WAIT), say=lambda line: None)
        child.start()
        for _ in range(turns):
            await asyncio.sleep(0)
        await child.stop(WAIT_SECONDS)
        assert set(psutil.Process().children()) <= before, turns


async def test_a_program_that_is_not_there_is_said(tmp_path: Path) -> None:
    """A command that cannot be run is a failure like any other: no exception ends the supervision."""
    pauses, said = Pauses(1), []
    missing = ChildSpec(name="child", command=("/nonexistent/program",), log_path=tmp_path / "child.log")
    child = Child(missing, say=said.append, sleep=pauses)
    child.start()
    await asyncio.wait_for(pauses.all.wait(), WAIT_SECONDS)
    await child.stop(1)
    assert "restarting it in 0.2 s" in said[0]
    assert "No such file" in said[0]


async def test_a_child_leads_a_session_of_its_own(tmp_path: Path) -> None:
    """Ctrl-C on a terminal reaches the foreground group: children are not in it."""
    child = Child(spec(tmp_path, READY_THEN_WAIT), say=lambda line: None)
    child.start()
    await asyncio.wait_for(child.ready.wait(), WAIT_SECONDS)
    assert child.pid is not None
    assert os.getsid(child.pid) == child.pid != os.getsid(0)
    await child.stop(WAIT_SECONDS)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_a_child_ends_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    """SIGKILL of the supervising process ends its child."""
    program = f"""
import asyncio, sys
from pathlib import Path
from abfleet.up.supervisor import Child, ChildSpec
async def main():
    command = (sys.executable, "-c", {READY_THEN_WAIT!r})
    spec = ChildSpec(name="c", command=command, log_path=Path({str(tmp_path / "c.log")!r}))
    child = Child(spec, say=print)
    child.start()
    await child.ready.wait()
    print(child.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
        gone, alive = psutil.wait_procs([child], timeout=WAIT_SECONDS)
        assert (len(gone), alive) == (1, [])
    finally:
        parent.kill()
        parent.wait()


@given(failures=st.integers(1, 10**9))
def test_pauses_are_bounded_and_never_shrink(failures: int) -> None:
    """However often a child has failed: at least the first pause, at most the last, never less than before."""
    policy = BackOff()
    delay = policy.delay_seconds(failures)
    assert policy.first_seconds <= delay <= policy.most_seconds
    assert delay <= policy.delay_seconds(failures + 1)


def test_endings_are_told_in_words() -> None:
    """Exit codes and signals, those without a name too."""
    assert describe(2) == "ended with code 2"
    assert describe(-signal.SIGTERM) == "was ended by SIGTERM"
    assert describe(-250) == "was ended by signal 250"


def test_the_last_log_line_is_that_of_the_failure(tmp_path: Path) -> None:
    """A plain line is told as it is, cut to fit; of JSON lines the event of an error; ordinary ones are no reason."""
    log = tmp_path / "log"
    assert last_log_line(log) == ""
    log.write_text("first\n\ncannot listen on 127.0.0.1:1\n\n")
    assert last_log_line(log) == "cannot listen on 127.0.0.1:1"
    assert tail(log, 5) == ["first", "cannot listen on 127.0.0.1:1"]
    log.write_text('{"event": "disk full", "level": "error"}\n')
    assert last_log_line(log) == "disk full"
    log.write_text('{"event": "ready", "level": "info"}\n')
    assert last_log_line(log) == ""
    log.write_text("x" * 100_000)
    assert len(last_log_line(log)) == 201
