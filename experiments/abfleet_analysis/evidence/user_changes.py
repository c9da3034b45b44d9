"""Each user's part in the sums of every look, for simulations that assign these users anew."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import ibis
import numpy as np
from abfleet_experiments.config import AnalysisPlan, Experiment
from abfleet_statistics.moments import Floats
from numpy.typing import NDArray

from abfleet_analysis.decision.metrics import MetricRule
from abfleet_analysis.evidence import sums
from abfleet_analysis.evidence.allocation_periods import Looks, find_allocations, group_names
from abfleet_analysis.evidence.contributions import OutcomeProblems
from abfleet_analysis.evidence.log_lines import LogTables
from abfleet_analysis.evidence.metric_sums import changed_by_look, contributed
from abfleet_analysis.evidence.tables import Tables, tables_of
from abfleet_analysis.storage.fetching import arrow, numbers


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
