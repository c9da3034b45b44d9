"""From log lines to the users, calls and outcomes that count. Ibis expressions; knows the data rules, no statistics.

Tables that are needed more than once are kept in the connection. Times are microseconds since 1970.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import ibis
import ibis.expr.types as ir

from abfleet_experiments.analysis.backends import (
    counted,
    fetched_one,
    fetched_rows,
    keep,
    keep_narrow,
    keep_repeated,
    view,
)
from abfleet_experiments.analysis.metrics import ERROR_FALLBACKS, ERROR_STATUSES, TIMED_STATUSES
from abfleet_experiments.analysis.periods import index_of
from abfleet_experiments.readlog import Log, LogError

WORDS: Final = (
    "experiment", "group", "reason", "allocation", "status", "fallback", "model_version", "served_version",
)  # fmt: skip
"""Columns of an exposure that have few different values."""
GROUPS_IN_NUMBER: Final = 128
"""More than an experiment may have groups: a time and a group make one number, the least of which has the first's."""
_COUNTED: Final = ("exposure", "outcome")


@dataclass(frozen=True, slots=True)
class Survey:
    """What one pass over the lines finds: how many there are of each kind.

    Attributes:
        rows: A row for each combination of `event`, WORDS, `synthetic` and `timeless`, with `n`, `oldest` and `newest`.
    """

    rows: tuple[Mapping[str, Any], ...]

    @property
    def newest(self) -> int | None:
        """The newest time, in microseconds since 1970; None if no line has one."""
        return max((row["newest"] for row in self.rows if row["newest"] is not None), default=None)

    @property
    def oldest(self) -> int | None:
        """The oldest time of an exposure or outcome."""
        times = (row["oldest"] for row in self.rows if row["event"] in _COUNTED and row["oldest"] is not None)
        return min(times, default=None)

    def count(self, wanted: Callable[[Mapping[str, Any]], bool]) -> int:
        """How many lines are in the rows that are wanted."""
        return sum(row["n"] for row in self.rows if wanted(row))

    @property
    def ramped(self) -> bool:
        """Whether an experiment has exposures of more than one allocation."""
        pairs = {(row["experiment"], row["allocation"]) for row in self.rows if row["event"] == "exposure"}
        return len(pairs) > len({experiment for experiment, _ in pairs})

    def words(self) -> list[tuple[str | None, ...]]:
        """The different combinations of WORDS that exposures have."""
        rows = {tuple(row[word] for word in WORDS) for row in self.rows if row["event"] == "exposure"}
        return sorted(rows, key=lambda row: tuple(word or "" for word in row))


@dataclass(frozen=True, slots=True)
class Lines:
    """What the whole log has, before any experiment is asked about.

    Attributes:
        exposures, outcomes: Each call and each outcome once; synthetic outcomes are left out.
        joined: Outcomes with a request id that is in the log; the exposure's columns have the prefix `x_`. Of a call
            that nobody clicked, `x_items` may be null.
        missing: Those whose request is not in the log, or belongs to another user.
        oldest_us: Of exposures and outcomes; None without any.
    """

    log: Log
    all: ir.Table
    exposures: ir.Table
    outcomes: ir.Table
    joined: ir.Table
    missing: ir.Table
    lines: int
    unreadable: int
    duplicates: int
    duplicate_outcomes: int
    no_user_id: int
    holdout: int
    oldest_us: int | None


def survey_of(log: Log, until_us: int | None = None) -> Survey:
    """The log in numbers, up to a moment; lines without a time or kind are always in it."""
    lines = log.lines
    if until_us is not None:
        lines = lines.filter(lines["at"].isnull() | lines.event.isnull() | (lines["at"] <= until_us))
    keyed = lines.select("event", *WORDS, "synthetic", "at", timeless=lines["at"].isnull())
    return Survey(tuple(counted(keyed, ("event", *WORDS, "synthetic", "timeless"), "at")))


