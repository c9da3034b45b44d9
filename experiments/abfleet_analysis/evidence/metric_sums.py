"""Each metric's sums over users, at every look, with the threshold of that look."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import ibis
import ibis.expr.types as ir
import numpy as np
from abfleet_experiments.config import AnalysisPlan, Experiment
from abfleet_statistics.moments import Floats, Moments
from numpy.typing import NDArray

from abfleet_analysis.decision.evidence import Cap, MetricEvidence
from abfleet_analysis.decision.metrics import MetricRule, MetricSource
from abfleet_analysis.evidence import sums
from abfleet_analysis.evidence.caps import caps
from abfleet_analysis.evidence.contributions import COVERAGE, OutcomeProblems, contributions
from abfleet_analysis.evidence.layout import Layout
from abfleet_analysis.evidence.log_lines import LogTables
from abfleet_analysis.evidence.sums import Value
from abfleet_analysis.evidence.tables import Tables, tables_of
from abfleet_analysis.evidence.thresholds import Thresholds, of_each_time
from abfleet_analysis.evidence.visits import SLOW, counted_in
from abfleet_analysis.periods.allocation_periods import Looks, find_allocations, group_names
from abfleet_analysis.storage.fetching import columns_of, fetched_one, float_columns
from abfleet_analysis.storage.packed_counts import bits_of


@dataclass(frozen=True, slots=True)
class Contributed:
    """What each user adds.

    Attributes:
        values: By metric, as they are at the moment of the report.
        thresholds: Of the metrics whose values are cut otherwise at other looks.
        caps: The last ones, of winsorised metrics.
        variants: The values of all metrics with every threshold, by `_names`, and COVERAGE.
        bits: How many a user's sum needs, of the columns that have whole numbers alone.
    """

    table: ir.Table
    values: dict[str, Value]
    thresholds: dict[str, Thresholds]
    caps: dict[str, Cap | None]
    variants: dict[str, Value]
    bits: dict[str, int]


def metrics(
    tables: Tables, counted: OutcomeProblems, users: Floats
) -> tuple[tuple[MetricEvidence, ...], Moments | None]:
    """The metrics, and the sums of COVERAGE where there are impressions."""
    found = contributed(tables, counted)
    if not tables.layout.ramped:
        moments = _moments(tables, found, users)
    else:
        names = list(found.variants)
        changed = tables.keep("changes", changed_by_look(tables, found, found.variants, tables.layout))
        moments = sums.moments(changed, names, tables.shape)
        crosses = sums.crosses(changed, names, tables.shape)
        moments = {name: replace(moments[name], cross=crosses.get(name)) for name in names}
    return tuple(_metric(rule, found, moments) for rule in tables.rules), moments.get(COVERAGE)


def _metric(rule: MetricRule, found: Contributed, moments: Mapping[str, Moments]) -> MetricEvidence:
    """The metric with each look's sums by the threshold of that look."""
    cut = found.thresholds.get(rule.name)
    negative = found.values[rule.name].negative
    if cut is None:
        return MetricEvidence(rule, moments[rule.name], negative=negative)
    mine = [moments[name] for name in _names(rule.name, cut)]
    return MetricEvidence(rule, of_each_time(mine, cut.index), negative=negative, cap=found.caps.get(rule.name))


def _moments(tables: Tables, found: Contributed, users: Floats) -> dict[str, Moments]:
    """The sums of every metric in the only allocation, in which each user of `users` is once.

    Metrics of one value are few users' alone: apart from the others, they need only these users' rows. Of few calls,
    one query for all metrics takes less time than that spares.
    """
    parts = [found.variants]
    if not tables.layout.few:
        several = {name: value for name, value in found.variants.items() if value.z is not None}
        parts = [several, {name: value for name, value in found.variants.items() if name not in several}]
    moments: dict[str, Moments] = {}
    for chosen in filter(None, parts):
        changed = changed_by_look(tables, found, chosen, tables.layout)
        moments |= sums.moments(changed, list(chosen), tables.shape, users=users)
    return moments


def changed_by_look(tables: Tables, found: Contributed, values: Mapping[str, Value], layout: Layout) -> ir.Table:
    """What each look changes in each user's sums, of these values."""
    return sums.changes(found.table, values, tables.shape, layout, found.bits)


def _names(metric: str, cut: Thresholds) -> list[str]:
    """What the sums of a metric are called, one name for each threshold; no metric has a blank in its name."""
    return [f"{metric} {number}" for number in range(len(cut.values))]


