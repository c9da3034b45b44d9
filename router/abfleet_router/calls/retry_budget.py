"""How many retries the fleet can bear: a token bucket that calls fill, not time.

A fixed number of retries multiplies the load of a fleet that is already failing; a budget bounds the extra load to a
share of the calls (Finagle's RetryBudget, Linkerd, gRFC A6).
"""


class RetryBudget:
    """Each call earns a fraction of a retry; a retry spends a whole one."""

    def __init__(self, *, per_call: float = 0.2, banked: float = 100.0) -> None:
        """`per_call`: retries earned by a call; `banked`: the most that can be saved, and what there is at first."""
        self._per_call = per_call
        self._banked = banked
        self.tokens = banked  # changed only by earn and spend

    def earn(self, calls: int = 1) -> None:
        """Adds what so many calls earn, up to the most that can be saved."""
        self.tokens = min(self._banked, self.tokens + self._per_call * calls)

    def spend(self) -> bool:
        """Takes one retry if there is one."""
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True
