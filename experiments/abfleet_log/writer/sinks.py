"""Where lines of the decision log go: files that rotate, or stdout. Bytes, files and fsync.

A sink is used by one thread. `commit` says how many bytes are in for certain, whatever went wrong after them.
"""

import contextlib
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import structlog
from abfleet_process.system_files import SystemFiles

from abfleet_log.files import WriterIdentity, create, in_place, probe
from abfleet_log.writer.log_settings import Fsync

log = structlog.get_logger("abfleet.router.decision_log")

FSYNC_SECONDS = 1.0
"""Between two fsyncs under `interval`: what a loss of power may cost."""
ROTATE_RETRY_SECONDS = 1.0
"""After a new file could not be created; until then lines go to the old one."""
STDOUT = 1
FULL = (errno.ENOSPC, errno.EDQUOT)
"""The file itself is sound, and goes on when there is room again."""


class Sink(Protocol):
    """Where the writer's thread puts chunks of whole lines."""

    @property
    def where(self) -> str:
        """The path of the file, or `stdout`, for messages."""

    def open(self) -> None:
        """Opens the sink for writing. Raises OSError."""

    def commit(self, chunk: bytes) -> tuple[int, OSError | None]:
        """Writes lines: the bytes of whole lines that are in for certain, and why not all of them."""

    def idle(self) -> None:
        """Called now and then when nothing is to be written."""

    def probe(self) -> None:
        """Raises OSError while a line could not be written."""

    def close(self) -> None:
        """Puts what was written where `fsync` says, and closes."""


class FileSink:
    """`decisions-HOST-START-PID.jsonl`, one after the other. Changed only by the writer's thread."""

    def __init__(
        self,
        folder: Path,
        identity: WriterIdentity,
        *,
        fsync: Fsync,
        rotate_bytes: int,
        rotate_seconds: float,
        on_closed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        system: SystemFiles = os,
    ) -> None:
        self._folder = folder
        self._identity = identity
        self._fsync = fsync
        self._rotate_bytes = rotate_bytes
        self._rotate_seconds = rotate_seconds
        self._on_closed = on_closed
        self._clock = clock
        self._wall = wall
        self._system = system
        self._file: int | None = None
        self._path = folder / identity.name(0)
        self._size = 0  # bytes of whole lines
        self._torn = False  # the file ends with a part of a line that could not be cut off
        self._opened = 0.0
        self._rotate_after = 0.0
        self._synced = 0.0
        self._unsynced = False

    @property
    def where(self) -> str:
        return str(self._path)

    def open(self) -> None:
        file, path = create(self._folder, self._identity, self._wall, self._system)
        self._file, self._path, self._size, self._torn, self._unsynced = file, path, 0, False, False
        self._opened = self._synced = self._clock()

    def commit(self, chunk: bytes) -> tuple[int, OSError | None]:
        if self._file is not None and not in_place(self._file, self._path):
            self._abandon_file()
        size, error = self._commit(chunk)
        if isinstance(error, FileNotFoundError):  # it was removed during the write: once more, in a new file
            size, error = self._commit(chunk)
        return size, error

    def _commit(self, chunk: bytes) -> tuple[int, OSError | None]:
        try:
            if self._file is None:
                self.open()
            assert self._file is not None
            if self._torn:
                self._system.write(self._file, b"\n")
                self._size += 1
                self._torn = False
        except OSError as problem:
            return 0, problem
        size, error = write(self._file, chunk, self._system)
        whole = size if size == len(chunk) else chunk.rfind(b"\n", 0, size) + 1
        self._unsynced |= whole > 0
        if whole < size:
            self._cut(size - whole)
        if (sync_error := self._sync_if_due()) is not None:
            self._abandon_file()
            return 0, sync_error
        self._size += whole
        if error is not None and error.errno not in FULL:
            self._abandon_file()  # a new file may work where this one fails
        self._rotate_if_due()
        return whole, error

    def _cut(self, torn: int) -> None:
        """Takes the last `torn` bytes off, which are a part of a line; where that fails, notes that its end is torn.

        Counted from the size that is there: somebody may have truncated the file, and it must not become longer.
        """
        assert self._file is not None
        try:
            self._system.ftruncate(self._file, max(0, os.fstat(self._file).st_size - torn))
        except OSError:
            self._torn = True

    def _sync_if_due(self) -> OSError | None:
        """Syncs what was written if `fsync` asks for it now; the error if that fails or the file lost its name."""
        assert self._file is not None
        if not in_place(self._file, self._path):
            return FileNotFoundError(errno.ENOENT, "the file was removed", str(self._path))
        try:
            if self._unsynced and (
                self._fsync == "always" or (self._fsync == "interval" and self._clock() - self._synced >= FSYNC_SECONDS)
            ):
                self._system.fsync(self._file)
                self._unsynced, self._synced = False, self._clock()
        except OSError as error:
            return error
        return None

    def _rotate_if_due(self) -> None:
        now = self._clock()
        due = self._size >= self._rotate_bytes or (self._size and now - self._opened >= self._rotate_seconds)
        if self._file is None or not due or now < self._rotate_after:
            return
        old, old_path, unsynced = self._file, self._path, self._unsynced
        try:
            self.open()
        except OSError as error:
            self._rotate_after = now + ROTATE_RETRY_SECONDS
            log.warning(
                "a new log file could not be created; lines still go to the old one",
                path=str(old_path),
                error=str(error),
            )
            return
        self._finish(old, unsynced=unsynced)
        self._on_closed()

    def _finish(self, file: int, *, unsynced: bool) -> None:
        try:
            if unsynced and self._fsync != "never":
                self._system.fsync(file)
        except OSError as error:
            log.warning("a closed log file could not be synced; its last lines may not be on disk", error=str(error))
        finally:
            self._system.close(file)

    def _abandon_file(self) -> None:
        """Closes the file, so that the next commit opens a new one."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._system.close(self._file)
            self._file = None

    def idle(self) -> None:
        if self._file is None:
            return
        if (problem := self._sync_if_due()) is not None:
            log.warning(
                "the log file cannot be used any more; the next lines go to a new one",
                path=str(self._path),
                error=str(problem),
            )
            self._abandon_file()
        self._rotate_if_due()

    def probe(self) -> None:
        probe(self._folder, self._system)

    def close(self) -> None:
        if self._file is not None:
            self._finish(self._file, unsynced=self._unsynced)
            self._file = None


class StdoutSink:
    """Lines for a collector that reads this process's standard output, and rotates and keeps them itself."""

    where = "stdout"

    def __init__(self, file: int = STDOUT) -> None:
        self._file = file
        self._torn = False

    def open(self) -> None:
        os.fstat(self._file)

    def commit(self, chunk: bytes) -> tuple[int, OSError | None]:
        separator = b"\n" if self._torn else b""
        size, error = write(self._file, separator + chunk)
        done = max(0, size - len(separator))
        if size:
            self._torn = done > 0 and not chunk.endswith(b"\n", 0, done)
        return chunk.rfind(b"\n", 0, done) + 1, error

    def idle(self) -> None:
        """Does nothing: each chunk is written at once, and a pipe has no fsync."""

    def probe(self) -> None:
        """Never raises: only a real write shows whether the reader still reads."""

    def close(self) -> None:
        """Does nothing: standard output belongs to the process."""


def write(file: int, chunk: bytes, system: SystemFiles = os) -> tuple[int, OSError | None]:
    """Bytes written, and why not all of them."""
    size, view = 0, memoryview(chunk)
    try:
        while size < len(chunk):
            size += system.write(file, view[size:])
    except OSError as error:
        return size, error
    return size, None
