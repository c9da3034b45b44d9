"""What is done at the end of a turn of the event loop, once, however often the turn has asked for it."""

import asyncio
import weakref
from collections.abc import Callable

import structlog

log = structlog.get_logger("abfleet.transport")


class EndOfTurn:
    """What sockets have to write, and queues to send. One for each loop: what a turn has made goes out together.

    Who knows that the turn ends with it begins and ends it; else the loop is asked to call.
    """

    __slots__ = ("_begun", "_due", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)  # which has this one for as long as it lives, and may go with all that is on it
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

    def put_off(self) -> None:
        """What was added waits for the end of the next turn, which has more of the same to do."""
        self._begun = False
        if self._due:
            self.in_next(self.end)

    def add(self, do: Callable[[], None]) -> None:
        """Has `do` called at the end of the turn. Who has added it already does not add it again."""
        if not self._begun and not self._due:
            self.in_next(self.end)
        self._due.append(do)

    def in_next(self, do: Callable[[], None]) -> None:
        """Has `do` called in the next turn, by which what has been read in this one may be there, too."""
        loop = self._loop()
        assert loop is not None, "whoever asks is on it"
        loop.call_soon(do)


_of_loops: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, EndOfTurn]" = weakref.WeakKeyDictionary()


def end_of_turn(loop: asyncio.AbstractEventLoop) -> EndOfTurn:
    """That of this loop."""
    turn = _of_loops.get(loop)
    if turn is None:
        turn = _of_loops[loop] = EndOfTurn(loop)
    return turn
