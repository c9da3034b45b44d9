"""What a client may have us do that serves no call, in units of work: a bucket that fills with time.

Frames that carry no call, requests that are refused and header blocks that come to nothing cost a client's connection
about what they cost us; a call that is answered is worth some of them. A connection has a bucket of its own
and shares another with those of the same address, or many connections could do together what one may not.

The header block of a request whose message is still on its way is only promised: clients that have just connected send
many of them first, and are no flood. It is owed when it has come to nothing.
"""

from collections.abc import Callable
from typing import Final, Protocol

from abfleet_transport.http2.frames import ENHANCE_YOUR_CALM, ProtocolError

UNITS_A_SECOND: Final = 20_000
"""A unit is about 2 µs of the event loop, what a frame without a call takes to be read; so this is some 4 % of a core.
Clients that cancel all of their calls stay below it."""
BURST_UNITS: Final = 20_000
"""40 ms, after which honest callers would notice."""
FREE_UNITS: Final = 128
"""What any connection may owe, though others of its address have used up what they share."""
FRESH_UNITS: Final = 64
"""Who has had less done has greeted, and hardly more."""
CALM_SECONDS: Final = 10.0
"""For so long after a flood the new connections of its address are read from last."""
DUE_UNITS: Final = 64
"""Of work that serves no call, before it is asked whether that was too much."""
MOST_PROMISED: Final = 5 * BURST_UNITS
"""Of requests of one address whose messages are on their way: 2,500 first calls of clients that have just connected."""
PROMISE_STEP: Final = 512
"""Promised by one connection, before it is asked whether that was too much."""
LEAST_DUE: Final = -BURST_UNITS
"""No more is saved up than a connection may spend at once."""
MAX_ADDRESSES: Final = 10_000
"""Of clients; past that those that have gone are forgotten."""


class Allowance:
    """One bucket; changed only by `spend`."""

    __slots__ = ("_at", "units")

    def __init__(self, now: float) -> None:
        """`now`: seconds of a monotonic clock."""
        self.units = float(BURST_UNITS)
        self._at = now

    def spend(self, units: float, now: float, sharing: int = 1) -> bool:
        """Takes so many units, or gives some back where they are fewer than 0; False when that was too much.

        `sharing`: how many buckets have a second's units together.
        """
        filled = min(BURST_UNITS, self.units + (now - self._at) * UNITS_A_SECOND / sharing)
        self._at = now
        self.units = max(-BURST_UNITS, min(BURST_UNITS, filled - units))
        return self.units >= 0


class ClientAddress:
    """What the connections of one address share; changed only by them, and by the queue that counts them."""

    __slots__ = ("allowance", "connections", "flooded_at", "promised")

    def __init__(self, now: float) -> None:
        self.allowance = Allowance(now)
        self.connections = 0
        self.promised = 0
        """Units of work of requests whose messages are on their way."""
        self.flooded_at = float("-inf")
        """When one of them was cut last, in seconds of a monotonic clock."""

    def is_suspect(self, now: float) -> bool:
        """Whether a new connection should be read from last, and may begin only a few calls."""
        return now - self.flooded_at < CALM_SECONDS


def spent(own: Allowance, address: ClientAddress, units: float, promised: int, now: float) -> tuple[bool, bool]:
    """Takes units from both buckets; (whether the connection is a flood, whether it should be read from last).

    Where all of an address have used up what they share, only those that took part in it are a flood. `promised`: units
    of the connection's requests whose messages are on their way; they make no flood.
    """
    alone, together = own.spend(units, now, max(1, address.connections)), address.allowance.spend(units, now)
    greedy = own.units < BURST_UNITS - FREE_UNITS
    flood = not alone or (greedy and not together)
    took_part = own.units - promised < BURST_UNITS - FREE_UNITS
    return flood, took_part and address.allowance.units - address.promised < BURST_UNITS / 2


