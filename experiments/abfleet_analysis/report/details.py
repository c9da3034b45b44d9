"""What is shown beside a conclusion: how it came about, where it differs, what was recommended. Values alone.

Nothing here takes part in a verdict. Groups are those of the evidence, control first; numbers are nan where there is
too little to say.
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from abfleet_statistics.moments import Floats
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class MetricPath:
    """One metric of one treatment against control, at each time.

    Attributes:
        relative_difference, low, high: float64[times], the estimate and its always-valid interval, relative to control.
        better_at, worse_at: float64[times], the relative difference at which the look would have crossed the boundary
            for the better (a guardrail: of being better than its margin) and for harm; nan where it has no such test.
        log_e: float64[times], ln of the e-value of a guardrail's e-process; nan where it has none.
    """

    metric: str
    role: str
    direction: str
    group: str
    relative_difference: Floats
    low: Floats
    high: Floats
    better_at: Floats
    worse_at: Floats
    log_e: Floats


@dataclass(frozen=True, slots=True)
class MetricValues:
    """One metric's value in each group at each time, from the experiment's beginning on: float64[times, groups]."""

    metric: str
    values: Floats


@dataclass(frozen=True, slots=True)
class Paths:
    """How the conclusion came about, look by look; the last time is the moment of the report.

    Attributes:
        users: float64[times, groups]. ratio_p, ratio_log_e: float64[times], of the test of the groups' sizes.
        values: One entry for each metric, in the order of the evidence.
    """

    times: tuple[datetime, ...]
    users: Floats
    ratio_p: Floats
    ratio_log_e: Floats
    metrics: tuple[MetricPath, ...]
    values: tuple[MetricValues, ...] = ()


@dataclass(frozen=True, slots=True)
class BeforeFirstLook:
    """How users and values came about until the first look. Nothing is tested here, and no time of it is a look.

    Attributes:
        width: Between two times. times: The last one is the moment of the report.
        users: float64[times, groups].
    """

    width: timedelta
    times: tuple[datetime, ...]
    users: Floats
    values: tuple[MetricValues, ...]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Calls over time, all assigned ones: int64[bins, groups] each. Bin i begins at begin + i width.

    Attributes:
        errors: The assigned version failed, whoever answered. fallbacks: Another answered. troubled: One or both.
        since, until: From when the experiment took calls, and how far the log was read: a bin that is not between them
            has less than its time.
    """

    begin: datetime
    width: timedelta
    calls: NDArray[np.int64]
    errors: NDArray[np.int64]
    fallbacks: NDArray[np.int64]
    troubled: NDArray[np.int64]
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Slice:
    """One metric of one treatment against control, among some of the users or calls.

    Attributes:
        label: The attribute's value, `day 3`, the served version.
        divisor, baseline_divisor: What the values are divided by: lists, calls or outcomes of a ratio, else the users.
        interval: 95 %, at this look alone, relative to control; nan, as the change, where too little is there.
        adjusted_p: Two-sided, adjusted for all slices of its breakdown (Benjamini-Hochberg); nan where not compared.
    """

    label: str
    group: str
    users: int
    baseline_users: int
    value: float
    baseline_value: float
    relative_difference: float
    interval: tuple[float, float]
    adjusted_p: float
    divisor: float = math.nan
    baseline_divisor: float = math.nan


@dataclass(frozen=True, slots=True)
class Breakdown:
    """One metric among parts of the users.

    Attributes:
        kind: `attribute`, `day` (since a user's first exposure), `served` (as served: not a randomised comparison).
        name: The attribute's name; else what is shown in plain words.
        left_out: Values beyond the largest that are shown.
    """

    kind: str
    name: str
    metric: str
    slices: tuple[Slice, ...]
    left_out: int


@dataclass(frozen=True, slots=True)
class VersionLists:
    """What one served version recommended.

    Attributes:
        items: Different items in its lists.
        coverage: Of the model's catalogue, 0 to 1; nan where its size is not known.
        top_share: Share of all recommended places that its ten most recommended items have.
        top: Item, a number or a name, and share of the version's lists that have it, most first.
        offline: The registry's metrics of the version, as they are; empty where there are none.
    """

    version: str
    lists: int
    items: int
    coverage: float
    top_share: float
    top: tuple[tuple[int | str, float], ...]
    offline: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Recommended:
    """What the versions recommended.

    Attributes:
        overlap: float64[versions, versions], Jaccard similarity of the hundred most recommended items of each two.
    """

    versions: tuple[VersionLists, ...]
    overlap: Floats


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """A line of the log about the configuration, in plain words. `kind`: `allocation`, `reload` or `refused`."""

    at: datetime
    kind: str
    text: str
    revision: str | None


@dataclass(frozen=True, slots=True)
class Details:
    """All details of one experiment.

    Attributes:
        breakdowns: Those of the primary metric first.
        changes: Newest first.
        before_first_look: None from the first look on, and where nobody was in the experiment.
    """

    paths: Paths
    traffic: Traffic
    breakdowns: tuple[Breakdown, ...]
    recommended: Recommended
    changes: tuple[ConfigChange, ...]
    before_first_look: BeforeFirstLook | None = None
