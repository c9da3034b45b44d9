"""When attempts whose time is up are ended: one timer for the calls of all queues, not set while there are none."""

import asyncio
import math
from collections.abc import Callable
from typing import Final

LEAST_SECONDS: Final = 0.02
"""Between two sweeps, each of which visits every call. An answer may be late by this much, against a default of 500
ms."""
EARLY_SECONDS: Final = 0.001
"""By which a loop's timer may come too early."""


class AttemptTimer:
    """Changed only on the event loop.

    Attributes:
        due: When it sweeps next, in seconds of its clock; inf where it does not.
    """

    __slots__ = ("_clock", "_handle", "_sweep", "_swept_at", "due")

    def __init__(self, sweep: Callable[[], float], clock: Callable[[], float]) -> None:
        """`sweep` ends attempts whose time is up, and gives when that of the next one is; inf where there is none."""
        self._sweep = sweep
        self._clock = clock
        self._swept_at = -math.inf
        self._handle: asyncio.TimerHandle | None = None
        self.due = math.inf

    def watch(self, until: float) -> None:
        """Sweeps once an attempt's time is up, at `until`. Not needed where it is due before that."""
        until = max(until, self._swept_at + LEAST_SECONDS)
        if until < self.due:
            self.stop()
            self.due = until
            seconds = max(0.0, until - self._clock()) + EARLY_SECONDS
            self._handle = asyncio.get_running_loop().call_later(seconds, self._run)

    def stop(self) -> None:
        """Does not sweep any more, until it has something to watch."""
        self.due = math.inf
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _run(self) -> None:
        self._handle, self.due, self._swept_at = None, math.inf, self._clock()
        self.watch(self._sweep())
