"""From a log to the evidence of one experiment. Puts the expressions together; the rules are in what it calls."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import ibis
import ibis.expr.types as ir
import numpy as np
from abfleet_experiments.config import AnalysisPlan, Config, Experiment
from abfleet_statistics.moments import Floats, Moments, from_sums
from numpy.typing import NDArray

from abfleet_analysis.decision.evidence import Cap, DataQuality, Evidence, MetricEvidence
from abfleet_analysis.decision.excluded_time import NOTHING_EXCLUDED, ExcludedTime
from abfleet_analysis.decision.metrics import MetricRule, MetricSource
from abfleet_analysis.evidence import cells as cells_of
from abfleet_analysis.evidence import log_lines, packed_counts, sums
from abfleet_analysis.evidence.allocation_periods import (
    LoggedAllocation,
    LoggedShares,
    Looks,
    allocation_events,
    find_allocations,
    group_names,
    looks_until,
)
from abfleet_analysis.evidence.caps import caps
from abfleet_analysis.evidence.contributions import COVERAGE, OutcomeProblems, contributions
from abfleet_analysis.evidence.deployment import deployment_of
from abfleet_analysis.evidence.exclusion import Exclusion, without
from abfleet_analysis.evidence.guardrail_events import guardrail_events
from abfleet_analysis.evidence.log_lines import LogTables
from abfleet_analysis.evidence.log_quality import GroupFacts, group_facts, quality
from abfleet_analysis.evidence.response_times import with_quantile
from abfleet_analysis.evidence.sums import Value, arrow
from abfleet_analysis.evidence.tables import SLOW, Tables, counted_in, tables_of
from abfleet_analysis.evidence.thresholds import Thresholds, of_each_time
from abfleet_analysis.reading.databases import alongside, fetched_one, numbers


@dataclass(frozen=True, slots=True)
class GatheredEvidence:
    """One experiment's evidence with what the report shows beside it.

    Attributes:
        currencies: Of each metric that adds up values, at the moment of the report; None where no value has one.
    """

    evidence: Evidence
    allocations: tuple[LoggedAllocation, ...]
    facts: tuple[GroupFacts, ...]
    looks: Looks
    currencies: Mapping[str, str | None] = field(default_factory=dict)


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


def gather_evidence(
    lines: LogTables,
    name: str,
    experiment: Experiment | None,
    rules: Sequence[MetricRule],
    plan: AnalysisPlan,
    as_of: datetime,
    *,
    config: Config | None = None,
    excluded: ExcludedTime = NOTHING_EXCLUDED,
) -> tuple[GatheredEvidence, Tables | None]:
    """An experiment's evidence as known at `as_of`, and the tables it was made from; None where nobody was in it.

    config: The whole file, which says where versions run. excluded: When calls do not count.
    """
    calls = lines.calls.allocated(name)
    events: dict[str, LoggedShares] = {}
    if lines.survey.count(lambda row: row["event"] == "allocation" and row["experiment"] == name):
        events = allocation_events(lines.all, name)
    listed = {row["group"] for row in calls}
    if experiment is None:
        listed |= {group for event in events.values() for group in event.weights}
    groups = (
        group_names(experiment, sorted(listed), lines.calls.shares(name)) if (listed or experiment is not None) else ()
    )
    found = find_allocations(calls, groups, experiment, events, as_of)
    exclusion = None
    if excluded and found:
        every = log_lines.calls(log_lines.allocated(lines, name), groups, [one.id for one in found])
        exclusion = Exclusion(excluded, every, min(one.begin for one in found))
        lines = without(lines, name, excluded)
        kept = {row["allocation"] for row in lines.calls.allocated(name)}
        found = [one for one in found if one.id in kept]
    if not found:
        began = as_of if exclusion is None else exclusion.began
        return _empty_evidence(lines, name, groups, experiment, rules, plan, began, as_of), None
    deployment = deployment_of(config, experiment, groups)
    tables = tables_of(
        lines,
        name,
        groups,
        found,
        rules,
        plan,
        as_of,
        ordered=experiment is not None,
        deployment=deployment,
        exclusion=exclusion,
    )
    return _evidence_of(tables), tables


def _evidence_of(tables: Tables) -> GatheredEvidence:
    """The evidence and the facts of each group. A second thread asks for what no metric needs."""
    counted = OutcomeProblems()
    entering = tables.entering()
    new_users = sums.counts(entering, entering.entry, tables.shape)
    member = cells_of.membership(tables.cells, tables.looks.times)
    with alongside(tables.lines.log.connection) as beside:
        guarded = beside(guardrail_events, tables)
        facts = beside(group_facts, tables)
        data_quality = beside(quality, tables)
        metrics, coverage = _metrics(tables, counted, new_users)
    found = data_quality.result()
    counting = sum(one.users for one in facts.result())
    metrics = tuple(with_quantile(metric, member, tables.times, tables.shape) for metric in metrics)
    evidence = Evidence(
        groups=tables.groups,
        weights=tables.cells.periods[-1].weights,
        weighted=_weighted(tables),
        calendar=tables.looks.calendar,
        membership=member,
        shares=cells_of.expected_shares(tables.cells, tables.looks.times),
        new_users=new_users,
        users=new_users.sum(axis=1),
        newest_users=cells_of.in_newest(tables.cells, metrics[0].moments.n[-1]),
        metrics=metrics,
        bad_events=guarded.result().bad_events,
        outages=guarded.result().outages,
        answers=guarded.result().answers,
        ever=np.array([one.ever for one in facts.result()], dtype=np.float64),
        quality=replace(
            found,
            in_both_groups=counting - (found.users - found.not_compared),
            clicks_not_in_list=counted.clicks_not_in_list,
            impressions_of_no_list=counted.impressions_of_no_list,
            other_currencies=counted.other_currencies,
            coverage=coverage,
        ),
    )
    # A group that nothing describes, and nobody has seen yet, is not expected.
    evidence = replace(evidence, shares=evidence.shares * evidence.present[:, None, :])
    return GatheredEvidence(evidence, tuple(tables.allocations), facts.result(), tables.looks, counted.currencies)


def _weighted(tables: Tables) -> NDArray[np.bool_]:
    """Which groups had a share by each time, in an allocation that is described: bool[times, groups]."""
    result = np.zeros((len(tables.looks.times), len(tables.groups)), dtype=bool)
    for time, at in enumerate(tables.looks.times):
        for one in tables.allocations:
            if one.described is not None and max(one.begin, one.described) <= at:
                result[time] |= one.weights > 0
    return result


def _metrics(
    tables: Tables, counted: OutcomeProblems, users: Floats
) -> tuple[tuple[MetricEvidence, ...], Moments | None]:
    """The metrics, and the sums of COVERAGE where there are impressions."""
    found = _contributed(tables, counted)
    if len(tables.allocations) == 1:
        moments = _moments(tables, found, users)
    else:
        names = list(found.variants)
        changed = tables.keep("changes", _changed(tables, found, found.variants))
        moments = sums.moments(changed, names, tables.shape)
        crosses = sums.crosses(changed, names, tables.shape)
        moments = {name: replace(moments[name], cross=crosses.get(name)) for name in names}
    return tuple(_metric(rule, found, moments) for rule in tables.rules), moments.get(COVERAGE)


def _metric(rule: MetricRule, found: "_Contributed", moments: Mapping[str, Moments]) -> MetricEvidence:
    """The metric with each look's sums by the threshold of that look."""
    cut = found.thresholds.get(rule.name)
    negative = found.values[rule.name].negative
    if cut is None:
        return MetricEvidence(rule, moments[rule.name], negative=negative)
    mine = [moments[name] for name in _names(rule.name, cut)]
    return MetricEvidence(rule, of_each_time(mine, cut.index), negative=negative, cap=found.caps.get(rule.name))


