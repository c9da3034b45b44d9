"""When work on a log may begin again: a while after it has ended, and later and later while it fails."""

import math
from collections.abc import Callable
from typing import Final

from abfleet_process.backoff import backoff_seconds

RETRY_FIRST_SECONDS: Final = 1.0
RETRY_MOST_SECONDS: Final = 60.0


class Pacing:
    """Changed only by `end` and `count`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ended = -math.inf
        self._failures = 0

    @property
    def idle_seconds(self) -> float:
        """How long ago the work ended; infinite before it has for the first time."""
        return self._clock() - self._ended

    def due(self, pause_seconds: float) -> bool:
        """Whether it may begin. pause_seconds: Since its end, where it has not failed."""
        if self._failures:
            pause_seconds = backoff_seconds(self._failures, first=RETRY_FIRST_SECONDS, most=RETRY_MOST_SECONDS)
        return self.idle_seconds >= pause_seconds

    def end(self) -> None:
        """The work has ended, one way or another."""
        self._ended = self._clock()

    def count(self, *, failed: bool) -> None:
        """What came of it."""
        self._failures = self._failures + 1 if failed else 0
