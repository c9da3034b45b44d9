"""The sums and counts that a decision is computed from. They come from a log or from a simulation.

Axes are those of moments.py. A time is a look, and the last one is the moment of the report.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from abfleet_analysis.decision.metrics import MetricRule
from abfleet_analysis.statistics.effects import QuantileScale
from abfleet_analysis.statistics.moments import Floats, Moments


@dataclass(frozen=True, slots=True)
class MetricEvidence:
    """The sums of one metric; `quantile` where it is one."""

    rule: MetricRule
    moments: Moments
    quantile: QuantileScale | None = None


@dataclass(frozen=True, slots=True)
class BadEvents:
    """When users had their first bad event of a kind.

    Attributes:
        time: int[steps], ascending: the first time (look, or last the report) that knows the step.
        counts: float64[steps, groups], users.
        shares: float64[steps, groups], the groups' shares then in force.
    """

    time: NDArray[np.int64]
    counts: Floats
    shares: Floats


@dataclass(frozen=True, slots=True)
class Calendar:
    """The looks.

    Attributes:
        planned: How many looks there are up to the horizon.
        done: How many have been.
        first_shipping: Number of the first look, from 1, at which the plan's minimum has passed.
        look_days: Days between looks, for what is left.
    """

    planned: int
    done: int
    first_shipping: int
    look_days: float = 1.0


@dataclass(frozen=True, slots=True)
class DataQuality:
    """What the log said of itself, at the moment of the report.

    Attributes:
        users_in_two_groups: Of how many `users`.
        joined, unjoined: float64[groups], outcomes with a request id that is, or is not, in the log.
        before: The primary metric in the 14 days before the first exposure, [1, 1, groups]; None if nothing is known.
        moved, synthetic, ...: Users, lines and outcomes that were left out, and why.
    """

    lines: int = 0
    unreadable: int = 0
    duplicates: int = 0
    synthetic: int = 0
    overrides: int = 0
    no_user_id: int = 0
    holdout: int = 0
    users: int = 0
    users_in_two_groups: int = 0
    moved_by_ramp: int = 0
    unjoined_outcomes: int = 0
    open_windows: int = 0
    duplicate_outcomes: int = 0
    clicks_not_in_list: int = 0
    other_currencies: int = 0
    unusable_values: int = 0
    joined: Floats = field(default_factory=lambda: np.zeros(0))
    unjoined: Floats = field(default_factory=lambda: np.zeros(0))
    before: Moments | None = None


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
        users: float64[times, groups], different users, each in the group of the first allocation.
        bad_events: By guardrail.
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

    @property
    def occupied(self) -> NDArray[np.bool_]:
        """Whether anybody was in each group, in any allocation: bool[groups].

        Those of `users` are not enough: a group that joins by a ramp may have none but users who were known before.
        """
        return np.asarray(self.metrics[0].moments.n[-1].sum(axis=0) > 0)
