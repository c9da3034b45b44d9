"""Compresses closed files of the decision log, and removes them after their retention time.

A thread of low priority, unless told otherwise. It never touches a file that a process still writes.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from abfleet_process.background import BackgroundThread, MakeBackground

from abfleet_log.files import CannotCompress, WriterIdentity, compress, expired, locked_if_closed, plain_files

log = structlog.get_logger("abfleet.router.decision_log")

ROUND_SECONDS = 60.0
"""Between two rounds without a rotation; retention is counted in days."""
NICENESS = 10
"""Serving comes first on a busy machine."""


class LogKeeper:
    """Compresses and removes closed files of one folder, from `start` to `close`."""

    def __init__(
        self,
        folder: Path,
        identity: WriterIdentity,
        *,
        compresses: bool,
        retention_seconds: float,
        wall: Callable[[], float] = time.time,
        background: MakeBackground = BackgroundThread,
    ) -> None:
        self._folder = folder
        self._identity = identity
        self._compresses = compresses
        self._retention_seconds = retention_seconds
        self._wall = wall
        self._closing = threading.Event()
        self._background = background("log-keeper", self._round, niceness=NICENESS)
        self.compressed = 0
        """Files; changed only by the keeper's thread, as `removed` is."""
        self.removed = 0

    def start(self) -> None:
        """Begins with what earlier processes left."""
        self._background.start()

    def wake(self) -> None:
        """Starts a round at once, because a file has been closed."""
        self._background.wake()

    def close(self, timeout_seconds: float) -> bool:
        """Stops, whether in time or not; a file that is being compressed stays as it was."""
        self._closing.set()
        self._background.wake()
        return self._background.join(timeout_seconds)

    def _round(self) -> float | None:
        if self._closing.is_set():
            return None
        self.tidy()
        return ROUND_SECONDS

    def tidy(self) -> None:
        """Compresses closed files, then removes those older than the retention. Logs errors, raises none."""
        try:
            if self._compresses:
                for path in plain_files(self._folder):
                    if self._closing.is_set():
                        return
                    self._compress(path)
            if self._retention_seconds:
                self._remove_expired()
        except CannotCompress as error:
            log.warning("closed log files cannot be compressed", error=str(error))
            self._compresses = False
        except OSError as error:
            log.warning(
                "closed log files could not be compressed or removed", folder=str(self._folder), error=str(error)
            )

    def _compress(self, path: Path) -> None:
        with locked_if_closed(path, self._identity, self._wall) as file:
            if file is not None and compress(file, path, lambda: not self._closing.is_set()) is not None:
                self.compressed += 1

    def _remove_expired(self) -> None:
        for path in expired(self._folder, self._retention_seconds, self._wall()):
            with locked_if_closed(path, self._identity, self._wall) as file:
                if file is not None:
                    path.unlink(missing_ok=True)
                    self.removed += 1
                    log.info("a log file was removed because its retention time is over", path=str(path))
