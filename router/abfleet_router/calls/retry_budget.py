"""How many retries the fleet can bear: a token bucket that calls fill, and slowly time.

A fixed number of retries multiplies the load of a fleet that is already failing; a budget bounds the extra load to a
share of the calls (Finagle's RetryBudget, Linkerd, gRFC A6). Time fills it too, or a fleet that has been down would
have no retries for the first calls after a quiet night, however well it is by then.
"""


class RetryBudget:
    """Each call and each second earn a fraction of a retry; a retry spends a whole one."""

    def __init__(self, *, per_call: float = 0.2, per_second: float = 1.0, banked: float = 100.0) -> None:
        """`per_call`, `per_second`: retries earned by a call and by a second; `banked`: the most that can be saved, and
        what there is at first."""
        self._per_call = per_call
        self._per_second = per_second
        self._earned_at = float("inf")  # never
        self._banked = banked
        self.tokens = banked  # changed only by earn and spend

    def earn(self, calls: int = 1, *, now: float) -> None:
        """Adds what so many calls have earned, and the time since the last of them, up to the most that can be saved.

        `now`: in seconds of the caller's clock.
        """
        waited, self._earned_at = max(0.0, now - self._earned_at), now
        self.tokens = min(self._banked, self.tokens + self._per_call * calls + self._per_second * waited)

    def spend(self) -> bool:
        """Takes one retry if there is one."""
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True
