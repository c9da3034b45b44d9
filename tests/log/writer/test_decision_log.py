"""The decision log on real files and the event loop: nothing is lost at the end, and what is lost is counted."""

import asyncio
import os
import stat
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from abfleet_log.writer import sinks
from abfleet_log.writer.decision_log import DecisionLog
from abfleet_log.writer.log_settings import LogSettings

from tests.support.full_disk import FullDisk

QUIET = LogSettings(flush_interval_seconds=3600, compress="none")
"""Flushes when told."""
Make = Callable[..., DecisionLog]


@pytest.fixture
async def make_log(tmp_path: Path) -> AsyncIterator[Make]:
    """Makes logs that are not open yet; closes them."""
    made: list[DecisionLog] = []

    def make(**changes: Any) -> DecisionLog:
        made.append(DecisionLog(tmp_path / "logs", replace(QUIET, **changes)))
        return made[-1]

    yield make
    for one in made:
        one.close()


async def until(condition: Callable[[], object]) -> None:
    """The writer is a thread: waits for what it does."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


def content(log: DecisionLog) -> bytes:
    return Path(log.path).read_bytes()


async def test_closing_writes_everything(make_log: Make) -> None:
    """What was appended before the end is in the file after it, each line whole, in order, and ended."""
    log = make_log()
    log.open()
    lines = [b'{"n":%d}' % number for number in range(5000)]
    for number, line in enumerate(lines):
        log.append(line)
        if number % 700 == 0:
            log.flush()
    assert log.buffered > 0
    log.close()
    assert content(log) == b"\n".join(lines) + b"\n"
    assert (log.counters.written, log.counters.lost, log.buffered) == (5000, 0, 0)


async def test_it_is_crowded_before_it_is_full(make_log: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """From half of its lines on, or while it fails, what can be done without should stay away."""
    log = make_log(max_lines=10)
    log.open()
    for _ in range(5):
        log.append(b"{}")
    assert not log.crowded
    log.append(b"{}")
    assert log.crowded
    log.flush()
    await until(lambda: not log.buffered)
    assert not log.crowded
    monkeypatch.setattr(DecisionLog, "failing", True)
    assert log.crowded


async def test_a_line_reaches_the_file_without_being_asked(make_log: Make) -> None:
    """The flush comes by itself after the interval."""
    log = make_log(flush_interval_seconds=0.001)
    log.open()
    log.append(b"{}")
    await until(lambda: log.counters.written)
    assert content(log) == b"{}\n"
    assert log.buffered == 0


async def test_a_log_without_lines_sets_no_timer(make_log: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle process is not woken for its log; the first of several lines sets one timer, and after it the next."""
    log, loop = make_log(flush_interval_seconds=0.001), asyncio.get_running_loop()
    set_timers: list[float] = []
    call_later = loop.call_later

    def counted(delay: float, *arguments: Any, **more: Any) -> asyncio.TimerHandle:
        if arguments[0] == log._flush_due:
            set_timers.append(delay)
        return call_later(delay, *arguments, **more)

    monkeypatch.setattr(loop, "call_later", counted)
    log.open()
    assert set_timers == []
    for line in (b"1", b"2", b"3"):
        log.append(line)
    assert len(set_timers) == 1
    await until(lambda: log.counters.written == 3)
    late = [b"4"]
    log.make_late(lambda: [late.pop()] if late else [], lambda: len(late))
    log.flush_soon()
    await until(lambda: log.counters.written == 4)
    assert len(set_timers) == 2


async def test_lines_that_are_made_late_are_in_every_flush(make_log: Make) -> None:
    """What is not made into lines yet stands before lines that somebody waits for, and nothing of it is lost at the
    end."""
    log, late = make_log(), [b"1", b"2"]

    def made() -> list[bytes]:
        now, late[:] = list(late), []
        return now

    log.make_late(made, lambda: len(late))
    assert log.buffered == 2
    log.open()
    assert late == []
    late += [b"3"]
    written: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    log.append_all([b"4"], written.set_result)
    late += [b"5"]
    assert await written
    late += [b"6"]
    log.append(b"7")
    log.close()
    assert content(log).split() == [b"1", b"2", b"3", b"4", b"5", b"7", b"6"]


async def test_many_lines_do_not_wait_for_the_interval(make_log: Make) -> None:
    """However long it is, memory is bounded: past some thousand lines they are handed over."""
    log = make_log()
    log.open()
    for _ in range(10_000):
        log.append(b"{}")
    await until(lambda: log.counters.written >= 8000)
    assert log.buffered == 10_000 - log.counters.written


async def test_the_file_and_its_name(make_log: Make) -> None:
    """decisions-HOST-START-PID.jsonl, in a folder that is made; not for everybody to read."""
    log = make_log()
    log.open()
    path = Path(log.path)
    assert path.name.startswith("decisions-")
    assert path.name.endswith(f"-{os.getpid()}.jsonl")
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0


