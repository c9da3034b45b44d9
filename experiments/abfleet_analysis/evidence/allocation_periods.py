"""From the log to an experiment's groups, allocations and looks. Runs small queries; decides nothing about users."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import ibis
import ibis.expr.types as ir
import numpy as np
from abfleet_experiments.allocation import allocation_in_force, split_of
from abfleet_experiments.bucketing import BUCKETS
from abfleet_experiments.config import AnalysisPlan, Experiment
from abfleet_statistics.moments import Floats
from numpy.typing import NDArray

from abfleet_analysis.decision.evidence import Calendar
from abfleet_analysis.reading.databases import fetched_rows

MAX_ALLOCATIONS: Final = 12
"""An experiment's newest allocations, as many as are compared; each more costs time with its square."""
DAY: Final = timedelta(days=1)
FORGIVEN: Final = 24
"""The first exposure comes a little after the start: a 24th of a look's length is forgiven where whole looks count."""


@dataclass(frozen=True, slots=True)
class LoggedAllocation:
    """One allocation as the log names it.

    Attributes:
        weights: float64[groups]: shares in force.
        buckets: int[10000], the group of each bucket, where the id proves it; else None.
    """

    id: str
    begin: datetime
    weights: Floats
    salt: str | None
    buckets: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class LoggedShares:
    """What allocation events say of an allocation; weights are shares, 0 to 1, in the file's order."""

    salt: str | None
    traffic: float | None
    weights: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Looks:
    """The times of an experiment's looks.

    Attributes:
        times: One for each look that has been, and last the moment of the report.
        anchor_us, look_us: The first look and the distance, in microseconds.
    """

    times: tuple[datetime, ...]
    anchor_us: int
    look_us: int
    calendar: Calendar

    def at(self, number: int) -> datetime:
        """When the look of a number, from 1, is or will be."""
        return moment(self.anchor_us + (number - 1) * self.look_us)

    def index(self, at_us: ir.IntegerValue) -> ir.IntegerValue:
        """The first time that knows of something that happened then: a look, or the report."""
        index = (at_us - self.anchor_us + self.look_us - 1) // self.look_us
        return ibis.greatest(0, ibis.least(index, self.calendar.done)).cast("int32")


def microseconds(at: datetime) -> int:
    """An instant as whole microseconds since 1970, without the rounding of a float timestamp."""
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def moment(at_us: int) -> datetime:
    """The instant of so many microseconds since 1970."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(at_us))


def looks_until(first: datetime, as_of: datetime, plan: AnalysisPlan) -> Looks:
    """The looks of an experiment whose first exposure was then.

    Every `plan.look` from the UTC midnight after the first exposure; looks shorter than a day start at the next whole
    multiple of their own length, so that an experiment of minutes is looked at too.
    """
    step = min(plan.look, DAY)
    first_us, step_us, look_us = (
        microseconds(first),
        step // timedelta(microseconds=1),
        plan.look // timedelta(microseconds=1),
    )
    anchor_us = (first_us // step_us + 1) * step_us
    planned = max(int(plan.horizon / plan.look), 1)
    passed = (microseconds(as_of) - anchor_us) // look_us + 1
    done = int(min(max(passed, 0), planned))
    times = [moment(anchor_us + index * look_us) for index in range(done)]
    forgiven = plan.look / FORGIVEN
    shipping = [
        index + 1 for index in range(planned) if moment(anchor_us + index * look_us) - first + forgiven >= plan.minimum
    ]
    calendar = Calendar(
        planned=planned,
        done=done,
        first_shipping=shipping[0] if shipping else planned,
        look_days=plan.look / DAY,
    )
    return Looks((*times, max(as_of, times[-1]) if times else as_of), anchor_us, look_us, calendar)


def group_names(experiment: Experiment | None, logged: Sequence[str], shares: Mapping[str, float]) -> tuple[str, ...]:
    """The groups with the control first: those of the file, then any others that the log has.

    Without the file the control is the group of that name, or else the one with the largest share.
    """
    if experiment is not None:
        names = [experiment.control, *(g.name for g in experiment.groups if g.name != experiment.control)]
    else:
        listed = sorted(logged)
        control = "control" if "control" in listed else max(listed, key=lambda name: (shares.get(name, 0.0), name))
        names = [control]
    return (*names, *(name for name in sorted(logged) if name not in names))


def allocation_events(lines: ir.Table, name: str) -> dict[str, LoggedShares]:
    """What allocation events among lines say of an experiment's allocations, by id."""
    events = lines.filter(lines.event == "allocation", lines.experiment == name)
    rows = fetched_rows(events.select("allocation", "salt", "traffic", "weights").distinct())
    found: dict[str, LoggedShares] = {}
    for row in rows:
        try:
            weights = json.loads(row["weights"] or "{}")
            shares = {str(k): float(v) / 100 for k, v in weights.items()}
            found[row["allocation"]] = LoggedShares(row["salt"], row["traffic"], shares)
        except (ValueError, TypeError, AttributeError):
            continue  # a malformed event is as good as none: propensities say the same
    return found


