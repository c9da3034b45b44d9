"""The decision log's writing half: lines in memory, one file, one writer thread. Knows bytes and files, no schema.

Lines are gathered on the event loop and handed over every `flush_interval`; the thread writes them with one system
call, so that a slow disk never holds an answer. What cannot be kept or written is counted.
"""

import asyncio
import os
import queue
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

log = structlog.get_logger("abfleet.router.decision_log")

MAX_PENDING_BYTES = 64 * 1024 * 1024
"""Lines not yet written; about 100,000 calls, two seconds of a router's full speed."""


@dataclass(slots=True)
class LogCounters:
    """`written` and `failed` are changed only by the writer thread, the rest only on the event loop."""

    lines: int = 0
    dropped: int = 0
    written: int = 0
    failed: int = 0
    """Lines that could not be written."""

    @property
    def lost(self) -> int:
        """Lines that are in no file."""
        return self.dropped + self.failed


class DecisionLog:
    """Appends lines to `decisions-HOST-START-PID.jsonl` in a folder that it makes."""

    def __init__(self, folder: Path, *, flush_interval_seconds: float = 0.05) -> None:
        self.folder = folder
        self.counters = LogCounters()
        started = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        self.path = folder / f"decisions-{socket.gethostname()}-{started}-{os.getpid()}.jsonl"
        self._flush_interval_seconds = flush_interval_seconds
        self._lines: list[bytes] = []  # changed only on the event loop
        self._handed_over: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self._handed_bytes = 0  # changed only on the event loop
        self._written_bytes = 0  # changed only by the writer thread, failed ones included
        self._flusher: asyncio.TimerHandle | None = None
        self._writer: threading.Thread | None = None
        self._file: int | None = None

    def open(self) -> None:
        """Makes the folder and the file and starts the writer. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        self._writer = threading.Thread(target=self._write_all, name="decision-log", daemon=True)
        self._writer.start()
        self._tick()

    def append(self, line: bytes) -> None:
        """Adds one line, without its line feed."""
        self._lines.append(line)

    @property
    def buffered(self) -> int:
        """Lines that are not in the kernel yet."""
        counters = self.counters
        return len(self._lines) + counters.lines - counters.written - counters.lost

    def _tick(self) -> None:
        self.flush()
        self._flusher = asyncio.get_running_loop().call_later(self._flush_interval_seconds, self._tick)

    def flush(self) -> None:
        """Hands over what has gathered."""
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        self.counters.lines += len(lines)
        if self._handed_bytes - self._written_bytes > MAX_PENDING_BYTES:
            self.counters.dropped += len(lines)
            return
        lines.append(b"")
        chunk = b"\n".join(lines)
        self._handed_bytes += len(chunk)
        self._handed_over.put((len(lines) - 1, chunk))

    def _write_all(self) -> None:
        mend = b""  # ends a line of which only a part could be written, so that the next line is whole
        while (handed := self._handed_over.get()) is not None:
            count, chunk = handed
            size, error = self._write(mend + chunk)
            if error is None:
                mend = b""
                self.counters.written += count
            else:
                done = (mend + chunk)[:size]
                whole = done.removeprefix(mend).count(b"\n")
                mend = mend if not done else b"" if done.endswith(b"\n") else b"\n"
                self.counters.written += whole
                self.counters.failed += count - whole
                log.error("decision log cannot be written", path=str(self.path), lines=count - whole, error=str(error))
            self._written_bytes += len(chunk)

    def _write(self, chunk: bytes) -> tuple[int, OSError | None]:
        """Bytes written, and why not all of them."""
        assert self._file is not None, "open comes first"
        view, size = memoryview(chunk), 0
        try:
            while size < len(chunk):
                size += os.write(self._file, view[size:])
        except OSError as error:
            return size, error
        return size, None

    def close(self) -> None:
        """Writes everything and closes the file."""
        if self._flusher is not None:
            self._flusher.cancel()
        self.flush()
        self._handed_over.put(None)
        if self._writer is not None:
            self._writer.join()
        if self._file is not None:
            os.close(self._file)
            self._file = None
