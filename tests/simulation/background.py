"""Threads of a simulated process: greenlets, which run only while everything else waits for them."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from greenlet import GreenletExit, getcurrent, greenlet

if TYPE_CHECKING:
    from tests.simulation.world import Process


class SimulatedBackground:
    """Calls a round as if on a thread: it is left where it sleeps, and goes on later."""

    def __init__(self, process: "Process", once: Callable[[], float | None], number: int) -> None:
        self.number = number
        self._process = process
        self._once = once
        self._greenlet: greenlet | None = None
        self._ended = False
        self._in_round = self._again = False
        self._hurry_seconds = 0.0
        self._timer: Any = None

    def start(self) -> None:
        self._due_in(0.0)

    def wake(self) -> None:
        if self._in_round:
            self._again = True
        else:
            self._due_in(0.0)

    def _due_in(self, seconds: float) -> None:
        if self._ended or not self._process.alive:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds == float("inf") else self._process.loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        """Goes on with the round, or begins one; in the loop's turn."""
        self._timer = None
        self._due_in(self._run())

    def _run(self) -> float:
        """Runs until it sleeps or the round is over; the seconds until it is to go on."""
        process = self._process
        if self._greenlet is None:
            self._greenlet, self._in_round = greenlet(self._once), True
        process.background = self
        try:
            seconds = self._greenlet.switch()
        except Exception as error:  # noqa: BLE001 - it is reported
            process.world.errors.append(f"{process.name}: a thread ended: {error!r}")
            seconds = None
        finally:
            process.background = None
        if not self._greenlet.dead:
            return float(seconds)
        self._greenlet, self._in_round = None, False
        if seconds is None:
            self._ended = True
            return 0.0
        again, self._again = self._again, False
        return 0.0 if again else float(seconds)

    def sleep(self, seconds: float) -> None:
        """Called in a round: everything else goes on for so long."""
        if self._hurry_seconds > 0:
            self._hurry_seconds -= seconds
            self._process.spent += seconds
        else:
            own = getcurrent()
            assert own.parent is not None
            own.parent.switch(seconds)

    def join(self, timeout_seconds: float | None = None) -> bool:
        """Has the rest done at once, and lets the loop wait for what it took."""
        if not self._process.alive:
            return True
        self._hurry_seconds = math.inf if timeout_seconds is None else timeout_seconds
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for _ in range(1000):
            if self._ended:
                return True
            if self._hurry_seconds <= 0:
                break
            self._run()
        return False  # it is left where it is, as a daemon's thread

    def kill(self) -> None:
        """Ends it where it is."""
        self._ended = True
        if self._greenlet is not None:
            self._greenlet.throw(GreenletExit)
            self._greenlet = None
