"""What is done at the end of a turn of the event loop, once, however often the turn has asked for it."""

import asyncio
from collections.abc import Callable
from weakref import WeakKeyDictionary

import structlog

log = structlog.get_logger("abfleet.transport")


class EndOfTurn:
    """What sockets have to write, and queues to send. One for each loop: what a turn has made goes out together.

    Who knows that the turn ends with it begins and ends it; else the loop is asked to call.
    """

    __slots__ = ("_begun", "_due", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._begun = False
        self._due: list[Callable[[], None]] = []

    def begin(self) -> None:
        """From here on what is added waits for `end`, which is sure to come."""
        self._begun = True

    def end(self) -> None:
        """Does everything that was added, and what is added meanwhile."""
        while self._due:
            due, self._due = self._due, []
            for do in due:
                try:
                    do()
                except Exception:  # our own error with one of them must not hold up the others
                    log.exception("what a turn of the event loop had left to do failed")
        self._begun = False

    def add(self, do: Callable[[], None]) -> None:
        """Has `do` called at the end of the turn. Who has added it already does not add it again."""
        if not self._begun and not self._due:
            self._loop.call_soon(self.end)
        self._due.append(do)

    def in_next(self, do: Callable[[], None]) -> None:
        """Has `do` called in the next turn, by which what has been read in this one may be there, too."""
        self._loop.call_soon(do)


_of_loops: "WeakKeyDictionary[asyncio.AbstractEventLoop, EndOfTurn]" = WeakKeyDictionary()


def end_of_turn(loop: asyncio.AbstractEventLoop) -> EndOfTurn:
    """That of this loop."""
    turn = _of_loops.get(loop)
    if turn is None:
        turn = _of_loops[loop] = EndOfTurn(loop)
    return turn
