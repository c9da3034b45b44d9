"""Calls on their way from the event loop to whoever answers them.

Two thread switches cost more than a quick model's whole answer, so a model that is quick is asked on the loop itself.
One that is not has a thread of its own, because the loop must not be held up: it answers health and PING, and who does
not answer those is taken for dead.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from abfleet_process.background import BackgroundThread, MakeBackground
from abfleet_transport.call import Call

QUICK_SECONDS: Final = 0.005
"""To answer what has come together. Routers send a PING to a worker that is silent for a quarter of a second."""
SMOOTHING: Final = 0.2
"""Weight of the newest time: a change of the model or of the load is taken into account within some ten batches."""

FORGET_SECONDS: Final = 60.0
"""Without a call, after which nobody knows again how quick the model is: its memory may be swapped out by then."""


class CallHandler(Protocol):
    """Who answers the calls, on the inbox's thread."""

    def answer(self, calls: Sequence[Call]) -> None: ...

    def gone(self, call: Call) -> None: ...


class Inbox:
    """A queue and its thread, or what `background` makes instead; `put` and `withdraw` from the event loop. Everything
    that waits is taken at once.

    Calls are answered on the loop or on the thread, never on both at a time.
    """

    def __init__(
        self,
        handler: CallHandler,
        *,
        clock: Callable[[], float] = time.perf_counter,
        background: MakeBackground = BackgroundThread,
    ) -> None:
        self._handler = handler
        self._clock = clock
        self._took = float("inf")  # seconds to answer what came together, smoothed; changed only by who is `_busy`
        self._answered_at = float("-inf")  # when that was last learned; changed only by who is `_busy`
        self._busy = False  # changed only under `_changed`
        self._changed = threading.Condition()
        self._waiting: list[Call] = []  # changed only under `_changed`
        self._gone: list[Call] = []  # changed only under `_changed`
        self._closed = False
        self._background = background("inference", self._round)

    def start(self) -> None:
        """Starts the thread, which answers what is not answered on the event loop."""
        self._background.start()

    def put(self, calls: Sequence[Call]) -> None:
        """Answers calls, where that is quick; else hands them over and returns at once."""
        with self._changed:
            others = self._busy or self._waiting or self._gone or self._closed
            here = self._took < QUICK_SECONDS and not others and self._clock() - self._answered_at < FORGET_SECONDS
            if here:
                self._busy = True
            else:
                self._waiting += calls
        if here:
            self._answer(calls)
            self._finish()
        else:
            self._background.wake()

    def _answer(self, calls: Sequence[Call]) -> None:
        was, begun = self._answered_at, self._clock()
        self._handler.answer(calls)
        self._answered_at = ended = self._clock()
        took = ended - begun
        is_new = self._took == float("inf") or begun - was >= FORGET_SECONDS
        self._took = took if is_new else self._took + SMOOTHING * (took - self._took)

    def _finish(self) -> None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()

    def settled(self, timeout_seconds: float) -> bool:
        """Waits until nothing is being answered; False if that takes longer than the timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy and not self._waiting, timeout_seconds)

    def withdraw(self, call: Call) -> None:
        """Takes a call back that has not been read; one that is being answered is left alone."""
        with self._changed:
            if call not in self._waiting:
                return
            self._waiting.remove(call)
            self._gone.append(call)
        self._background.wake()

    def close(self, timeout_seconds: float) -> bool:
        """Answers what waits and ends the thread; False if the model is not done by the timeout, and is left behind."""
        with self._changed:
            self._closed = True
        self._background.wake()
        return self._background.join(timeout_seconds)

    def _round(self) -> float | None:
        with self._changed:
            waiting, self._waiting = self._waiting, []
            gone, self._gone = self._gone, []
            closed = self._closed
            if not waiting and not gone:
                return None if closed else math.inf
            self._busy = True
        for call in gone:
            self._handler.gone(call)
        if waiting:
            self._answer(waiting)
        self._finish()
        return 0.0  # more may have come meanwhile
