"""Whether anybody watches the dashboard: a page was asked for lately."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

WATCHED_SECONDS: Final = 30.0
"""A page that is open asks every few seconds; one in a tab behind others may take this long."""


class Visits:
    """Changed by `note` alone; everything on one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: float | None = None
        self._came = asyncio.Event()

    @property
    def watched(self) -> bool:
        """Whether a page was asked for lately."""
        return self._last is not None and self._clock() - self._last < WATCHED_SECONDS

    def note(self) -> None:
        """Records a visit, and wakes `pause` if nobody was watching."""
        if not self.watched:
            self._came.set()
        self._last = self._clock()

    async def pause(self, seconds: float) -> None:
        """Waits for `seconds`, or until the first visit after nobody was watching."""
        self._came.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._came.wait(), seconds)