class ClientAddresses:
    """Those that clients come from, by host; changed only here."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._addresses: dict[str, ClientAddress] = {}

    def come(self, host: str) -> ClientAddress:
        """What the connections from there share; one more has come."""
        address = self._addresses.get(host)
        if address is None:
            if len(self._addresses) >= MAX_ADDRESSES:
                self._forget()
            address = self._addresses[host] = ClientAddress(self._clock())
        address.connections += 1
        return address

    def _forget(self) -> None:
        """Those without a connection: what they owe they owe for two seconds at most."""
        for host in [host for host, address in self._addresses.items() if not address.connections]:
            del self._addresses[host]


class ReadCount(Protocol):
    """Who counts the work of a turn."""

    read_units: int


class WorkAccount:
    """What one connection has had done that served no call. `due` and `suspect` are changed by the connection's parts.

    Attributes:
        due: Units since both buckets were last asked; below 0 where calls have earned some.
        suspect: Whether it is read from last.
    """

    def __init__(self, clock: Callable[[], float], turns: ReadCount) -> None:
        """`clock` gives seconds and is monotonic."""
        self._clock = clock
        self._turns = turns
        self._own = Allowance(clock())
        self._address: ClientAddress | None = None
        self._promised = 0
        self._told = 0  # of what is promised, what the address knows of
        self.due = 0
        self.suspect = False

    def open(self, address: ClientAddress) -> None:
        """The connection comes from there."""
        self._address = address
        self.suspect = address.is_suspect(self._clock())

    def close(self) -> None:
        """The connection has gone; what it owes its address owes."""
        if self._address is not None:
            self.break_promise(self._promised)
            spent(self._own, self._address, self.due, 0, self._clock())
            self._address.connections -= 1
            self._address = None

    @property
    def is_paced(self) -> bool:
        """Whether it is not read from but at its turn among all suspects: not before it has had something done."""
        return self.suspect and self._own.units - self.due - self._promised < BURST_UNITS - FRESH_UNITS

    @property
    def may_begin_few(self) -> bool:
        """Whether it may begin only a few calls until one is answered: its address has sent a flood."""
        return self.suspect and self._address is not None and self._address.is_suspect(self._clock())

    # --- requests whose messages are on their way ---------------------------------------------------------------------

    def promise(self, units: int) -> None:
        """A request begins whose header block costs so much. Raises ProtocolError where that is a flood."""
        self._turns.read_units += units
        self._promised += units
        if self._promised - self._told > PROMISE_STEP:
            self._tell()
            self._ask(0, goes_on=True)

    def keep_promise(self, units: int) -> None:
        """Such a request is whole."""
        self._promised -= units
        if self._promised < self._told:
            self._tell()

    def break_promise(self, units: int) -> None:
        """Such a request has come to nothing, so that it is owed."""
        self.keep_promise(units)
        self.due += units

    def _tell(self) -> None:
        if self._address is not None:
            self._address.promised += self._promised - self._told
            self._told = self._promised

    # --- work that serves no call -------------------------------------------------------------------------------------

    def charge(self, units: int) -> None:
        """The client has us do so much. Raises ProtocolError where that is a flood."""
        self._turns.read_units += units
        self.due += units
        if self.due > DUE_UNITS:
            self.settle()

    def credit(self, units: int) -> None:
        """A call has been answered, which is worth so much."""
        if self.due > LEAST_DUE:
            self.due -= units
        self.suspect = False

    def charge_later(self, units: int) -> bool:
        """As `charge`, where it is not the client's frame that is being read; whether to `settle` is due."""
        before = self.due
        self.due += units
        return before <= DUE_UNITS < self.due

    def settle(self) -> None:
        """Takes what is due from both buckets. Raises ProtocolError where that is a flood."""
        due, self.due = self.due, 0
        self._ask(due)

    def _ask(self, due: int, *, goes_on: bool = False) -> None:
        """goes_on: Whether it has just promised more."""
        address, now = self._address, self._clock()
        if address is None:
            return
        flood, takes_turns = spent(self._own, address, due, self._promised, now)
        self.suspect |= takes_turns
        if flood or (goes_on and address.promised > MOST_PROMISED):
            address.flooded_at = now
            raise ProtocolError("too many frames and requests that serve no call", ENHANCE_YOUR_CALM)
