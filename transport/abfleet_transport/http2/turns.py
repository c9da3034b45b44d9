"""Turns of the loop: who is read from and how much, because a turn has no room for more."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from abfleet_transport.http2.allowance import WorkAccount

READ_BYTES: Final = 16 * 1024
"""Of one connection in one turn: some 80 calls."""
READ_UNITS: Final = 1024
"""Of work in one turn, before connections have to wait for the next one: 128 calls, or so many frames without one."""
FULL_TURN_BYTES: Final = 512
"""Read of each of the others that are ready in the same turn; nothing at all cannot be asked for."""
UNPAID_UNITS: Final = READ_UNITS // 2
"""Of work in one turn for what was kept of an earlier one, before the rest of it has to wait for the next."""
SUSPECT_SECONDS: Final = 0.002
SUSPECTS: Final = 3
"""Connections of floods that are read from, FULL_TURN_BYTES each, in each SUSPECT_SECONDS: none may keep the loop, and
a call that comes meanwhile waits for a millisecond or so."""
FRESH_BYTES: Final = 128
"""Read of one that comes from the address of a flood, as long as it has had hardly more done than a greeting. That is
as much as a greeting has, and too little to be a flood: many of them are read, so an honest one waits but shortly."""
NEWCOMERS: Final = 32
"""Of these, in the same time, that nothing was read of; and as many that something was."""


class PausedConnection(Protocol):
    """A connection that is not read from until a later turn."""

    @property
    def account(self) -> WorkAccount:
        """What its client has us do that serves no call."""

    @property
    def read_on(self) -> Callable[[], None]:
        """Takes what was kept of it, and reads from it again, unless its client does not read."""


class ReadingTurns:
    """Changed only on the event loop.

    Attributes:
        read_units: Of work that was read in this turn; changed by connections and by the queue of calls.
        whole_buffer: What is read next, of one connection until it has taken it; `buffer` is a part of it.
        small_buffer: For what is read next of a connection that is suspect, and `fresh_buffer` of one that has hardly
            said anything.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, go_on: Callable[[], None]) -> None:
        """`go_on` is called in each turn, after what was held up is read from again."""
        self._loop = loop
        self._go_on = go_on
        self.read_units = 0
        self.whole_buffer = memoryview(bytearray(READ_BYTES))
        self.small_buffer = self.whole_buffer[:FULL_TURN_BYTES]
        self.fresh_buffer = self.whole_buffer[:FRESH_BYTES]
        self._is_due = False
        self._held_up: list[PausedConnection] = []  # not read from until the next turn
        self._unpaid: deque[PausedConnection] = deque()  # what came of them is not taken yet
        self._suspects: deque[PausedConnection] = deque()  # not read from until it is their turn
        self._suspects_are_due = False
        self._newcomers: deque[PausedConnection] = deque()  # suspects that nothing was read of
        self._fresh: deque[PausedConnection] = deque()  # suspects that have had hardly more done than a greeting

    @property
    def buffer(self) -> memoryview:
        """For what is read next."""
        return self.whole_buffer if self.read_units < READ_UNITS else self.small_buffer

    def hold_up(self, connection: PausedConnection) -> None:
        """This connection, which is suspect or has filled the turn, is not read from until `read_on`."""
        if connection.account.is_paced:
            self._suspects.append(connection)
            self._pace()
        elif connection.account.suspect:
            self._fresh.append(connection)
            self._pace()
        else:
            self._held_up.append(connection)
        if self._held_up or self.read_units >= READ_UNITS:  # which only the next turn makes nothing of
            self.soon()

    def keep(self, connection: PausedConnection) -> None:
        """This one came when the turn was full, and nothing has paid for it: what came is taken later, by `read_on`."""
        self._unpaid.append(connection)
        self.soon()

    def wait(self, newcomer: PausedConnection) -> None:
        """It is read from, by `read_on`, at its turn among those that come from the address of a flood."""
        self._newcomers.append(newcomer)
        self._pace()

    def soon(self) -> None:
        """A turn is due."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._turn)

    def _pace(self) -> None:
        if not self._suspects_are_due:
            self._suspects_are_due = True
            self._loop.call_later(SUSPECT_SECONDS, self._read_suspects)

    def _read_suspects(self) -> None:
        queues = ((self._newcomers, NEWCOMERS), (self._fresh, NEWCOMERS), (self._suspects, SUSPECTS))
        for waiting, most in queues:
            for _ in range(min(most, len(waiting))):
                waiting.popleft().read_on()
        self._suspects_are_due = False
        if any(waiting for waiting, _ in queues):
            self._pace()

    def _turn(self) -> None:
        self._is_due = False
        self.read_units = 0
        if self._held_up:
            held_up, self._held_up = self._held_up, []
            for connection in held_up:
                connection.read_on()
        while self._unpaid and self.read_units < UNPAID_UNITS:
            self._unpaid.popleft().read_on()
        if self._unpaid:
            self.soon()
        self._go_on()
