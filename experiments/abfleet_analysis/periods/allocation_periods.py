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
from abfleet_analysis.storage.fetching import fetched_rows

MAX_ALLOCATIONS: Final = 12
STRAY_CALLS: Final = 10
STRAY_SHARE: Final = 0.01
"""An allocation that neither the file nor a line describes, while they describe others, and that has no more calls than
one of these two, is nobody's: one line with a wrong id may not say which users moved."""
"""An experiment's newest allocations, as many as are compared; each more costs time with its square."""
DAY: Final = timedelta(days=1)
FORGIVEN: Final = 24
"""The first exposure comes a little after the start: a 24th of a look's length is forgiven where whole looks count."""


@dataclass(frozen=True, slots=True)
class LoggedAllocation:
    """One allocation as the log names it.

    Attributes:
        weights: float64[groups]: shares in force.
        salt: None where the log does not say. told: When it first said so; None where the file does.
        buckets: int[10000], the group of each bucket, where the id proves it; else None.
        described: Since when the file or an `allocation` line names its groups; None where they are known when seen.
    """

    id: str
    begin: datetime
    weights: Floats
    salt: str | None
    buckets: NDArray[np.int64] | None = None
    told: datetime | None = None
    described: datetime | None = None


@dataclass(frozen=True, slots=True)
class LoggedShares:
    """What allocation events say of an allocation; weights are shares, 0 to 1, in the file's order.

    Attributes:
        at_us: When they first did.
    """

    salt: str | None
    traffic: float | None
    weights: Mapping[str, float]
    at_us: int | None = None


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
        elapsed_days=(as_of - first) / DAY,
    )
    return Looks((*times, max(as_of, times[-1]) if times else as_of), anchor_us, look_us, calendar)


def group_names(experiment: Experiment | None, logged: Sequence[str], shares: Mapping[str, float]) -> tuple[str, ...]:
    """The groups with the control first: those of the file, then any others that the log has, in the order given.

    Without the file the control is the group of that name, or else the one with the largest share.
    """
    if experiment is not None:
        names = [experiment.control, *(g.name for g in experiment.groups if g.name != experiment.control)]
    else:
        control = "control" if "control" in logged else max(logged, key=lambda name: (shares.get(name, 0.0), name))
        names = [control]
    return (*names, *(name for name in logged if name not in names))


def allocation_events(lines: ir.Table, name: str) -> dict[str, LoggedShares]:
    """What allocation events among lines say of an experiment's allocations, by id."""
    events = lines.filter(lines.event == "allocation", lines.experiment == name)
    told = events.group_by("allocation", "salt", "traffic", "weights").aggregate(at_us=events["at"].min())
    found: dict[str, LoggedShares] = {}
    for row in sorted(fetched_rows(told), key=lambda row: -row["at_us"]):  # the first that says something counts
        try:
            weights = json.loads(row["weights"] or "{}")
            shares = {str(k): float(v) / 100 for k, v in weights.items()}
            found[row["allocation"]] = LoggedShares(row["salt"], row["traffic"], shares, row["at_us"])
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
    """The allocations that calls name, in the order in which they began, without strays, the newest MAX_ALLOCATIONS.

    calls: Rows as of `Calls.allocated`.
    """
    begins: dict[str, int] = {}
    propensities: dict[str, dict[str, tuple[int, float]]] = {}
    for row in calls:
        begins[row["allocation"]] = min(begins.get(row["allocation"], row["oldest"]), row["oldest"])
        seen = propensities.setdefault(row["allocation"], {})
        n, highest = seen.get(row["group"], (0, 0.0))
        seen[row["group"]] = (n + row["n"], max(highest, row["highest"] or 0.0))
    from_file = _shares_of_file(experiment, as_of)
    described = {identity for identity in begins if from_file.get(identity) or _weights(events, identity)}
    calls_of = {identity: sum(n for n, _ in seen.values()) for identity, seen in propensities.items()}
    most = max(STRAY_CALLS, STRAY_SHARE * sum(calls_of.values()))
    known = [one for one in begins if one in described or not described or calls_of[one] > most]
    splits = _splits(experiment, groups[0], events, as_of) if groups else {}
    found = []
    for identity in sorted(known, key=lambda one: (begins[one], one))[-MAX_ALLOCATIONS:]:
        event = events.get(identity, LoggedShares(None, None, {}))
        told = event.weights or from_file.get(identity) or {}
        begin = moment(begins[identity])
        shares = told or _completed(propensities[identity], groups, _filed(experiment, begin))
        of_file = experiment is not None and identity in from_file
        at = None if event.at_us is None else moment(event.at_us)
        found.append(
            LoggedAllocation(
                identity,
                begin,
                np.array([shares.get(name, 0.0) for name in groups]),
                experiment.salt if experiment is not None and of_file else event.salt,
                _buckets(splits[identity], groups) if identity in splits else None,
                told=None if of_file else at,
                described=at if experiment is None else begin,
            )
        )
    return found


def _weights(events: Mapping[str, LoggedShares], identity: str) -> Mapping[str, float]:
    return events[identity].weights if identity in events else {}


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


def _shares_of_file(experiment: Experiment | None, as_of: datetime) -> dict[str, Mapping[str, float]]:
    """The shares of each allocation that the file has had by its own rows."""
    if experiment is None:
        return {}
    shares: dict[str, Mapping[str, float]] = {}
    for at in [*(row.at for row in experiment.ramp), as_of]:
        allocation = allocation_in_force(experiment, at)
        if allocation is not None:
            shares[allocation.id] = _filed(experiment, at)
    return shares


def _filed(experiment: Experiment | None, at: datetime) -> Mapping[str, float]:
    """The shares that the file has at an instant, by group; none where it has none."""
    allocation = None if experiment is None else allocation_in_force(experiment, at)
    if experiment is None or allocation is None:
        return {}
    return {g.name: bp / BUCKETS for g, bp in zip(experiment.groups, allocation.weights_bp, strict=True)}


def _completed(
    seen: Mapping[str, tuple[int, float]], groups: Sequence[str], filed: Mapping[str, float]
) -> Mapping[str, float]:
    """Shares from the calls and the propensity of each group that was seen; what is missing to 1 is the others'.

    Of groups whose propensities are too much together, those of few calls are strangers' or wrong.
    """
    if not any(share for _, share in seen.values()):
        return filed or {name: 1 / len(groups) for name in groups}
    shares: dict[str, float] = {}
    left = 1.0
    for name, (_, share) in sorted(seen.items(), key=lambda item: (-item[1][0], item[0])):
        shares[name] = max(min(share, left), 0.0)
        left -= shares[name]
    unseen = [name for name in groups if name not in seen]
    unseen = [name for name in unseen if filed.get(name)] or [name for name in unseen if name in filed] or unseen
    if left <= 1e-6 or not unseen:
        return shares
    total = math.fsum(filed.get(name, 0.0) for name in unseen)
    more = {name: left * (filed.get(name, 0.0) / total if total else 1 / len(unseen)) for name in unseen}
    return shares | more


def index_of(column: ir.StringValue, values: Sequence[str]) -> ir.IntegerValue:
    """The position of a text in a list, as an expression; -1 where it is not in it."""
    return ibis.cases(*((column == value, index) for index, value in enumerate(values)), else_=-1).cast("int32")
