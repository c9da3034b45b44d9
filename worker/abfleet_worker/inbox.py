"""Calls on their way from an event loop to the one thread that answers them. Knows no requests and no model.

Needed where calls are delivered on an event loop, which inference must not hold up. Where they are delivered on a
thread of their own, that thread answers them itself and saves the hand-over.
"""

import threading
from collections.abc import Sequence
from typing import Protocol

from abfleet_transport.call import Call


class Answers(Protocol):
    """Who answers the calls, on the inbox's thread."""

    def answer(self, calls: Sequence[Call]) -> None: ...

    def gone(self, call: Call) -> None: ...


class Inbox:
    """A queue and its thread; `put` and `withdraw` from the event loop, everything that waits is taken at once."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._changed = threading.Condition()
        self._waiting: list[Call] = []  # changed only under `_changed`
        self._gone: list[Call] = []  # changed only under `_changed`
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def put(self, calls: Sequence[Call]) -> None:
        """Hands calls over; returns at once."""
        with self._changed:
            self._waiting += calls
            self._changed.notify()

    def withdraw(self, call: Call) -> None:
        """Takes a call back that has not been looked at; one that is being answered is left alone."""
        with self._changed:
            if call in self._waiting:
                self._waiting.remove(call)
                self._gone.append(call)
                self._changed.notify()

    def close(self) -> None:
        """Answers what waits and ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._gone or self._closed)
                waiting, self._waiting = self._waiting, []
                gone, self._gone = self._gone, []
                closed = self._closed
            for call in gone:
                self._answers.gone(call)
            if waiting:
                self._answers.answer(waiting)
            if closed and not waiting:
                return
