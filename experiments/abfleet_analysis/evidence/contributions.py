"""What each user adds to each metric, look by look. Ibis expressions."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import ibis
import ibis.expr.types as ir
from abfleet_statistics.effects import Estimator

from abfleet_analysis.decision.metrics import MetricRule, MetricSource
from abfleet_analysis.evidence.outcomes import (
    Joined,
    Worth,
    in_window,
    join_outcomes,
    kinds_of,
    known_before,
    of_metric,
)
from abfleet_analysis.evidence.sums import Value, spelled
from abfleet_analysis.evidence.tables import Tables
from abfleet_analysis.evidence.visits import SLOW, counted_in

_OUTCOME_SOURCES: Final = (MetricSource.OUTCOME_VALUE, MetricSource.OUTCOME_COUNT, MetricSource.OUTCOME_ANY)
_KEYS: Final = ("user", "period", "look")
_PLACE: Final = ("cell", "g")
COVERAGE: Final = "impression coverage"
"""Lists with an impression over lists answered, beside the metrics; no metric has a blank in its name."""


@dataclass(slots=True)
class OutcomeProblems:
    """Outcomes left out, by reason, and each metric's currency. Changed only while the contributions are made."""

    clicks_not_in_list: int = 0
    impressions_of_no_list: int = 0
    other_currencies: int = 0
    currencies: dict[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contributions:
    """What each user adds to the metrics, look by look.

    Attributes:
        table: Rows for each user, allocation and look, with cell and group. outcomes: Those of outcomes alone; None
            where no metric is of outcomes.
        values: By metric, which columns make it; of slow calls those of the first threshold. COVERAGE too, where ctr is
            one and there are impressions.
        filled: The columns that outcomes fill, and nothing else.
    """

    table: ir.Table
    outcomes: ir.Table | None
    values: dict[str, Value]
    filled: tuple[str, ...]


def contributions(tables: Tables, counted: OutcomeProblems, *, history: bool = True) -> Contributions:
    """What each user adds to the metrics.

    history: Whether each look has values in the currency that was the most frequent one then; else all have them in
    that of the last.
    """
    outcomes, rules = join_outcomes(tables), tables.rules
    values: dict[str, Value] = {}
    parts: list[ir.Table] = []
    kinds = kinds_of(outcomes, rules)
    for rule in rules:
        if rule.source is MetricSource.CLICKS:
            parts.append(_clicks(outcomes, rule))
            counted.clicks_not_in_list += kinds.count("click", rule, lambda row: not row["listed"])
            counted.impressions_of_no_list += kinds.count("impression", rule, lambda row: not row["placed"])
            values[rule.name] = Value("clicked", "answered")
            if kinds.count("impression", rule, lambda row: row["placed"]):
                parts.append(_impressions(outcomes))
                values |= {rule.name: Value("clicked", "shown"), COVERAGE: Value("covered", "answered")}
        elif rule.source is MetricSource.OUTCOME_RATIO:
            assert rule.over is not None, "a ratio has both"
            below = replace(rule, outcome=rule.over, name=f"{rule.name} over")  # no metric has a blank in its name
            parts += [_per_look(of_metric(outcomes, one), **{_column(one): ibis._.count()}) for one in (rule, below)]
            values[rule.name] = Value(_column(rule), _column(below))
        elif rule.adds_values:
            currencies = kinds.currencies(rule) if history else kinds.currencies(rule)[-1:]
            worth = Worth(rule, currencies, tables.units)
            counted.currencies[rule.name] = currencies[-1][1]
            counted.other_currencies += kinds.other_currencies(rule, worth.rates)
            parts.append(_summed(worth.of(of_metric(outcomes, rule)), _column(rule)))
            values[rule.name] = Value(_column(rule))
            if rule.estimator is Estimator.CUPED and tables.any_before():
                before = f"before_{_column(rule)}"
                parts.append(_summed(worth.of(known_before(tables, rule)), before))
                values[rule.name] = Value(_column(rule), before)
        elif rule.source in _OUTCOME_SOURCES:
            parts.append(_per_look(of_metric(outcomes, rule), **{_column(rule): ibis._.count()}))
            values[rule.name] = Value(_column(rule), any=rule.source is MetricSource.OUTCOME_ANY)
        else:
            values[rule.name] = {
                MetricSource.ERRORS: Value("error", any=True),
                MetricSource.FALLBACKS: Value("fell_back", any=True),
                MetricSource.TIME_MEAN: Value("time_sum", "timed"),
                MetricSource.TIME_QUANTILE: Value(f"{SLOW}0", "timed"),
            }[rule.source]
    if not parts:
        base = _base(tables)
        return Contributions(_aligned(base, base.columns), None, values, ())
    return _together(tables, parts, values)


def _base(tables: Tables) -> ir.Table:
    """What calls add."""
    return tables.visits.select(*_KEYS, *_PLACE, *counted_in(tables.visits), "time_sum")


def _together(tables: Tables, parts: Sequence[ir.Table], values: dict[str, Value]) -> Contributions:
    """What calls add, and what each of the parts does."""
    base, units = _base(tables), tables.units
    filled = tuple(sorted({name for part in parts for name in part.columns} - {*_KEYS}))
    # Few rows beside the base's, which would otherwise be computed anew for each query over them.
    aligned = [_aligned(part, (*_KEYS, *filled)) for part in parts]
    few = ibis.union(*aligned) if len(aligned) > 1 else aligned[0]
    place = units.select("user", "period", **{key: units[key].cast("int16") for key in _PLACE})
    few = tables.keep("outcome_contributions", few.inner_join(place, ["user", "period"]))
    columns = (*base.columns, *filled)
    table = _aligned(base, columns).union(_aligned(few, columns))
    if "more_items" in filled:
        table = table.mutate(shown=table.answered + table.more_items)
    return Contributions(table, few, values, filled)


def _aligned(table: ir.Table, columns: Sequence[str]) -> ir.Table:
    """The columns, with 0 in those that the table does not have.

    Of tables that are put together a user may have several rows for one look. Nothing minds: what the rows of a look
    change adds up to what the look changes, and adding them up here would cost as much as everything after it.
    """
    # Cast, because a table of Spark's takes a plain 0.0 for a decimal.
    nought = ibis.literal(0).cast("float64")
    kinds = {"period": "int32", "look": "int32", "cell": "int16", "g": "int16"}
    return table.select(
        "user",
        **{
            name: table[name].cast(kinds.get(name, "float64")) if name in table.columns else nought
            for name in columns
            if name != "user"
        },
    )


def _clicks(outcomes: Joined, rule: MetricRule) -> ir.Table:
    """A click counts once for each request and item, if the item was in the list."""
    with_request, alone = in_window(outcomes, rule, "click")
    with_request = with_request.filter(with_request.listed)
    pairs = with_request.group_by("request", "item_id", "x_user", "x_period").aggregate(look=with_request.look.min())
    single = alone.group_by("item_id", "x_user", "x_period").aggregate(look=alone.look.min())
    every = pairs.select("x_user", "x_period", "look").union(single.select("x_user", "x_period", "look"))
    return _per_look(every, clicked=ibis._.count())


def _impressions(outcomes: Joined) -> ir.Table:
    """Which lists were `covered` by an impression, and how many `more_items` than one of each were seen.

    A list counts once in ctr, or as often as different items of it were seen. It counts from its call on, and each
    further item from the item's first impression on, so that impressions that come later change no earlier look. One
    without a request id belongs to no list, and one without an item id says nothing of how many were seen.
    """
    found = outcomes.by_request
    found = found.filter(found.type == "impression", found.listed)
    pairs = found.group_by("request", "x_user", "x_period", "item_id").aggregate(look=found.look.min())
    pairs = pairs.mutate(item=pairs.item_id.notnull())
    of_list = [pairs.request, pairs.x_user, pairs.x_period]
    pairs = pairs.mutate(
        first=ibis.row_number().over(group_by=of_list, order_by=pairs.look) == 0,
        first_item=ibis.row_number().over(group_by=[*of_list, pairs.item], order_by=pairs.look) == 0,
    )
    return _per_look(
        pairs,
        covered=ibis._.first.cast("int32").sum(),
        more_items=(ibis._.item & ~ibis._.first_item).cast("int32").sum(),
    )


def _summed(outcomes: ir.Table, column: str) -> ir.Table:
    return _per_look(outcomes, **{column: ibis._.value.fill_null(0).sum()})


def _per_look(table: ir.Table, **columns: ibis.Deferred) -> ir.Table:
    named = table.rename(user="x_user", period="x_period")
    return named.group_by(list(_KEYS)).aggregate(**columns)


def _column(rule: MetricRule) -> str:
    return f"outcome_{spelled(rule.name)}"
