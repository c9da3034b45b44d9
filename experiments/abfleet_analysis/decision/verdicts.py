"""The verdicts, their order, and the values of a conclusion."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from abfleet_statistics.moments import Floats

from abfleet_analysis.decision.evidence import Cap
from abfleet_analysis.decision.metrics import MetricRule


class Verdict(StrEnum):
    """What to do with a treatment or an experiment, in the order of PRECEDENCE."""

    ROLL_BACK = "roll_back"
    REFUSE = "refuse"
    CHECK_FIRST = "check_first"
    SHIP = "ship"
    PREFER = "prefer"
    KEEP_RUNNING = "keep_running"
    STOP_NO_EFFECT = "stop_no_effect"
    INCONCLUSIVE = "inconclusive"
    NO_PREFERENCE = "no_preference"


PRECEDENCE: Final = tuple(Verdict)
"""Of several groups' verdicts the experiment has the first in this order."""


@dataclass(frozen=True, slots=True)
class MetricResult:
    """One metric of one treatment against control, at the moment of the report; nan where there is too little.

    Attributes:
        interval, sequential_interval: Of the difference.
        relative_interval, relative_sequential_interval: Of the relative difference, with what is not known of control's
            value; nan where that may be 0.
        events, baseline_events: Users with a value other than 0.
        margin: Tolerated relative change for the worse.
        z: Of the difference, positive where it is for the better; for a guardrail, of being better than its margin.
        boundary: What z must reach at the last look; nan before the first.
        e_value: Of the guardrail's e-process.
        counts: Whether this look counts for the test; else z is -inf. skewness: Of the difference if there is none; at
            most 1 either way for a look to count.
        cap: What users' values are cut at; None where none is.
    """

    rule: MetricRule
    group: str
    users: float
    baseline_users: float
    value: float
    baseline_value: float
    difference: float
    relative_difference: float
    standard_error: float
    interval: tuple[float, float]
    p_value: float
    margin: float
    z: float
    boundary: float
    e_value: float
    sequential_interval: tuple[float, float]
    relative_interval: tuple[float, float]
    relative_sequential_interval: tuple[float, float]
    events: float
    baseline_events: float
    counts: bool = True
    skewness: float = 0.0
    cap: Cap | None = None

    @property
    def users_factor(self) -> float:
        """How many times as many users of the same kind make a look count; 1 where it counts."""
        return 1.0 if self.counts else max(self.skewness**2, 1.0)


@dataclass(frozen=True, slots=True)
class GroupDecision:
    """The verdict on one treatment, with what it rests on.

    Attributes:
        reasons: In plain words, the deciding one first.
        history: The verdict at each look.
        users_planned: Of the whole experiment, for this group to be decided.
        lifts: float64[times], difference of the primary metric, positive where it is for the better.
        always_excludes_zero: float64[times], 1 where the primary metric's always-valid interval leaves out 0.
    """

    group: str
    verdict: Verdict
    reasons: tuple[str, ...]
    history: tuple[Verdict, ...]
    users_planned: float
    metrics: tuple[MetricResult, ...]
    lifts: Floats
    always_excludes_zero: Floats


@dataclass(frozen=True, slots=True)
class SampleRatio:
    """The test of the groups' sizes, at the moment of the report: users and expected users by group."""

    ok: bool
    p_value: float
    e_value: float
    observed: tuple[float, ...]
    expected: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """The conclusion of an experiment.

    Attributes:
        group: Whom the verdict is about; None where it is about all.
        history: Verdict and group at each look; of an interleaving, verdict and version.
        days_left: Until the planned users are reached at the present rate, or the horizon; nan before anyone came.
        version: Of an interleaving, the one that users prefer; None where none is preferred.
    """

    verdict: Verdict
    group: str | None
    reasons: tuple[str, ...]
    history: tuple[tuple[Verdict, str | None], ...]
    groups: tuple[GroupDecision, ...]
    sample_ratio: SampleRatio
    users_planned: float
    days_left: float
    version: str | None = None