async def test_two_logs_in_one_folder(make_log: Make) -> None:
    """Two writers never share a file, whatever they have in common."""
    first, second = make_log(), make_log()
    first.open()
    second.open()
    assert first.path != second.path
    first.append(b"1")
    second.append(b"2")
    first.close()
    second.close()
    assert (content(first), content(second)) == (b"1\n", b"2\n")


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """It is an error at the start, not later."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        DecisionLog(tmp_path / "file" / "logs").open()


async def test_a_writer_that_cannot_keep_up(make_log: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that hangs holds up nobody: lines past the bounds are dropped and counted, the rest is written later."""
    free = threading.Event()
    real_write = sinks.write

    def slow(file: int, chunk: bytes, *system: object) -> tuple[int, OSError | None]:
        free.wait(30)
        return real_write(file, chunk)

    monkeypatch.setattr(sinks, "write", slow)
    for bound, kept in (({"max_bytes": 30}, 3), ({"max_lines": 2}, 2)):
        free.clear()
        log = make_log(**bound)
        log.open()
        for number in range(5):
            log.append(b"1234567%d" % number)
            log.append(b"abcdefg%d" % number)
            log.flush()
        assert (log.counters.dropped, log.buffered) == (10 - kept, kept)
        free.set()
        log.close()
        assert (log.counters.written, log.counters.lost, log.buffered) == (kept, 10 - kept, 0)
        assert content(log) == b"".join([b"12345670\n", b"abcdefg0\n", b"12345671\n"][:kept])


async def test_a_write_that_hangs_is_trouble(make_log: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that stalls shows as failing although no call to it has failed, and as well again when it is over."""
    free = threading.Event()
    real_write = sinks.write

    def slow(file: int, chunk: bytes, *system: object) -> tuple[int, OSError | None]:
        free.wait(30)
        return real_write(file, chunk)

    monkeypatch.setattr(sinks, "write", slow)
    now = [100.0]
    log = make_log()
    log._clock = log._writer._clock = lambda: now[0]
    log.open()
    log.append(b"{}")
    log.flush()
    await until(lambda: log._writer.busy_since is not None)
    assert not log.failing
    now[0] += 1.5
    assert log.failing
    free.set()
    await until(lambda: log.counters.written)
    await until(lambda: not log.failing)


async def told(log: DecisionLog, line: bytes | None = b"{}") -> "asyncio.Future[bool]":
    """Appends a line and asks for it."""
    future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    log.append_all([] if line is None else [line], future.set_result)
    return future


async def test_who_waits_is_told_when_it_is_written(make_log: Make) -> None:
    """Without a wait for the interval, in order, and also when there is nothing new; the lines are in the file then."""
    log = make_log()
    log.open()
    waiting = [await told(log, b"%d" % number) for number in range(50)]
    waiting.append(await told(log, None))
    async with asyncio.timeout(30):
        for number, one in enumerate(waiting[:-1]):
            assert await one
            assert b"%d\n" % number in content(log)
        assert await waiting[-1]
        assert await (await told(log, None)), "nothing is under way"


@pytest.mark.parametrize("policy", ["keep_serving", "refuse"])
async def test_who_waits_is_told_that_it_is_not_written(
    make_log: Make, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    """At once, whether the line is kept for later or given up; the next one after the trouble gets through."""
    disk = FullDisk(monkeypatch)
    log = make_log(policy=policy)
    log.open()
    async with asyncio.timeout(30):
        assert not await (await told(log, b"first"))
        assert not await (await told(log, b"second"))
        assert not await (await told(log, None)), "what came before it is not written"
        assert log.failing
        disk.full = False
        if policy == "keep_serving":
            await until(lambda: log.counters.written == 2)
        await until(lambda: not log.failing)  # by itself: kept lines are tried again, else a probe tells
        assert await (await told(log, b"third"))
    kept = b"first\nsecond\n" if policy == "keep_serving" else b""
    assert content(log) == kept + b"third\n"
    assert log.counters.lost == (0 if kept else 2)


async def test_who_waits_for_a_dropped_line(make_log: Make) -> None:
    """It is told so; what fits is written."""
    log = make_log(max_lines=2)
    log.open()
    waiting = [await told(log) for _ in range(3)]
    async with asyncio.timeout(30):
        assert [await one for one in waiting] == [True, True, False]
    assert (log.counters.written, log.counters.dropped) == (2, 1)


async def test_stdout(capfdbinary: pytest.CaptureFixture[bytes], make_log: Make) -> None:
    """The lines, and nothing else, are on standard output; no folder is made."""
    log = make_log(sink="stdout")
    log.open()
    for number in range(3):
        log.append(b"%d" % number)
    log.close()
    assert capfdbinary.readouterr().out == b"0\n1\n2\n"
    assert log.path == "stdout"
