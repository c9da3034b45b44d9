"""Work beside the event loop, in rounds: on a thread of its own, or wherever the process is told to do it.

What such work has to wait for is always the same: that somebody has something for it, or that some time has passed. So
it is a function that does what there is to do and says when it wants to be called again, and never waits itself. Who
calls it is the only thing that knows threads.
"""

import contextlib
import math
import os
import threading
from collections.abc import Callable
from typing import Protocol

Round = Callable[[], float | None]
"""Does what there is to do: seconds until it is called again if nobody wakes it (inf: not at all), None if this was
the last time."""


class Background(Protocol):
    """Somebody who calls a round again and again, never twice at a time."""

    def start(self) -> None:
        """Calls it for the first time."""

    def wake(self) -> None:
        """Calls it soon, again where it is under way. From any thread."""

    def join(self, timeout_seconds: float | None = None) -> bool:
        """Waits for its last time; whether that came before the timeout."""


class MakeBackground(Protocol):
    """From a name and a round to whoever will call it."""

    def __call__(self, name: str, once: Round, *, niceness: int = 0) -> Background:
        """`niceness`: how much it is to give way to everything else, 0 to 19."""


class BackgroundThread:
    """Calls a round on a thread of its own."""

    def __init__(self, name: str, once: Round, *, niceness: int = 0) -> None:
        self._once = once
        self._niceness = niceness
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._woken.set()

    def join(self, timeout_seconds: float | None = None) -> bool:
        if self._thread.ident is not None:  # else it was never started
            self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        if self._niceness:
            with contextlib.suppress(OSError, AttributeError):  # of this thread alone, where the system can do that
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._niceness)
        while (seconds := self._once()) is not None:
            self._woken.wait(None if seconds == math.inf else seconds)
            self._woken.clear()  # before the round, which takes all that was there when it was woken