def read_lines(log: Log, as_of_us: int, survey: Survey | None = None) -> Lines:
    """The log up to a moment. Exposures with the same user and request, and outcomes with the same id, count once.

    survey: Of the whole log, if it is known already.
    """
    survey = survey or survey_of(log)
    if survey.newest is not None and survey.newest > as_of_us:
        survey = survey_of(log, as_of_us)
    known = log.lines.filter(log.lines["at"] <= as_of_us)
    connection = log.connection
    every_outcome = keep(connection, "every_outcome", _outcomes(known))
    outcomes, repeated_outcomes = _once(log, every_outcome, "outcome")
    if repeated_outcomes:
        outcomes = keep(connection, "outcomes", outcomes)
    calls = _exposures(log, known, outcomes, ramped=survey.ramped)
    every = keep_narrow(connection, "every_exposure", calls, WORDS, survey.words())
    surveyed = survey.count(lambda row: row["event"] == "exposure" and not row["timeless"])
    if fetched_one(every.count()) != surveyed:
        raise LogError("the log has changed while it was read; read it again")
    exposures, repeated = _once(log, every, "exposure")
    exposures = view(connection, "exposures", exposures)
    found = keep(connection, "joined_outcomes", _joined(outcomes, exposures))
    missing = outcomes.filter(outcomes.request.notnull()).anti_join(found, "outcome")
    return Lines(
        log=log,
        all=known,
        exposures=exposures,
        outcomes=outcomes,
        joined=found,
        missing=keep(connection, "missing_outcomes", missing),
        lines=survey.count(lambda row: _unreadable(row) or not row["timeless"]),
        unreadable=survey.count(_unreadable),
        duplicates=repeated,
        duplicate_outcomes=repeated_outcomes,
        no_user_id=fetched_one(every.filter(every.user.isnull(), ~every.synthetic).count()),
        holdout=survey.count(lambda row: _served(row) and row["reason"] == "holdout"),
        oldest_us=survey.oldest,
    )


def _unreadable(row: Mapping[str, Any]) -> bool:
    return row["event"] is None or (row["event"] in _COUNTED and row["timeless"])


def _served(row: Mapping[str, Any]) -> bool:
    return row["event"] == "exposure" and not row["synthetic"]


def _outcomes(known: ir.Table) -> ir.Table:
    return known.filter(known.event == "outcome", ~known.synthetic).select(
        "outcome", "at", "type", "item_id", "value", "currency", "user", "request", "exposure"
    )


def _exposures(log: Log, known: ir.Table, outcomes: ir.Table, *, ramped: bool) -> ir.Table:
    """The calls with what is asked of them: buckets where there is a ramp, lists where a click may ask for them.

    With everything, if details want it.
    """
    table = known.filter(known.event == "exposure")
    if log.detailed:
        return table
    clicks = outcomes.filter(outcomes.type == "click")
    by_both = clicks.filter(clicks.exposure.notnull())
    by_request = clicks.filter(clicks.exposure.isnull(), clicks.request.notnull())
    wanted = table.exposure.isin(by_both.exposure)
    request: ir.Value = ibis.null("int64")
    if fetched_one(outcomes.filter(outcomes.exposure.isnull(), outcomes.request.notnull()).count()):
        wanted |= table.request.isin(by_request.request)
        request = table.request
    return table.select(
        "at", "user", "exposure", *WORDS, "propensity", "latency_ms", "synthetic", request=request,
        bucket=table.bucket if ramped else ibis.null("int32"),
        items=ibis.ifelse(wanted, table["items"], ibis.null()),
    )  # fmt: skip


def _count(condition: ir.BooleanValue) -> ir.IntegerScalar:
    return condition.cast("int64").sum()


def _once(log: Log, table: ir.Table, key: str) -> tuple[ir.Table, int]:
    """A table without the later of rows with the same key, and how many those were. Rows without a key all stay."""
    repeated, extra = keep_repeated(log.connection, f"repeated_{key}", table, key)
    if extra:
        twice = table.semi_join(repeated, key)
        ranked = twice.mutate(rank=ibis.row_number().over(group_by=twice[key], order_by=twice["at"]))
        table = table.anti_join(repeated, key).union(ranked.filter(ranked["rank"] == 0).drop("rank"))
    return table, extra


def allocated(lines: Lines, experiment: str) -> ir.Table:
    """The exposures of an experiment that count: allocated by the split, of a known user, not synthetic."""
    table = lines.exposures
    return table.filter(
        table.experiment == experiment,
        table.reason.fill_null("allocated") == "allocated",
        table.group.notnull(),
        table.user.notnull(),
        ~table.synthetic,
    )


