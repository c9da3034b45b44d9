"""Which outcomes count, for which user and at which look: joins, windows, currencies, the time before."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import ibis
import ibis.expr.types as ir
from abfleet_experiments.assign import PINNED
from abfleet_experiments.config import INTERLEAVED

from abfleet_analysis.decision.metrics import MetricRule, MetricSource
from abfleet_analysis.evidence.log_lines import LogTables
from abfleet_analysis.evidence.tables import Tables
from abfleet_analysis.periods.allocation_periods import index_of
from abfleet_analysis.storage.fetching import counted

BEFORE: Final = timedelta(days=14)
"""How far back the time before a user's first exposure goes."""
_MICROSECOND: Final = timedelta(microseconds=1)
_LOOK: Final = itemgetter("look")
_NEVER: Final = 2**31 - 1
"""Later than any look."""


@dataclass(frozen=True, slots=True)
class Joined:
    """Outcomes of an experiment with the user's allocation they belong to.

    Attributes:
        by_request: With `x_period`, `x_user`, `listed`, `look`.
        by_user: Without a request id; `x_period` and `since_us` after the first exposure there, newest allocation.
    """

    by_request: ir.Table
    by_user: ir.Table


def join_outcomes(tables: Tables) -> Joined:
    """The outcomes that belong to an experiment's calls and users."""
    lines, name, groups, units, looks = tables.lines, tables.name, tables.groups, tables.units, tables.looks
    periods = [one.id for one in tables.allocations]
    found = lines.joined.filter(
        lines.joined.x_experiment == name,
        lines.joined.x_reason.fill_null("allocated") == "allocated",
        lines.joined.x_group.isin(groups),
        lines.joined.x_allocation.isin(periods),
        lines.joined.x_user.notnull(),
        ~lines.joined.x_synthetic,
    )
    found = found.mutate(
        look=looks.index(ibis.greatest(found["at"], found.x_at)), x_period=index_of(found.x_allocation, periods)
    )
    alone = lines.outcomes.filter(lines.outcomes.request.isnull(), lines.outcomes.user.notnull())
    starts = units.select("user", x_period=units.period, first=units["first"])
    pairs = alone.inner_join(starts, "user")
    pairs = pairs.filter(pairs["first"] <= pairs["at"])
    ranked = pairs.mutate(rank=ibis.row_number().over(group_by=pairs.outcome, order_by=ibis.desc(pairs["first"])))
    newest = ranked.filter(ranked["rank"] == 0)
    newest = newest.mutate(x_user=newest.user, since_us=newest["at"] - newest["first"], look=looks.index(newest["at"]))
    storage = lines.log.storage
    return Joined(
        storage.view("outcomes_by_request", found), storage.keep("outcomes_by_user", newest.drop("rank", "first"))
    )