def _moments(tables: Tables, found: "_Contributed", users: Floats) -> dict[str, Moments]:
    """The sums of every metric in the only allocation, in which each user of `users` is once.

    Metrics of one value are few users' alone: apart from the others, they need only these users' rows. Of few calls,
    one query for all metrics takes less time than that spares.
    """
    parts = [found.variants]
    if not tables.few_calls():
        several = {name: value for name, value in found.variants.items() if value.z is not None}
        parts = [several, {name: value for name, value in found.variants.items() if name not in several}]
    moments: dict[str, Moments] = {}
    for chosen in filter(None, parts):
        changed = _changed(tables, found, chosen, everyone=False)
        moments |= sums.moments(changed, list(chosen), tables.shape, users=users)
    return moments


def _changed(tables: Tables, found: "_Contributed", values: Mapping[str, Value], *, everyone: bool = True) -> ir.Table:
    """What each look changes in each user's sums, of these values."""
    ramped = len(tables.allocations) > 1
    return sums.changes(found.table, values, tables.shape, ramped=ramped, bits=found.bits, everyone=everyone)


def contributed(tables: Tables, counted: OutcomeProblems, *, history: bool = True) -> tuple[ir.Table, dict[str, Value]]:
    """What each user adds to every metric, look by look, and which columns make each metric's values now.

    history: As of `contributions`.
    """
    found = _contributed(tables, counted, history=history)
    return found.table, found.values


