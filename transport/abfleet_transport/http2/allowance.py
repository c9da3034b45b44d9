"""What a client may have us do that serves no call, in units of work: a bucket that fills with time. Knows no clock.

Frames that carry no call, requests that are refused and header blocks that come to nothing cost a client's connection
about what they cost us; a call that is answered is worth some of them. A connection has a bucket of its own
and shares another with those of the same address, or many connections could do together what one may not.
"""

from typing import Final

UNIT_SECONDS: Final = 2e-6
"""Of the event loop, about: what a frame without a call takes to be read."""
UNITS_A_SECOND: Final = 20_000
"""Some 4 % of a core. Clients that cancel all of their calls stay below it."""
BURST_UNITS: Final = 20_000
"""40 ms, after which honest callers would notice."""
FREE_UNITS: Final = 128
"""What any connection may owe, though others of its address have used up what they share."""
FRESH_UNITS: Final = 48
"""Who has had less done has greeted, and hardly more."""
CALM_SECONDS: Final = 10.0
"""For so long after a flood the new connections of its address are read from last."""


class Allowance:
    """One bucket; changed only by `spend`."""

    __slots__ = ("_at", "units")

    def __init__(self, now: float) -> None:
        """`now`: seconds of a monotonic clock."""
        self.units: float = BURST_UNITS
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

    __slots__ = ("allowance", "connections", "flooded_at")

    def __init__(self, now: float) -> None:
        self.allowance = Allowance(now)
        self.connections = 0
        self.flooded_at = float("-inf")
        """When one of them was cut last, in seconds of a monotonic clock."""

    def is_suspect(self, now: float) -> bool:
        """Whether a new connection should be read from last."""
        return now - self.flooded_at < CALM_SECONDS


def spent(own: Allowance, address: ClientAddress, units: float, now: float) -> tuple[bool, bool]:
    """Takes units from both buckets; (whether the connection is a flood, whether it should be read from last).

    Where all of an address have used up what they share, only those that took part in it are a flood.
    """
    alone, together = own.spend(units, now, max(1, address.connections)), address.allowance.spend(units, now)
    greedy = own.units < BURST_UNITS - FREE_UNITS
    flood = not alone or (greedy and not together)
    return flood, greedy and address.allowance.units < BURST_UNITS / 2