@dataclass(frozen=True, slots=True)
class OutcomeKinds:
    """How many outcomes there are of each kind, so that none of them is asked for by itself.

    Attributes:
        rows: A row for each combination of `type`, `currency`, `listed`, `placed`, `look` and `late`, with `n`.
            `placed` is whether the outcome names an answered list. `late` is how many of the windows had closed before
            an outcome that names no request.
        windows: Those of the metrics, in microseconds, ascending.
    """

    rows: Sequence[Mapping[str, Any]]
    windows: Sequence[int]

    def count(self, kind: str, rule: MetricRule, wanted: Callable[[Mapping[str, Any]], bool] = lambda row: True) -> int:
        """How many there are of a type within the metric's window."""
        return sum(row["n"] for row in self._within(kind, rule) if wanted(row))

    def currencies(self, rule: MetricRule) -> list[tuple[int, str | None]]:
        """From which look on a metric is in which currency: the file's, else the most frequent one up to each look.

        What comes later changes no earlier look. Of equally frequent ones the one before stays, then the first in the
        alphabet counts; before there is any, values without a currency count alone.
        """
        if rule.money is not None:
            return [(0, rule.money.currency)]
        assert rule.outcome is not None, "only metrics over outcomes come here"
        found, spans = Counter[str](), list[tuple[int, str | None]]([(0, None)])
        for look, rows in groupby(sorted(self._within(rule.outcome, rule), key=_LOOK), key=_LOOK):
            for row in rows:
                if row["currency"] is not None:
                    found[row["currency"]] += row["n"]
            now = spans[-1][1]
            first = min(found, key=lambda one: (-found[one], one != now, one), default=None)
            if first != now:
                spans.append((look, first))
        return spans[1:] if len(spans) > 1 and spans[1][0] == 0 else spans

    def other_currencies(self, rule: MetricRule, rates: Mapping[str, float]) -> int:
        """How many of a metric's outcomes have a currency without a rate."""
        assert rule.outcome is not None, "only metrics over outcomes come here"
        return self.count(rule.outcome, rule, lambda row: row["currency"] not in (None, *rates))

    def _within(self, kind: str, rule: MetricRule) -> Iterator[Mapping[str, Any]]:
        latest = self.windows.index(rule.window // _MICROSECOND)
        return (row for row in self.rows if row["type"] == kind and row["late"] <= latest)


def kinds_of(outcomes: Joined, rules: Sequence[MetricRule]) -> OutcomeKinds:
    """The outcomes in numbers; one query for all that metrics ask of them."""
    windows = sorted({rule.window // _MICROSECOND for rule in rules})
    if not any(rule.source is MetricSource.CLICKS or rule.adds_values for rule in rules):
        return OutcomeKinds((), windows)
    with_request, alone = outcomes.by_request, outcomes.by_user
    late = ibis.literal(0)
    for window in windows:
        late = late + (alone.since_us > window).cast("int32")
    every = with_request.select(
        "type", "currency", "listed", "look", placed=with_request.listed, late=ibis.literal(0, "int32")
    ).union(
        alone.select(
            "type",
            "currency",
            listed=ibis.literal(True),
            look=alone.look,
            placed=ibis.literal(False),
            late=late.cast("int32"),
        )
    )
    keys = ("type", "currency", "listed", "placed", "look", "late")
    return OutcomeKinds(counted(every, keys, {"n": ("count", "*")}), windows)


def in_window(outcomes: Joined, rule: MetricRule, kind: str) -> tuple[ir.Table, ir.Table]:
    """The outcomes of a type: those with a request, and those of the user within the metric's window."""
    with_request, alone = outcomes.by_request, outcomes.by_user
    return (
        with_request.filter(with_request.type == kind),
        alone.filter(alone.type == kind, alone.since_us <= rule.window // _MICROSECOND),
    )


def of_metric(outcomes: Joined, rule: MetricRule) -> ir.Table:
    """The outcomes of a metric's type, within its window."""
    assert rule.outcome is not None, "only metrics over outcomes come here"
    columns = ("x_user", "x_period", "look", "value", "currency")
    with_request, alone = in_window(outcomes, rule, rule.outcome)
    return with_request.select(*columns).union(alone.select(*columns))


@dataclass(frozen=True, slots=True)
class Worth:
    """What a metric's values are worth in its currency.

    Attributes:
        spans: From which look on which currency counts, ascending; None: only values without one.
    """

    rule: MetricRule
    spans: Sequence[tuple[int, str | None]]
    units: ir.Table

    @property
    def rates(self) -> Mapping[str, float]:
        """What counts at the end, and how much of it one unit is."""
        if self.rule.money is not None:
            return {self.rule.money.currency: 1.0, **self.rule.money.rates}
        last = self.spans[-1][1]
        return {} if last is None else {last: 1.0}

    def of(self, outcomes: ir.Table) -> ir.Table:
        """Outcomes with their values in the metric's currency, without those that do not count.

        Where another currency is the most frequent one from a look on, values of the one before leave there, and all
        of the other's so far enter.
        """
        if len(self.spans) == 1:
            return _in_currency(outcomes, self.rates)
        ends = [*(look for look, _ in self.spans[1:]), _NEVER]
        rows = [
            ibis.struct({"currency": currency, "begin": begin, "end": end})
            for (begin, currency), end in zip(self.spans, ends, strict=True)
            if currency is not None
        ]
        # A table of literals that needs no user's row but one: what comes from outside, DuckDB reads by way of pandas.
        spans = self.units.limit(1).select(span=ibis.array(rows).unnest()).unpack("span")
        during = outcomes.inner_join(spans, "currency").filter(ibis._.look < ibis._.end)
        entering = during.mutate(look=ibis.greatest(during.look, during.begin).cast("int32"))
        leaving = during.filter(during.end < _NEVER).mutate(look=ibis._.end.cast("int32"), value=-ibis._.value)
        parts = (outcomes.filter(outcomes.currency.isnull()), entering, leaving)
        return ibis.union(*(part.select(*outcomes.columns) for part in parts))


def _in_currency(outcomes: ir.Table, rates: Mapping[str, float]) -> ir.Table:
    """The outcomes that have a rate, or no currency, with values at these rates."""
    if not rates:
        return outcomes.filter(outcomes.currency.isnull())
    known = outcomes.filter(outcomes.currency.isnull() | outcomes.currency.isin(list(rates)))
    if set(rates.values()) == {1.0}:
        return known
    rate = ibis.cases(*((known.currency == one, rate) for one, rate in rates.items()), else_=1.0)
    return known.mutate(value=known.value * rate)


def known_before(tables: Tables, rule: MetricRule) -> ir.Table:
    """A metric's outcomes before the experiment, known from each allocation's first exposure on; as of `of_metric`."""
    early = _outcomes_before(tables.lines, tables.exposed(), rule)
    units = tables.units.select("user", x_period=tables.units.period, look=tables.looks.index(tables.units["first"]))
    together = early.inner_join(units, "user")
    return together.select("x_period", "look", "value", "currency", x_user=together.user)


def values_before(lines: LogTables, starts: ir.Table, rule: MetricRule) -> ir.Table:
    """Each user's summed values of an outcome type in the 14 days before the first exposure: `user`, `before`.

    Money without a currency of the file's is in the one that is the most frequent in that time.
    """
    table = _outcomes_before(lines, starts, rule)
    if rule.adds_values:
        rates = {rule.money.currency: 1.0, **rule.money.rates} if rule.money else _most_frequent(table)
        table = _in_currency(table, rates)
    total = {
        MetricSource.OUTCOME_VALUE: table.value.fill_null(0).sum(),
        MetricSource.OUTCOME_COUNT: table.count(),
        MetricSource.OUTCOME_ANY: (table.count() > 0).cast("int32"),
    }[rule.source]
    return table.group_by("user").aggregate(before=total.cast("float64"))


def _most_frequent(outcomes: ir.Table) -> dict[str, float]:
    """The most frequent currency, of which one unit is 1; of equally frequent ones the first in the alphabet."""
    found = {row["currency"]: row["n"] for row in counted(outcomes, ("currency",), {"n": ("count", "*")})}
    found.pop(None, None)
    return dict.fromkeys(sorted(found, key=lambda one: (-found[one], one))[:1], 1.0)


def _outcomes_before(lines: LogTables, starts: ir.Table, rule: MetricRule) -> ir.Table:
    table = lines.outcomes.filter(lines.outcomes.type == rule.outcome)
    return _before(table.select("user", "at", "value", "currency"), starts)


def clicks_before(lines: LogTables, starts: ir.Table) -> ir.Table:
    """Each user's clicked pairs and answered lists in that time: `user`, `clicked`, `answered`."""
    calls = lines.exposures.filter(~lines.exposures.synthetic, lines.exposures.user.notnull())
    calls = calls.filter(calls.answered, calls.reason.fill_null("") != PINNED, calls.group.fill_null("") != INTERLEAVED)
    calls = _before(calls.select("user", "at"), starts)
    clicks = lines.joined.filter(lines.joined.type == "click", lines.joined.x_user.notnull(), ~lines.joined.x_synthetic)
    clicks = clicks.filter(clicks.listed, clicks.x_reason.fill_null("") != PINNED)
    clicks = clicks.filter(clicks.x_group.fill_null("") != INTERLEAVED)
    clicks = _before(clicks.select("request", "item_id", user=clicks.x_user, at=clicks.x_at), starts)
    pairs = clicks.select("user", "request", "item_id").distinct()
    clicked = pairs.group_by("user").aggregate(clicked=pairs.count())
    answered = calls.group_by("user").aggregate(answered=calls.count())
    return answered.left_join(clicked, "user").select(
        "user", clicked=clicked.clicked.fill_null(0).cast("float64"), answered=answered.answered.cast("float64")
    )


def _before(table: ir.Table, starts: ir.Table) -> ir.Table:
    """The rows of users' last 14 days before their first exposure."""
    together = table.inner_join(starts.select("user", start=starts["first"]), "user")
    early = together.filter(together["at"] < together.start, together["at"] >= together.start - BEFORE // _MICROSECOND)
    return early.drop("start")
