"""From a log to the evidence of one experiment. Puts the expressions together; the rules are in what it calls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import numpy as np
from abfleet_experiments.config import AnalysisPlan, Config, Experiment
from abfleet_statistics.moments import from_sums
from numpy.typing import NDArray

from abfleet_analysis.decision.evidence import Evidence, MetricEvidence
from abfleet_analysis.decision.excluded_time import NOTHING_EXCLUDED, ExcludedTime
from abfleet_analysis.decision.metrics import MetricRule
from abfleet_analysis.evidence import log_lines, sums
from abfleet_analysis.evidence.contributions import OutcomeProblems
from abfleet_analysis.evidence.exclusion import Exclusion, without
from abfleet_analysis.evidence.guardrail_events import guardrail_events
from abfleet_analysis.evidence.log_lines import LogTables
from abfleet_analysis.evidence.log_quality import GroupFacts, group_facts, quality, quality_of_lines
from abfleet_analysis.evidence.metric_sums import metrics
from abfleet_analysis.evidence.response_times import with_quantile
from abfleet_analysis.evidence.tables import Tables, tables_of
from abfleet_analysis.periods import cells as cells_of
from abfleet_analysis.periods.allocation_periods import (
    LoggedAllocation,
    LoggedShares,
    Looks,
    allocation_events,
    find_allocations,
    group_names,
    looks_until,
)
from abfleet_analysis.periods.deployment import deployment_of


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
    listed = sorted({row["group"] for row in calls})
    if experiment is None:
        # As the file had them, so that a group keeps its place and its colour when the experiment leaves the file.
        told = (group for event in sorted(events.values(), key=lambda one: one.at_us or 0) for group in event.weights)
        listed = list(dict.fromkeys((*told, *listed)))
    groups = group_names(experiment, listed, lines.calls.shares(name)) if (listed or experiment is not None) else ()
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
    with tables.lines.log.storage.alongside() as beside:
        guarded = beside(guardrail_events, tables)
        facts = beside(group_facts, tables)
        data_quality = beside(quality, tables)
        found_metrics, coverage = metrics(tables, counted, new_users)
    found = data_quality.result()
    counting = sum(one.users for one in facts.result())
    with_scale = tuple(with_quantile(metric, member, tables.times, tables.shape) for metric in found_metrics)
    evidence = Evidence(
        groups=tables.groups,
        weights=tables.cells.periods[-1].weights,
        weighted=_weighted(tables),
        calendar=tables.looks.calendar,
        membership=member,
        shares=cells_of.expected_shares(tables.cells, tables.looks.times),
        new_users=new_users,
        users=new_users.sum(axis=1),
        newest_users=cells_of.in_newest(tables.cells, with_scale[0].moments.n[-1]),
        metrics=with_scale,
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
        quality=quality_of_lines(lines, name),
    )
    facts = tuple(GroupFacts(g, experiment.group(g).model if experiment else None, 0, 0, 0, 0) for g in groups)
    return GatheredEvidence(evidence, (), facts, looks)