@dataclass(frozen=True, slots=True)
class _Contributed:
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


def _names(metric: str, cut: Thresholds) -> list[str]:
    """What the sums of a metric are called, one name for each threshold; no metric has a blank in its name."""
    return [f"{metric} {number}" for number in range(len(cut.values))]


def _contributed(tables: Tables, counted: OutcomeProblems, *, history: bool = True) -> _Contributed:
    found = contributions(tables, counted, history=history)
    table, values = found.table, found.values
    # Nobody has more of what is counted of calls than calls.
    bits = dict.fromkeys(counted_in(tables.visits), max(int(fetched_one(tables.units.calls.max())), 1).bit_length())
    if found.outcomes is not None:  # each column is filled by one table, which has one row for a user's look
        more, negative = packed_counts.bits_of(found.outcomes, found.filled, tables.shape.times)
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
    return _Contributed(table, values, cut, last, variants, bits)


def _users(tables: Tables) -> Floats:
    """Users and allocations at each time: float64[times]."""
    columns = sums.float_columns(tables.entering().group_by("look").aggregate(n=ibis._.count()))
    daily = np.zeros(tables.shape.times)
    np.add.at(daily, columns["look"].astype(np.int64), columns["n"])
    return daily.cumsum()


def _by_user(tables: Tables) -> UserChanges:
    """The changes of the largest allocation's users, as arrays."""
    found = _contributed(tables, OutcomeProblems())
    table = _changed(tables, found, found.values)
    sizes = arrow(tables.units.group_by("period").aggregate(n=ibis._.count()))
    largest = max(zip(sizes["n"].to_pylist(), sizes["period"].to_pylist(), strict=True))[1]
    table = table.filter(table.period == largest)
    columns = {name: np.nan_to_num(numbers(column)) for name, column in arrow(table).items()}
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


def _empty_evidence(
    lines: LogTables,
    name: str,
    groups: tuple[str, ...],
    experiment: Experiment | None,
    rules: Sequence[MetricRule],
    plan: AnalysisPlan,
    began: datetime,
    as_of: datetime,
) -> GatheredEvidence:
    """The evidence of an experiment that nobody was in, or whose users are all left out."""
    synthetic, overrides = lines.calls.left_out(name)
    looks = looks_until(began, as_of, plan)
    none = np.zeros((len(looks.times), 1, len(groups)))
    weights = (
        np.array([experiment.group(g).weight_bp / 10_000 for g in groups]) if experiment else np.zeros(len(groups))
    )
    evidence = Evidence(
        groups=groups,
        weights=weights,
        calendar=looks.calendar,
        membership=np.ones((len(looks.times), 1, 1)),
        shares=np.tile(weights, (len(looks.times), 1, 1)),
        new_users=none,
        users=none[:, 0],
        metrics=tuple(MetricEvidence(rule, from_sums([none] * 7)) for rule in rules),
        bad_events={},
        quality=DataQuality(
            lines=lines.survey.lines + lines.clocks.lines,
            unreadable=lines.survey.unreadable,
            duplicates=lines.duplicates,
            synthetic=synthetic,
            overrides=overrides,
            no_user_id=lines.calls.no_user_id,
            holdout=lines.survey.holdout,
            pinned=lines.survey.pinned,
            unusable_values=lines.unusable,
            wrong_clock=lines.clocks.lines,
            wrong_clock_routers=lines.clocks.routers,
        ),
    )
    facts = tuple(GroupFacts(g, experiment.group(g).model if experiment else None, 0, 0, 0, 0) for g in groups)
    return GatheredEvidence(evidence, (), facts, looks)
