"""Of a version as a whole: whether calls that another version can serve should go there at once.

Open while nobody answers. When its time is over one call at a time tries, until one is answered. Knows no clock.
"""

from collections.abc import Callable

from abfleet_router.balancing.ejection import EjectionPolicy, EjectionRecord, eject, is_ejected, is_forgotten, succeeded


class Circuit:
    """Opens for the times of an ejection; changed only by `open` and `close`."""

    def __init__(self, policy: EjectionPolicy) -> None:
        self._policy = policy
        self._record = EjectionRecord()

    def is_open(self, now: float, is_tried: Callable[[], bool]) -> bool:
        """Whether a call should go elsewhere; `is_tried`: whether a call is under way already."""
        if not self._record.ejections_in_a_row or is_forgotten(self._record, now):
            return False
        return is_ejected(self._record, now) or is_tried()

    def open(self, now: float) -> float | None:
        """Opens it; gives for how many seconds, None where it is open."""
        return None if is_ejected(self._record, now) else eject(self._record, self._policy, now) - now

    def close(self) -> bool:
        """A call was answered; whether the circuit was open until now."""
        if not self._record.ejections_in_a_row:
            return False
        succeeded(self._record)
        return True
