"""The decision log as the event loop sees it: lines are buffered, handed over and counted. Knows no file and no disk.

Lines are handed to a thread once `flush_interval` has passed since the first of them, which writes them with one system
call, so that a slow disk never holds an answer. What there is no room for is dropped and counted. Who must know that
lines are written (an answer under the policy `refuse`, an outcome before it is acknowledged) asks with `append_all`;
then lines are handed over as soon as the thread is free, and all that come meanwhile share the next write.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog
from abfleet_process.background import BackgroundThread, MakeBackground
from abfleet_process.system_files import SystemFiles

from abfleet_log.files import WriterIdentity
from abfleet_log.writer.keeper import LogKeeper
from abfleet_log.writer.log_settings import LogSettings
from abfleet_log.writer.sinks import FileSink, Sink, StdoutSink
from abfleet_log.writer.writer_thread import LineBatch, LogCounters, LogWriter, Waiter, Written

__all__ = ["DecisionLog", "LogCounters"]
log = structlog.get_logger("abfleet.router.decision_log")

FLUSH_LINES = 4096
"""Lines that are handed over without waiting for the flush interval, so that a long one does not undo the bounds."""
STALLED_SECONDS = 1.0
"""A write that takes longer counts as one that fails, for health."""
CLOSE_SECONDS = 10.0
"""At the end, for a disk that does not answer."""
KEEPER_SECONDS = 2.0
"""Before that, for closed files: the lines that are still to be written must not wait for them."""
REPORT_SECONDS = 10.0


class DecisionLog:
    """Appends lines. Changed only on the event loop."""

    def __init__(
        self,
        folder: Path,
        settings: LogSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        background: MakeBackground = BackgroundThread,
        system: SystemFiles = os,
        identity: WriterIdentity | None = None,
    ) -> None:
        """`identity`: of the writing process, in the names of files; None: this one."""
        self.settings = settings = settings or LogSettings()
        self.counters = LogCounters()
        self._clock = clock
        self._lines: list[bytes] = []
        self._late: Callable[[], Sequence[bytes]] = tuple
        self._late_lines: Callable[[], int] = int
        self._waiters: list[Waiter] = []
        self._handed_bytes = 0
        self._awaited = 0  # callbacks of lines handed over that have not been called
        self._flusher: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reported_at = -REPORT_SECONDS
        identity = identity or WriterIdentity(socket.gethostname(), os.getpid())
        self._keeper: LogKeeper | None = None
        sink: Sink
        if settings.sink == "stdout":
            sink = StdoutSink()
        else:
            self._keeper = keeper = LogKeeper(
                folder,
                identity,
                compresses=settings.compress == "zst",
                retention_seconds=settings.retention_seconds,
                wall=wall,
                background=background,
            )
            sink = FileSink(
                folder,
                identity,
                fsync=settings.fsync,
                rotate_bytes=settings.rotate_bytes,
                rotate_seconds=settings.rotate_seconds,
                on_closed=keeper.wake,
                clock=clock,
                wall=wall,
                system=system,
            )
        self._writer = LogWriter(
            sink,
            self.counters,
            self._notify_from_thread,
            keeps=settings.policy != "refuse",
            clock=clock,
            background=background,
        )

    @property
    def path(self) -> str:
        """The file that is written, or `stdout`."""
        return self._writer.where

    @property
    def failing(self) -> bool:
        """Whether lines cannot be written now, or take too long."""
        writer = self._writer
        busy = writer.busy_since
        return writer.failure is not None or (busy is not None and self._clock() - busy > STALLED_SECONDS)

    @property
    def crowded(self) -> bool:
        """Whether lines that can be done without should not come now: it fails, or half of its room is taken."""
        return self.failing or 2 * self.buffered > self.settings.max_lines

    @property
    def buffered(self) -> int:
        """Lines that are not in the kernel yet."""
        return self._late_lines() + len(self._lines) + self._pending_lines

    @property
    def _pending_lines(self) -> int:
        counters = self.counters
        return counters.lines - counters.written - counters.lost

    def open(self) -> None:
        """Makes the folder and a new file and starts the threads. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._writer.start()
        if self._keeper is not None:
            self._keeper.start()
        self.flush()

    def make_late(self, lines: Callable[[], Sequence[bytes]], count: Callable[[], int]) -> None:
        """Has `lines` called before each flush: what has happened since the last one and was not made into lines yet.

        Who has some to make asks for `flush_soon`. `count`: how many that would be now. A line that is made alone
        costs three times what one of many does.
        """
        self._late, self._late_lines = lines, count

    def append(self, line: bytes) -> None:
        """Adds one line, without its line feed."""
        lines = self._lines
        lines.append(line)
        self.flush_soon()
        if len(lines) >= FLUSH_LINES:
            self.flush()

    def extend(self, more: Sequence[bytes]) -> None:
        """Adds lines, each without its line feed."""
        lines = self._lines
        lines += more
        self.flush_soon()
        if len(lines) >= FLUSH_LINES:
            self.flush()

    def append_all(self, lines: Sequence[bytes], written: Written) -> None:
        """Adds lines that belong together and calls back on the loop, later.

        True: they and every line before them are in the kernel, under fsync `always` on disk. False as soon as one of
        them is known not to be; some may be there all the same. Without lines it is about those before.
        """
        self._lines += self._late()
        self._lines += lines  # together, so that no line of them is in another batch than the callback
        assert self._loop is not None, "open comes first"
        if not self._waiters and not self._awaited:
            self._loop.call_soon(self._flush_awaited)
        self._waiters.append((len(self._lines), written))

    def _flush_awaited(self) -> None:
        if self._waiters and not self._awaited:
            self.flush()

    def flush_soon(self) -> None:
        """Flushes when the interval has passed since this was asked first: there is a line, or one to be made late."""
        if self._flusher is None and self._loop is not None:
            self._flusher = self._loop.call_later(self.settings.flush_interval_seconds, self._flush_due)

    def _flush_due(self) -> None:
        self._flusher = None
        self.flush()

    def flush(self) -> None:
        """Hands the buffered lines and their callbacks to the writer; drops lines that exceed the bounds."""
        self._lines += self._late()
        lines, waiters = self._lines, self._waiters
        if not lines and not waiters:
            return
        self._lines, self._waiters = [], []
        waiting_lines, waiting_bytes = self._pending_lines, self._handed_bytes - self._writer.done_bytes
        count = len(lines)
        self.counters.lines += count
        lines.append(b"")
        chunk = b"\n".join(lines)
        settings = self.settings
        if waiting_lines + count > settings.max_lines or waiting_bytes + len(chunk) > settings.max_bytes:
            count, chunk = self._cut(lines, settings.max_lines - waiting_lines, settings.max_bytes - waiting_bytes)
            dropped = [waiter for waiter in waiters if waiter[0] > count]
            waiters = [waiter for waiter in waiters if waiter[0] <= count]
            if dropped:
                assert self._loop is not None
                self._awaited += len(dropped)
                self._loop.call_soon(self._notify, [(written, False) for _, written in dropped])
        if not count and not waiters:
            return
        self._handed_bytes += len(chunk)
        self._awaited += len(waiters)
        self._writer.put(LineBatch(count, chunk, waiters))

    def _cut(self, lines: list[bytes], room_lines: int, room_bytes: int) -> tuple[int, bytes]:
        """As many of the lines as there is room for; the rest is dropped and counted."""
        *lines, _ = lines
        count = size = 0
        for line in lines[: max(0, room_lines)]:
            size += len(line) + 1
            if size > room_bytes:
                break
            count += 1
        self.counters.dropped += len(lines) - count
        now = self._clock()
        if now - self._reported_at >= REPORT_SECONDS:
            self._reported_at = now
            log.error(
                "the decision log's buffer is full, so lines are dropped", where=self.path, lost=self.counters.lost
            )
        return count, b"".join(line + b"\n" for line in lines[:count])

    def _notify_from_thread(self, results: list[tuple[Written, bool]]) -> None:
        """Called in the writer's thread; the callbacks run on the event loop."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._notify, results)

    def _notify(self, results: list[tuple[Written, bool]]) -> None:
        self._awaited -= len(results)
        for written, ok in results:
            try:
                written(ok)
            except Exception:  # one fault must not keep the others waiting
                log.exception("a callback for written lines failed")
        self._flush_awaited()

    def close(self) -> None:
        """Writes everything and closes; a disk that does not answer is given up after a while."""
        if self._flusher is not None:
            self._flusher.cancel()
        self.flush()
        if self._keeper is not None and not self._keeper.close(KEEPER_SECONDS):
            log.warning("closed log files are still being looked after, and are left as they are", where=self.path)
        if not self._writer.close(CLOSE_SECONDS):
            log.error("the decision log was not written to its end in time", where=self.path, lines=self.buffered)
        elif self.counters.lost:
            log.error(
                "the decision log is not complete: some lines were lost", where=self.path, lost=self.counters.lost
            )