def left_out_lines(lines: Lines, experiment: str) -> tuple[int, int]:
    """Exposures of an experiment that are left out: synthetic ones, and forced users' ones."""
    table = lines.exposures.filter(lines.exposures.experiment == experiment)
    row = fetched_rows(table.aggregate(
        synthetic=_count(table.synthetic), overrides=_count((table.reason == "override") & ~table.synthetic)
    ))[0]  # fmt: skip
    return int(row["synthetic"] or 0), int(row["overrides"] or 0)


def calls(exposures: ir.Table, groups: Sequence[str], periods: Sequence[str]) -> ir.Table:
    """The calls of an experiment in its groups and allocations, with what became of each."""
    table = exposures.mutate(
        g=index_of(exposures.group, groups),
        period=index_of(exposures.allocation, periods),
        error=failed(exposures),
        timed=exposures.status.fill_null("OK").isin(TIMED_STATUSES) & exposures.latency_ms.notnull(),
        answered=exposures.status.fill_null("OK") == "OK",
        fell_back=exposures.fallback.notnull(),
    )
    return table.filter(table.g >= 0, table.period >= 0).select(
        "at", "user", "request", "exposure", "g", "period", "bucket", "error", "timed", "answered", "fell_back",
        "latency_ms", "items",
    )  # fmt: skip


def failed(exposures: ir.Table) -> ir.BooleanValue:
    """Whether the assigned version failed a call."""
    return exposures.fallback.isin(ERROR_FALLBACKS).fill_null(False) | exposures.status.isin(ERROR_STATUSES).fill_null(
        False
    )


def first_group(visits: ir.Table) -> ir.IntegerValue:
    """The group of the first exposure of each row."""
    return (visits.start % GROUPS_IN_NUMBER).cast("int64")


def units(visits: ir.Table, *, ramped: bool) -> ir.Table:
    """One row for each user and allocation, from visits (one for each user, allocation and look).

    `g` is the group of the first exposure, `entry` whether it is the user's first allocation under this salt, and
    `two_groups` whether the user was served in more than one group of the allocation. `ramped`: whether there is more
    than one allocation.
    """
    group = first_group(visits)
    table = visits.group_by("user", *(["period"] if ramped else [])).aggregate(
        start=visits.start.min(),
        bucket=visits.bucket.argmin(visits.start) if ramped else ibis.null("int32"),
        two_groups=visits.two_groups.any() | (group.min() != group.max()),
    )
    if not ramped:
        table = table.mutate(period=ibis.literal(0, "int32"))
    group = first_group(table)
    table = table.mutate(g=group, first=((table.start - group) / GROUPS_IN_NUMBER).cast("int64")).drop("start")
    if not ramped:
        return table.mutate(entry=ibis.literal(1, "int32"))
    # A new salt deals users anew; the log has no salt in an exposure, but then a user's bucket is another one.
    rank = ibis.row_number().over(
        group_by=[table.user, table.bucket.fill_null(-1)], order_by=[table["first"], table.period]
    )
    return table.mutate(entry=(rank == 0).cast("int32"))


_JOINED = ("at", "user", "experiment", "group", "allocation", "reason", "synthetic", "status", "items")


def _joined(outcomes: ir.Table, exposures: ir.Table) -> ir.Table:
    """The outcomes with a request id, each with its exposure.

    With a user id, user and request must both agree; without one the request alone decides.
    """
    by_both = outcomes.filter(outcomes.exposure.notnull())
    by_request = outcomes.filter(outcomes.request.notnull(), outcomes.exposure.isnull())
    renamed = {f"x_{name}": exposures[name] for name in _JOINED}
    both = by_both.inner_join(exposures.filter(exposures.exposure.notnull()).select("exposure", **renamed), "exposure")
    columns = ["outcome", "at", "type", "item_id", "value", "currency", "user", "request", *renamed]
    if not fetched_one(by_request.count()):
        return both.select(columns)
    single = exposures.semi_join(by_request, "request")
    first = single.group_by("request").aggregate(**{f"x_{name}": single[name].argmin(single["at"]) for name in _JOINED})
    alone = by_request.inner_join(first, "request")
    return both.select(columns).union(alone.select(columns))