def contributed(tables: Tables, counted: OutcomeProblems, *, history: bool = True) -> Contributed:
    """What each user adds to every metric, look by look; history: As of `contributions`."""
    found = contributions(tables, counted, history=history)
    table, values = found.table, found.values
    # Nobody has more of what is counted of calls than calls.
    bits = dict.fromkeys(counted_in(tables.visits), max(int(fetched_one(tables.units.calls.max())), 1).bit_length())
    if found.outcomes is not None:  # each column is filled by one table, which has one row for a user's look
        more, negative = bits_of(tables.lines.log.storage, found.outcomes, found.filled, tables.shape.times)
        bits |= more
        if "more_items" in bits:
            bits["shown"] = max(bits["answered"], bits["more_items"]) + 1
        values = {name: replace(value, negative=value.y in negative) for name, value in values.items()}
    cut: dict[str, Thresholds] = {}
    last: dict[str, Cap | None] = {}
    variants = {name: value for name, value in values.items() if name == COVERAGE}
    for rule in tables.rules:
        value = values[rule.name]
        mine = {rule.name: value}
        if rule.source is MetricSource.TIME_QUANTILE and tables.slow is not None:
            cut[rule.name] = tables.slow
            names = _names(rule.name, tables.slow)
            mine = {name: replace(value, y=f"{SLOW}{number}") for number, name in enumerate(names)}
        elif rule.winsorise is not None and found.outcomes is not None:
            of, last[rule.name] = caps(
                found.outcomes, value.y, _users(tables), len(tables.groups), quantile=rule.winsorise
            )
            cut[rule.name] = of
            mine = {
                name: replace(value, cap=cap if math.isfinite(cap) else None)
                for name, cap in zip(_names(rule.name, of), of.values, strict=True)
            }
            values[rule.name] = mine[_names(rule.name, of)[of.index[-1, 0]]]
        variants |= mine
    return Contributed(table, values, cut, last, variants, bits)


def _users(tables: Tables) -> Floats:
    """Users and allocations at each time: float64[times]."""
    columns = float_columns(tables.entering().group_by("look").aggregate(n=ibis._.count()))
    daily = np.zeros(tables.shape.times)
    np.add.at(daily, columns["look"].astype(np.int64), columns["n"])
    return daily.cumsum()


# --- user by user, for simulations that assign these users anew -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UserChanges:
    """What each look changes in the sums of each user of one allocation.

    Attributes:
        users: How many. user: int[rows], which of them. look: int[rows]. entered: float64[rows], 1 at the user's first.
        parts: By metric and product of sums.PRODUCTS, float64[rows].
    """

    groups: tuple[str, ...]
    users: int
    user: NDArray[np.int64]
    look: NDArray[np.int64]
    entered: Floats
    parts: Mapping[str, Mapping[str, Floats]]
    rules: tuple[MetricRule, ...]
    looks: Looks


def user_changes(
    lines: LogTables,
    name: str,
    experiment: Experiment,
    rules: Sequence[MetricRule],
    plan: AnalysisPlan,
    as_of: datetime,
) -> UserChanges | None:
    """The changes of each user of an experiment's largest allocation; None if nobody was in it."""
    groups = group_names(experiment, [], {})
    found = find_allocations(lines.calls.allocated(name), groups, experiment, {}, as_of)
    if not found:
        return None
    return _by_user(tables_of(lines, name, groups, found, rules, plan, as_of))


def _by_user(tables: Tables) -> UserChanges:
    """The changes of the largest allocation's users, as arrays."""
    found = contributed(tables, OutcomeProblems())
    table = changed_by_look(tables, found, found.values, replace(tables.layout, everyone=True))
    sizes = columns_of(tables.units.group_by("period").aggregate(n=ibis._.count()))
    largest = max(zip(sizes["n"].tolist(), sizes["period"].tolist(), strict=True))[1]
    table = table.filter(table.period == largest)
    columns = {name: np.nan_to_num(column) for name, column in columns_of(table).items()}
    look = sums.places(columns["place"].astype(np.int64), tables.shape)[0]
    users, index = np.unique(columns["user"], return_inverse=True)
    parts = {
        rule.name: {
            part: columns[sums.column(rule.name, part)].astype(np.float64)
            for part in (*sums.PRODUCTS, *sums.THIRD_PRODUCTS)
            if sums.column(rule.name, part) in columns
        }
        for rule in tables.rules
    }
    entered = columns["entered"].astype(np.float64)
    return UserChanges(
        tables.groups,
        len(users),
        index,
        look,
        entered,
        parts,
        tuple(tables.rules),
        tables.looks,
    )
