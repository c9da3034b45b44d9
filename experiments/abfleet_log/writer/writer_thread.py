"""The thread that writes the decision log: takes batches in order, retries, calls back who waits. Knows no event loop.

A slow or full disk holds up this thread alone. What happens to lines that cannot be written is one of two things: they
are kept and tried again (others are dropped where the buffer ends), or given up at once, when answers wait for them.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from abfleet_log.writer.sinks import Sink

log = structlog.get_logger("abfleet.router.decision_log")

RETRY_SECONDS = 0.25
"""Between attempts while it fails: soon enough to lose little, seldom enough to cost nothing."""
IDLE_SECONDS = 0.5
"""Between checks of the clock without lines: how late a rotation by time may be."""
REPORT_SECONDS = 10.0
"""Between two log lines about the same failure."""

Written = Callable[[bool], None]
"""Called with whether the lines that were waited for are in the sink."""
Waiter = tuple[int, Written]
"""How many lines of its batch it waits for, and the callback."""


@dataclass(slots=True)
class LineBatch:
    """Lines that are written together; what is written is taken off, by the writer's thread."""

    lines: int
    chunk: bytes
    """Each line with its line feed."""
    waiters: Sequence[Waiter] = ()


@dataclass(slots=True)
class LogCounters:
    """`written` and `failed` are changed only by the writer's thread, the rest only on the event loop."""

    lines: int = 0
    """Handed over or dropped."""
    dropped: int = 0
    """Lines for which there was no room."""
    written: int = 0
    failed: int = 0
    """Lines that were given up because they could not be written."""

    @property
    def lost(self) -> int:
        """Lines that are in no file."""
        return self.dropped + self.failed


@dataclass(slots=True)
class WriteFailure:
    """Why the writer cannot write, since when, and when that was last logged; changed only by its thread."""

    error: str
    since: float
    reported: float
    attempt_after: float = field(default=0.0)


class LogWriter:
    """One thread between `start` and `close`."""

    def __init__(
        self,
        sink: Sink,
        counters: LogCounters,
        notify: Callable[[list[tuple[Written, bool]]], None],
        *,
        keeps: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`notify` is called in the thread; `keeps`: lines that cannot be written are kept and tried again."""
        self._sink = sink
        self._counters = counters
        self._notify = notify
        self._keeps = keeps
        self._clock = clock
        self._queue: queue.SimpleQueue[LineBatch | None] = queue.SimpleQueue()
        self._held: deque[LineBatch] = deque()  # taken and not written
        self._thread: threading.Thread | None = None
        self.done_bytes = 0
        """Of lines that were written or given up; changed only by the thread, as all below."""
        self.failure: WriteFailure | None = None
        self.busy_since: float | None = None
        """When the write began that is under way."""

    @property
    def where(self) -> str:
        """The path that the sink writes, or `stdout`, for messages."""
        return self._sink.where

    def start(self) -> None:
        """Opens the sink and starts the thread. Raises OSError."""
        self._sink.open()
        self._thread = threading.Thread(target=self._run, name="decision-log", daemon=True)
        self._thread.start()

    def put(self, batch: LineBatch) -> None:
        """Queues a batch and wakes the thread; never blocks."""
        self._queue.put(batch)

    def close(self, timeout_seconds: float) -> bool:
        """Writes what was handed over and stops; whether that was done in time."""
        self._queue.put(None)
        if self._thread is None:
            return True
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        going = True
        while going:
            try:
                batch = self._queue.get(timeout=RETRY_SECONDS if self.failure else IDLE_SECONDS)
            except queue.Empty:
                self._idle()
                continue
            if batch is None:
                going = False
            else:
                self._held.append(batch)
            self.write_held(last=not going)
        self._sink.close()

    def _idle(self) -> None:
        if self._held:
            self.write_held()
            return
        if self.failure is None:
            self._sink.idle()
            return
        try:  # nothing is kept, so only a probe shows that writing works again
            self._sink.probe()
        except OSError as error:
            self._failed(error)
        else:
            self._recovered()

    def write_held(self, *, last: bool = False) -> None:
        """Writes what is held, as far as it can be; at the last time what cannot be written is given up."""
        waiting = self._keeps and self.failure is not None and self._clock() < self.failure.attempt_after
        while self._held and (last or not waiting):
            batch = self._held[0]
            if not batch.chunk:  # somebody waits for what came before it
                self._notify_waiters(batch, batch.lines if self.failure is None else -1)
                self._held.popleft()
                continue
            self.busy_since = self._clock()
            size, error = self._sink.commit(batch.chunk)
            self.busy_since = None
            lines = batch.lines if size == len(batch.chunk) else batch.chunk.count(b"\n", 0, size)
            self._counters.written += lines
            self.done_bytes += size
            if error is None:
                self._recovered()
            else:
                self._failed(error)
            self._notify_waiters(batch, lines)
            batch.lines, batch.chunk = batch.lines - lines, batch.chunk[size:]
            if error is not None and self._keeps and not last:
                break
            self._counters.failed += batch.lines
            self.done_bytes += len(batch.chunk)
            self._held.popleft()
        for batch in self._held:
            self._notify_waiters(batch, -1)

    def _notify_waiters(self, batch: LineBatch, lines: int) -> None:
        """Calls back who waits for a batch of which so many lines are written; each callback is called once."""
        if batch.waiters:
            results = [(written, position <= lines) for position, written in batch.waiters]
            batch.waiters = ()
            self._notify(results)

    def _failed(self, error: OSError) -> None:
        now = self._clock()
        text = error.strerror or str(error)
        failure = self.failure
        if failure is None or now - failure.reported >= REPORT_SECONDS:
            log.error("the decision log cannot be written", where=self.where, error=text, lost=self._counters.lost)
            failure = WriteFailure(text, failure.since if failure else now, now)
        failure.attempt_after = now + RETRY_SECONDS
        self.failure = failure

    def _recovered(self) -> None:
        if self.failure is not None:
            seconds = round(self._clock() - self.failure.since, 3)
            self.failure = None
            log.warning(
                "the decision log can be written again", where=self.where, seconds=seconds, lost=self._counters.lost
            )
