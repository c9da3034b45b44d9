"""What writes the decision log beside the event loop: takes batches in order, retries, calls back who waits.

A slow or full disk holds up this thread alone. What happens to lines that cannot be written is one of two things: they
are kept and tried again (others are dropped where the buffer ends), or given up at once, when answers wait for them.
"""

import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog
from abfleet_process.background import BackgroundThread, MakeBackground

from abfleet_log.writer.sinks import Sink

log = structlog.get_logger("abfleet.router.decision_log")

RETRY_SECONDS = 0.25
"""Between attempts while it fails: soon enough to lose little, seldom enough to cost nothing."""
IDLE_SECONDS = 0.5
"""Between checks of the clock without lines: how late a rotation by time may be."""
WRITE_BYTES = 1024 * 1024
"""Of batches that are written as one where several wait: a disk that takes long is asked seldom enough to keep up."""
EARLY_SECONDS = 0.002
"""By which a timer may come too early."""
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
    """Writes between `start` and `close`, on a thread unless told otherwise."""

    def __init__(
        self,
        sink: Sink,
        counters: LogCounters,
        notify: Callable[[list[tuple[Written, bool]]], None],
        *,
        keeps: bool,
        clock: Callable[[], float] = time.monotonic,
        background: MakeBackground = BackgroundThread,
    ) -> None:
        """`notify` is called in the thread; `keeps`: lines that cannot be written are kept and tried again."""
        self._sink = sink
        self._counters = counters
        self._notify = notify
        self._keeps = keeps
        self._clock = clock
        self._queue: queue.SimpleQueue[LineBatch | None] = queue.SimpleQueue()
        self._held: deque[LineBatch] = deque()  # taken and not written
        self._background = background("decision-log", self._round)
        self._started = False
        self._idle_at = 0.0  # when nothing has come for a while; changed only by `_round`
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
        self._started = True
        self._background.start()

    def put(self, batch: LineBatch) -> None:
        """Queues a batch and wakes the thread; never blocks."""
        self._queue.put(batch)
        self._background.wake()

    def close(self, timeout_seconds: float) -> bool:
        """Writes what was handed over and stops; whether that was done in time."""
        self._queue.put(None)
        self._background.wake()
        return not self._started or self._background.join(timeout_seconds)

    def _round(self) -> float | None:
        """Writes what was handed over; where that is nothing for a while, looks after the file."""
        if self._queue.empty():
            if (left := self._idle_at - self._clock()) > EARLY_SECONDS:
                return left  # woken for a batch that the last round has taken
            self._idle()
        while not self._queue.empty():  # nobody else takes from it
            batch = self._queue.get()
            if batch is None:
                self.write_held(last=True)
                self._sink.close()
                return None
            self._held.append(batch)
            if self._queue.empty():
                self.write_held()
        seconds = RETRY_SECONDS if self.failure else IDLE_SECONDS
        self._idle_at = self._clock() + seconds
        return seconds

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
            batch = self._joined()
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

    def _joined(self) -> LineBatch:
        """The first batch that is held, with as many after it as one write may take."""
        held = self._held
        if len(held) == 1 or not held[0].chunk:
            return held[0]
        lines = size = 0
        chunks: list[bytes] = []
        waiters: list[Waiter] = []
        while held and held[0].chunk and (not chunks or size + len(held[0].chunk) <= WRITE_BYTES):
            batch = held.popleft()
            waiters += [(lines + position, written) for position, written in batch.waiters]
            chunks.append(batch.chunk)
            lines, size = lines + batch.lines, size + len(batch.chunk)
        held.appendleft(LineBatch(lines, b"".join(chunks), waiters))
        return held[0]

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
