"""Which routers write, and whether outcomes of each one's calls arrive. Line by line; decides nothing.

Whoever tells outcomes may tell any router. So a part of the calls is remembered, by a hash of the request id, with the
router that served them. A router of whose calls none has an outcome, while others' have, was lost on the way: what
compares groups would compare routers.
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Final

from abfleet_autopilot.lines import SECOND_US

WRITING_US: Final = 600 * SECOND_US
"""A router without a line for so long is one that does not write."""
WINDOW_US: Final = 3600 * SECOND_US
ONE_IN: Final = 16
MOST_REMEMBERED: Final = 200_000
"""Calls; some 30 MB."""
LEAST_EXPECTED: Final = 20.0
"""Outcomes that a router's calls should have had, by those of the others. By chance none comes once in 500 million."""


@dataclass(slots=True)
class RouterWatch:
    """The routers of a log. Changed only by `line`, `call` and `outcome`, in order of time."""

    newest: dict[str, int] = field(default_factory=dict)
    _requests: dict[int, str] = field(default_factory=dict)
    _order: deque[int] = field(default_factory=deque)
    _calls: Counter[str] = field(default_factory=Counter)
    _outcomes: Counter[str] = field(default_factory=Counter)
    _since: int = 0
    _silent: tuple[str, ...] = ()

    def line(self, router: str, at: int) -> None:
        """A line of whatever kind."""
        self.newest[router] = at
        if at - self._since > WINDOW_US:
            self._silent = self._without_outcomes()
            self._calls.clear()
            self._outcomes.clear()
            self._since = at

    def call(self, router: str, request: int) -> None:
        """A call that a router served, one in ONE_IN; request: A hash of its id, 0 where it has none."""
        if not request:
            return
        self._calls[router] += 1
        self._requests[request] = router
        self._order.append(request)
        if len(self._order) > MOST_REMEMBERED:
            self._requests.pop(self._order.popleft(), None)

    def outcome(self, request: int) -> None:
        """An outcome that names a request, whichever router was told."""
        router = self._requests.get(request)
        if router is not None:
            self._outcomes[router] += 1

    def writing(self, now: int) -> int:
        """How many routers have a line among the newest ten minutes."""
        return sum(now - newest <= WRITING_US for newest in self.newest.values())

    def faults(self, now: int, wanted: int) -> list[str]:
        """What is wrong with the routers, in plain words. wanted: How many are to write."""
        found = []
        if (writing := self.writing(now)) < wanted:
            found.append(f"{writing} of {wanted} routers write")
        silent = sorted({*self._silent, *self._without_outcomes()} & self.newest.keys())
        if silent:
            found.append(f"none of the outcomes of the last hour is of a call of {', '.join(silent[:3])}")
        return found

    def _without_outcomes(self) -> tuple[str, ...]:
        calls, outcomes = self._calls.total(), self._outcomes.total()
        if not calls:
            return ()
        return tuple(
            router
            for router, mine in self._calls.items()
            if not self._outcomes[router] and outcomes and mine * outcomes >= LEAST_EXPECTED * (calls - mine) > 0
        )
