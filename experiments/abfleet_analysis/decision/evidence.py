"""The sums and counts that a decision is computed from. They come from a log or from a simulation.

Axes are those of moments.py. A time is a look, and the last one is the moment of the report.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from abfleet_log.clocks import RouterOff
from abfleet_statistics.effects import QuantileScale
from abfleet_statistics.moments import Floats, Moments
from abfleet_statistics.outages import TOLERATED_A_DAY, Outage
from numpy.typing import NDArray

from abfleet_analysis.decision.excluded_time import NOTHING_EXCLUDED, ExcludedTime
from abfleet_analysis.decision.metrics import MetricRule

ABSENT_MINUTES: Final = 30
"""How long a version must have answered nothing to be called absent."""
ABSENT_CALLS: Final = 30
"""How many calls it must have had meanwhile."""


@dataclass(frozen=True, slots=True)
class Cap:
    """What users' values are cut at; a quantile of those of all users, or `of_valued`, of those who have a value."""

    value: float
    of_valued: bool = False


@dataclass(frozen=True, slots=True)
class MetricEvidence:
    """The sums of one metric.

    Attributes:
        quantile: Where it is one.
        negative: Whether a user's value may be below 0.
        cap: What users' values are cut at, at the moment of the report; None where none is.
    """

    rule: MetricRule
    moments: Moments
    quantile: QuantileScale | None = None
    negative: bool = False
    cap: Cap | None = None


@dataclass(frozen=True, slots=True)
class Blocks:
    """In which block each step of bad events is.

    Attributes:
        at_us: int[steps], ascending: when the last of the step's events was known.
        length_us: Of a block. first: Number of the block in which the experiment began.
        horizon: Blocks that half of the stake is paid in over.
    """

    at_us: NDArray[np.int64]
    length_us: int
    first: int
    horizon: int


@dataclass(frozen=True, slots=True)
class BadEvents:
    """When users had their first bad event of a kind.

    Attributes:
        time: int[steps], ascending: the first time (look, or last the report) that knows the step.
        counts: float64[steps, groups], users.
        shares: float64[steps, groups], the groups' shares then in force.
        blocks: None where nobody knows when in a step its users had their event, as in sums of whole days; these have
            no cap and no stake that comes later.
        control: float64[steps, groups], of control's users those that each group is compared with, where what is left
            out around outages depends on the group; None where they are the same for all.
    """

    time: NDArray[np.int64]
    counts: Floats
    shares: Floats
    blocks: Blocks | None = None
    control: Floats | None = None

    def control_of(self, group: int) -> Floats:
        """Control's users that a group is compared with: float64[steps]."""
        return self.counts[:, 0] if self.control is None else self.control[:, group]


@dataclass(frozen=True, slots=True)
class PairOutages:
    """Counted outages of one treatment and of control.

    Attributes:
        time: int[counted], ascending: the first time that knows of it. known_us: int[counted], ascending: when it was
            certain, 60 s after it was counted.
        of_treatment: bool[counted]; the others are control's.
        shared: bool[counted], whether the other group had one at about the same time, so that it counts for nobody.
        share: float64[counted], the part that would be the treatment's if the versions were equally good.
        began_us: The treatment's first call.
        replicas: Of the treatment and of control; None where nobody knows.
        outages: Of the treatment and of control, also those that were not counted.
        left_out: Calls near to an outage that timed out, and therefore do not count.
        excluded: Time that is no part of the treatment's days; an outage that begins in it does not count.
        tolerated_a_day: Outages of the treatment that are nobody's concern.
    """

    time: NDArray[np.int64]
    known_us: NDArray[np.int64]
    of_treatment: NDArray[np.bool_]
    shared: NDArray[np.bool_]
    share: Floats
    began_us: int
    replicas: tuple[int, int] | None
    outages: tuple[tuple[Outage, ...], tuple[Outage, ...]]
    left_out: int = 0
    excluded: ExcludedTime = NOTHING_EXCLUDED
    tolerated_a_day: float = TOLERATED_A_DAY


@dataclass(frozen=True, slots=True)
class Answers:
    """Who answered in the last ABSENT_MINUTES.

    Attributes:
        calls: float64[times, groups], answered ones and failures; overload and mistakes of clients are neither.
        answered: float64[times, groups], by the assigned version itself.
        since_us: By group that answered nothing up to the report: its last answer, or its first call if there is none.
        lost: By the same groups, how many calls it has not answered since then.
    """

    calls: Floats
    answered: Floats
    since_us: Mapping[int, int] = field(default_factory=dict)
    lost: Mapping[int, int] = field(default_factory=dict)

    def silent(self, time: int, group: int) -> bool:
        """Whether a group has had calls enough, and answered none."""
        return bool(self.calls[time, group] >= ABSENT_CALLS and self.answered[time, group] == 0)

    def absent(self, time: int, group: int) -> bool:
        """Whether a treatment answers nothing while control does."""
        return self.silent(time, group) and bool(self.answered[time, 0] > 0)


@dataclass(frozen=True, slots=True)
class Calendar:
    """The looks.

    Attributes:
        planned: How many looks there are up to the horizon.
        done: How many have been.
        first_shipping: Number of the first look, from 1, at which the plan's minimum has passed.
        look_days: Days between looks, for what is left.
        elapsed_days: Since the first exposure; nan where only looks are known.
    """

    planned: int
    done: int
    first_shipping: int
    look_days: float = 1.0
    elapsed_days: float = math.nan


