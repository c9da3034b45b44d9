"""One treatment's guardrails against control, event by event: users' first bad events, and outages.

The processes are those of `abfleet_statistics`. What waits 60 s (timeouts, slow answers, counted outages) waits here;
what is near to an outage of either group is dropped.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import numpy as np
from abfleet_analysis.decision.excluded_time import ExcludedTime
from abfleet_statistics import guardrails, outages
from abfleet_statistics.blocks import BlockedProcess
from abfleet_statistics.guardrails import Floats
from abfleet_statistics.outages import NEAR_US, GroupOutages

from abfleet_autopilot.evidence.watched import BLOCK_US

MOST_USERS: Final = 1_000_000
"""Users with a bad event that are remembered for each guardrail and treatment, some 100 MB. After them none counts."""
LN_ACTS: Final = -math.log(guardrails.ALPHA)


@dataclass(slots=True)
class UserEvents:
    """Users' first bad events of one kind. Changed only by GuardrailEvidence.

    Attributes:
        treatment, control: Users so far. left_out: Events near to an outage, which do not count.
        seen: Who has been counted, as hashes.
    """

    process: BlockedProcess
    treatment: int = 0
    control: int = 0
    left_out: int = 0
    seen: set[int] = field(default_factory=set)

    @property
    def full(self) -> bool:
        """Whether no more users can be remembered, so that none counts any more."""
        return len(self.seen) >= MOST_USERS


@dataclass(slots=True)
class _Waiting:
    at: int
    mine: bool
    user: int
    share: float
    events: UserEvents


@dataclass(frozen=True, slots=True)
class Counts:
    """What a guardrail stands on.

    Attributes:
        ln_e: As it acts; `wrong` and `absent` are its halves, `absent` None where outages take no part.
        treatment, control: Users with a first bad event. outages: Counted ones of treatment and control, and shared.
        share: Expected of the treatment among both.
    """

    ln_e: float
    wrong: float
    absent: float | None
    treatment: int
    control: int
    share: float
    left_out: int
    capped: int
    outages: tuple[int, int, int] = (0, 0, 0)
    full: bool = False


class GuardrailEvidence:
    """All guardrails of one treatment from one moment on. Changed only by its methods, in order of time.

    highest: By guardrail the highest ln E so far, and when that was.
    """

    def __init__(
        self,
        *,
        began: int,
        kinds: tuple[str, ...],
        with_outages: str | None,
        horizon: int,
        tolerated_a_day: float,
        replicas: tuple[int, int] | None,
        exclude: ExcludedTime,
    ) -> None:
        """began: The first call. kinds: Names of guardrails. with_outages: The one of which outages are half."""
        first = began // BLOCK_US
        self.events = {name: UserEvents(BlockedProcess(first=first, horizon=horizon)) for name in kinds}
        self.highest: dict[str, tuple[float, int]] = dict.fromkeys(kinds, (0.0, began))
        self._began = began
        self._with_outages = with_outages
        self._tolerated = tolerated_a_day
        self._replicas = replicas
        self._exclude = exclude
        self._share = 0.5
        self._outages = (GroupOutages(), GroupOutages())  # the treatment's, control's
        self._absence: list[int] = [-NEAR_US - 1, -NEAR_US - 1]  # the last certain one of each
        self._shares: dict[int, tuple[float, float]] = {}  # by counted outage
        self._due: deque[int] = deque()
        self._waiting: deque[_Waiting] = deque()
        self._counted = (0, 0, 0)
        self._ln_path = 0.0

    # --- events -------------------------------------------------------------------------------------------------------

    def bad(self, kind: str, at: int, user: int, *, mine: bool, share: float) -> None:
        """A user's bad event that counts as it is. share: The treatment's of the users of both, above 0 and below 1."""
        self._add(kind, self.events[kind], at, user, mine=mine, share=share)

    def suspect(self, kind: str, at: int, user: int, *, mine: bool, share: float) -> None:
        """A bad event that counts unless an outage of either group is near to it."""
        events = self.events[kind]
        if at - max(self._absence) <= NEAR_US:
            events.left_out += 1
        elif user not in events.seen:
            self._waiting.append(_Waiting(at, mine, user, share, events))

    def absent(self, at: int, *, mine: bool, certain: bool, shares: tuple[float, float]) -> None:
        """A call that found nobody. certain: Whether the log says why it failed. shares: Treatment's, control's."""
        place = 0 if mine else 1
        if certain:
            self._absence[place] = at
            kept = deque(one for one in self._waiting if at - one.at > NEAR_US)
            if len(kept) < len(self._waiting):
                for one in self._waiting:
                    one.events.left_out += at - one.at <= NEAR_US
                self._waiting = kept
        if self._outages[place].see(at, at):
            self._shares[at] = shares
            self._due.append(at + NEAR_US)

    @property
    def due(self) -> int | None:
        """When `tick` has something to do; None: nothing waits."""
        outage = self._due[0] if self._due else None
        if not self._waiting:
            return outage
        event = self._waiting[0].at + NEAR_US
        return event if outage is None else min(event, outage)

    def tick(self, now: int) -> None:
        """Time has come so far: what has waited long enough counts."""
        while self._waiting or self._due:
            event = self._waiting[0].at + NEAR_US if self._waiting else now
            outage = self._due[0] if self._due else now
            if min(event, outage) >= now:
                return
            if outage <= event:
                self._due.popleft()
                self._count_outages(outage)
            else:
                one = self._waiting.popleft()
                kind = next(name for name, events in self.events.items() if events is one.events)
                self._add(kind, one.events, event, one.user, mine=one.mine, share=one.share)

    # --- what speaks against it ---------------------------------------------------------------------------------------

    def counts(self, kind: str, now: int) -> Counts:
        """What a guardrail stands on at a moment."""
        events = self.events[kind]
        absent = self._ln_outages(now) if kind == self._with_outages else None
        return Counts(
            ln_e=self._ln_e(kind, now),
            wrong=events.process.ln_e,
            absent=absent,
            treatment=events.treatment,
            control=events.control,
            share=self._share,
            left_out=events.left_out,
            capped=events.process.capped,
            outages=self._counted if absent is not None else (0, 0, 0),
            full=events.full,
        )

    def _add(self, kind: str, events: UserEvents, at: int, user: int, *, mine: bool, share: float) -> None:
        if user in events.seen or events.full:
            return
        events.seen.add(user)
        events.treatment += mine
        events.control += not mine
        self._share = share
        events.process.step(at // BLOCK_US, _factors(share, mine))
        self._note(kind, at)

    def _note(self, kind: str, at: int) -> None:
        if self._at_most(kind) <= self.highest[kind][0]:
            return
        ln_e = self._ln_e(kind, at)
        if ln_e > self.highest[kind][0]:
            self.highest[kind] = ln_e, at

    def _ln_e(self, kind: str, now: int) -> float:
        wrong = self.events[kind].process.ln_e
        if kind != self._with_outages:
            return wrong
        return float(np.logaddexp(wrong, self._ln_outages(now))) - math.log(2)

    def _at_most(self, kind: str) -> float:
        """What ln E is at most: what the rate of outages allows only takes away."""
        wrong = self.events[kind].process.ln_e
        if kind != self._with_outages:
            return wrong
        return max(wrong, self._ln_path) + math.log1p(math.exp(-abs(wrong - self._ln_path))) - math.log(2)

    def _count_outages(self, now: int) -> None:
        """As `guardrail_path` has it, over all outages that are certain by now; there are at most 144 a day."""
        counted = outages.counted_of_both(*self._outages, now)
        own = np.array([self._exclude.inside(counted.at)]).reshape(-1)
        shares = np.array([self._shares[at] for at in counted.at.tolist()]).reshape(-1, 2)
        usable = ~counted.shared & ~own & (shares > 0).all(axis=1)
        mine = counted.of_treatment[usable]
        expected = outages.equal_share(self._replicas, shares[usable, 0], shares[usable, 1])
        path = outages.log_e_of_outages(mine, expected)
        self._ln_path = float(path[-1]) if len(path) else 0.0
        self._counted = int(mine.sum()), int((~mine).sum()), int((counted.shared & counted.of_treatment).sum())
        if self._with_outages is not None:
            self._note(self._with_outages, now)

    def _ln_outages(self, now: int) -> float:
        days = self._exclude.between(self._began, np.array([now])) / outages.DAY_US
        allowed = outages.log_e_of_rate(np.array([float(self._counted[0])]), days, tolerated=self._tolerated)
        return min(self._ln_path, float(allowed[0]))


@lru_cache(maxsize=1024)
def _factors(share: float, mine: bool) -> Floats:
    """What one user's event multiplies each stake by, as ln: float64[bets]."""
    counts = np.array([float(mine)]), np.array([float(not mine)])
    return np.asarray(guardrails.log_factors(*counts, np.array([share]))[:, 0])