def find_allocations(
    calls: Iterable[Mapping[str, Any]],
    groups: Sequence[str],
    experiment: Experiment | None,
    events: Mapping[str, LoggedShares],
    as_of: datetime,
) -> list[LoggedAllocation]:
    """The allocations that calls name, in the order in which they began, the newest MAX_PERIODS of them.

    calls: Rows as of `Calls.allocated`.
    """
    begins: dict[str, int] = {}
    propensities: dict[str, dict[str, float]] = {}
    for row in calls:
        begins[row["allocation"]] = min(begins.get(row["allocation"], row["oldest"]), row["oldest"])
        if row["highest"] is not None:
            seen = propensities.setdefault(row["allocation"], {})
            seen[row["group"]] = max(seen.get(row["group"], 0.0), float(row["highest"]))
    from_file = _shares_of_file(experiment, as_of)
    splits = _splits(experiment, groups[0], events, as_of) if groups else {}
    found = []
    for identity in sorted(begins, key=lambda one: (begins[one], one))[-MAX_ALLOCATIONS:]:
        event = events.get(identity, LoggedShares(None, None, {}))
        shares = event.weights or from_file.get(identity) or {}
        if not shares:
            shares = _completed(propensities.get(identity, {}), groups, from_file)
        weights = np.array([shares.get(name, 0.0) for name in groups])
        buckets = _buckets(splits[identity], groups) if identity in splits else None
        found.append(LoggedAllocation(identity, moment(begins[identity]), weights, event.salt, buckets))
    return found


def _splits(
    experiment: Experiment | None, control: str, events: Mapping[str, LoggedShares], as_of: datetime
) -> dict[str, list[tuple[int, int, str]]]:
    """The runs of buckets of each allocation that the file or an event describes, with their groups' names, by id."""
    found: dict[str, list[tuple[int, int, str]]] = {}
    for identity, event in events.items():
        if event.salt is not None and event.traffic is not None:
            weights = {name: round(share * BUCKETS) for name, share in event.weights.items()}
            names = list(weights)
            runs = split_of(identity, event.salt, round(event.traffic * 100), weights, control)
            if runs is not None:
                found[identity] = [(run.start, run.end, names[run.group]) for run in runs]
    if experiment is None:
        return found
    for at in [*(row.at for row in experiment.ramp), as_of]:
        allocation = allocation_in_force(experiment, at)
        if allocation is not None:
            names = [group.name for group in experiment.groups]
            found[allocation.id] = [(run.start, run.end, names[run.group]) for run in allocation.runs]
    return found


def _buckets(runs: Sequence[tuple[int, int, str]], groups: Sequence[str]) -> NDArray[np.int64]:
    table = np.zeros(BUCKETS, dtype=np.int64)
    for begin, end, name in runs:
        table[begin:end] = groups.index(name) if name in groups else -1
    return table


def _shares_of_file(experiment: Experiment | None, as_of: datetime) -> dict[str, dict[str, float]]:
    """The shares of each allocation that the file has had by its own rows; "" is the one in force."""
    if experiment is None:
        return {}
    shares: dict[str, dict[str, float]] = {}
    for at in [*(row.at for row in experiment.ramp), as_of]:
        allocation = allocation_in_force(experiment, at)
        if allocation is not None:
            named = {g.name: bp / BUCKETS for g, bp in zip(experiment.groups, allocation.weights_bp, strict=True)}
            shares[allocation.id] = shares[""] = named
    return shares


def _completed(
    propensities: Mapping[str, float], groups: Sequence[str], from_file: Mapping[str, Mapping[str, float]]
) -> Mapping[str, float]:
    """Shares from the propensities of the groups that were seen; what is missing to 1 is the others'."""
    if not propensities:
        return from_file.get("", {name: 1 / len(groups) for name in groups})
    unseen = [name for name in groups if name not in propensities]
    left = 1 - math.fsum(propensities.values())
    if left <= 1e-6 or not unseen:
        return propensities
    filed = {name: from_file.get("", {}).get(name, 0.0) for name in unseen}
    total = math.fsum(filed.values())
    if not total:
        return propensities
    return {**propensities, **{name: left * share / total for name, share in filed.items()}}


def index_of(column: ir.StringValue, values: Sequence[str]) -> ir.IntegerValue:
    """The position of a text in a list, as an expression; -1 where it is not in it."""
    return ibis.cases(*((column == value, index) for index, value in enumerate(values)), else_=-1).cast("int32")