@dataclass(frozen=True, slots=True)
class DataQuality:
    """What the log said of itself, at the moment of the report.

    Attributes:
        users_in_two_groups: Of how many `users`.
        joined, unjoined: float64[groups], users with outcomes whose requests are all in the log, and with one whose
            request is not.
        before: The primary metric in the 14 days before the first exposure, of the users known at each time; cells are
            allocations. None if nothing is known.
        wrong_clock: Lines left out because the rest of the log does not allow their time, of wrong_clock_routers.
        routers_off: Whose clock is off in all of this experiment's calls.
        impressions_of_no_list: Without a request id, or of another item than the list's, or of a call without answer.
        coverage: Lists with an impression (y) and lists answered (z); None where ctr is no metric or none has one.
        moved_by_ramp: Users whose bucket has moved, of whom what came before does not count.
        not_compared: Those of them of whom nothing counts, because they have not come back.
        in_both_groups: Users who count in more than one
            group: their window had closed before their bucket moved, or a new salt dealt them anew.
        synthetic, ...: Users, lines and outcomes that were left out, and why. excluded: Calls in windows that the
            experiment excludes. unknown_allocation: Calls of an allocation that nothing describes and hardly any call
            names, or of one before the newest MAX_ALLOCATIONS. pinned: Calls of the whole log whose caller named the
            version.
    """

    lines: int = 0
    unreadable: int = 0
    duplicates: int = 0
    synthetic: int = 0
    overrides: int = 0
    no_user_id: int = 0
    holdout: int = 0
    pinned: int = 0
    users: int = 0
    users_in_two_groups: int = 0
    moved_by_ramp: int = 0
    not_compared: int = 0
    in_both_groups: int = 0
    unjoined_outcomes: int = 0
    open_windows: int = 0
    duplicate_outcomes: int = 0
    conflicting_outcomes: int = 0
    clicks_not_in_list: int = 0
    impressions_of_no_list: int = 0
    other_currencies: int = 0
    unusable_values: int = 0
    wrong_clock: int = 0
    wrong_clock_routers: tuple[str, ...] = ()
    unknown_allocation: int = 0
    routers_off: tuple[RouterOff, ...] = ()
    excluded: int = 0
    joined: Floats = field(default_factory=lambda: np.zeros(0))
    unjoined: Floats = field(default_factory=lambda: np.zeros(0))
    before: Moments | None = None
    coverage: Moments | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of one experiment.

    Attributes:
        groups: Names, the control first.
        weights: float64[groups], the shares now in force.
        membership: float64[times, strata, cells], which cells count and where.
        shares: float64[times, strata, groups], expected among those who count.
        new_users: float64[times, cells, groups], users at their first allocation; these test the shares, since a user
            who comes back is no new draw.
        users: float64[times, groups], different users, each in the group of the first allocation; after a new salt they
            count anew.
        ever: float64[groups], different users who were ever in each group; None where they are the last of `users`.
        bad_events: By guardrail.
        outages: By treatment, where the log says who was not there. answers: The same of who answered at all.
        weighted: bool[times, groups], which groups have had a share by then; None where the shares have always been
            those of `weights`.
        newest_users: float64[groups], users of the newest allocation, those who were known before included; None where
            it is the only one.
    """

    groups: tuple[str, ...]
    weights: Floats
    calendar: Calendar
    membership: Floats
    shares: Floats
    new_users: Floats
    users: Floats
    metrics: tuple[MetricEvidence, ...]
    bad_events: Mapping[str, BadEvents]
    quality: DataQuality
    newest_users: Floats | None = None
    weighted: NDArray[np.bool_] | None = None
    ever: Floats | None = None
    outages: Mapping[int, PairOutages] = field(default_factory=dict)
    answers: Answers | None = None

    @property
    def impression_coverage(self) -> Floats | None:
        """The share of answered lists that have an impression: float64[groups], nan where no list was answered.

        None where ctr is no metric, or where there are no impressions.
        """
        if self.quality.coverage is None:
            return None
        covered, answered = self.now(self.quality.coverage.y), self.now(self.quality.coverage.z)
        return np.asarray(np.divide(covered, answered, out=np.full(len(self.groups), np.nan), where=answered > 0))

    def now(self, sums: Floats) -> Floats:
        """Sums over those who count at the moment of the report; sums: float64[times, cells, groups]."""
        return np.asarray(self.membership[-1].sum(axis=0) @ sums[-1])  # a cell is in at most one stratum

    @property
    def present(self) -> NDArray[np.bool_]:
        """Whether each group had a share or a user by then: bool[times, groups]. Once it is there it stays."""
        weighted = self.weights > 0 if self.weighted is None else self.weighted
        return np.asarray(weighted | (self.metrics[0].moments.n.sum(axis=1) > 0))

    @property
    def occupied(self) -> NDArray[np.bool_]:
        """Whether anybody was in each group, in any allocation: bool[groups].

        Those of `users` are not enough: a group that joins by a ramp may have none but users who were known before.
        """
        return np.asarray(self.metrics[0].moments.n[-1].sum(axis=0) > 0)
