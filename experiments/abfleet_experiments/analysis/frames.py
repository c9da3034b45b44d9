"""From log lines to the users, calls and outcomes that count. Ibis expressions; knows the data rules, no statistics.

Tables that are needed more than once are kept in the connection. Times are microseconds since 1970.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import ibis
import ibis.expr.types as ir

from abfleet_experiments.analysis.backends import fetched_one, keep, keep_narrow, keep_repeated, view
from abfleet_experiments.analysis.metrics import ERROR_FALLBACKS, ERROR_STATUSES, TIMED_STATUSES
from abfleet_experiments.analysis.periods import index_of
from abfleet_experiments.analysis.survey import WORDS, Calls, Survey, calls_of, survey_of
from abfleet_experiments.readlog import Log, LogError

GROUPS_IN_NUMBER: Final = 128
"""More than an experiment may have groups: a time and a group make one number, the least of which has the first's."""


@dataclass(frozen=True, slots=True)
class Lines:
    """What the whole log has, before any experiment is asked about.

    Attributes:
        survey, calls: The log in numbers; of calls, each counted once.
        exposures, outcomes: Each call and each outcome once; synthetic outcomes are left out.
        joined: Outcomes with a request id that is in the log; the exposure's columns have the prefix `x_`. Of a call
            that nobody clicked, `x_items` may be null.
        missing: Those whose request is not in the log, or belongs to another user.
    """

    log: Log
    all: ir.Table
    survey: Survey
    calls: Calls
    exposures: ir.Table
    outcomes: ir.Table
    joined: ir.Table
    missing: ir.Table
    duplicates: int
    duplicate_outcomes: int


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
    alone = outcomes.filter(outcomes.exposure.isnull(), outcomes.request.notnull())
    by_request = bool(fetched_one(alone.count()))
    table, same = _exposures(log, known, outcomes, survey, by_request=by_request)
    words = [word for word in WORDS if word not in same]
    every = keep_narrow(connection, "every_exposure", table, words, survey.words(words))
    surveyed = survey.count(lambda row: row["event"] == "exposure" and not row["timeless"])
    if fetched_one(every.count()) != surveyed:
        raise LogError("the log has changed while it was read; read it again")
    once, repeated = _once(log, every, "exposure")
    exposures = view(connection, "exposures", once.mutate(**same))
    found = keep(connection, "joined_outcomes", _joined(outcomes, once, same, by_request=by_request))
    found = view(connection, "joined", found.mutate(**_renamed(same)))
    missing = outcomes.filter(outcomes.request.notnull()).anti_join(found, "outcome")
    return Lines(
        log=log,
        all=known,
        survey=survey,
        calls=calls_of(exposures),
        exposures=exposures,
        outcomes=outcomes,
        joined=found,
        missing=keep(connection, "missing_outcomes", missing),
        duplicates=repeated,
        duplicate_outcomes=repeated_outcomes,
    )


def _outcomes(known: ir.Table) -> ir.Table:
    return known.filter(known.event == "outcome", ~known.synthetic).select(
        "outcome", "at", "type", "item_id", "value", "currency", "user", "request", "exposure"
    )


def _exposures(
    log: Log, known: ir.Table, outcomes: ir.Table, survey: Survey, *, by_request: bool
) -> tuple[ir.Table, dict[str, ir.Scalar]]:
    """The calls with what is asked of them: buckets where there is a ramp, lists where a click may ask for them.

    With everything, if details want it. What all of them have alike comes apart, that nothing is kept of it.
    by_request: Whether an outcome has a request id alone.
    """
    table = known.filter(known.event == "exposure")
    same = survey.same()
    if log.detailed:
        return table.drop(*same), same
    clicks = outcomes.filter(outcomes.type == "click")
    wanted = table.exposure.isin(clicks.filter(clicks.exposure.notnull()).exposure)
    columns = ["at", "user", "exposure", *WORDS, "propensity", "latency_ms", "synthetic"]
    if by_request:
        asked = clicks.filter(clicks.exposure.isnull(), clicks.request.notnull())
        wanted |= table.request.isin(asked.request)
        columns.append("request")
    else:
        same["request"] = ibis.null("int64")
    if survey.ramped:
        columns.append("bucket")
    else:
        same["bucket"] = ibis.null("int32")
    columns = [name for name in columns if name not in same]
    return table.select(*columns, items=ibis.ifelse(wanted, table["items"], ibis.null())), same


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


def has_failed(call: Mapping[str, Any]) -> bool:
    """The same of a row of Python."""
    return call["fallback"] in ERROR_FALLBACKS or call["status"] in ERROR_STATUSES


def group_of(start: ir.IntegerValue) -> ir.IntegerValue:
    """The group in a number that has a time and a group."""
    return (start % GROUPS_IN_NUMBER).cast("int32")


def units(visits: ir.Table, *, ramped: bool) -> ir.Table:
    """One row for each user and allocation, from what each did there.

    `g` is the group of the first exposure, `calls` how many there were, `entry` whether it is the user's first
    allocation under this salt, and `two_groups` whether the user was served in more than one group of the allocation.
    `ramped`: whether there is more than one allocation.
    """
    two = visits.g.min() != visits.g.max()
    table = visits.group_by("user", *(["period"] if ramped else [])).aggregate(
        start=visits.start.min(),
        bucket=visits.bucket.argmin(visits.start) if ramped else ibis.null("int32"),
        two_groups=visits.two_groups.any() | two if "two_groups" in visits.columns else two,
        calls=visits.calls.sum(),
    )
    if not ramped:
        table = table.mutate(period=ibis.literal(0, "int32"))
    group = group_of(table.start)
    table = table.mutate(g=group, first=((table.start - group) / GROUPS_IN_NUMBER).cast("int64")).drop("start")
    if not ramped:
        return table.mutate(entry=ibis.literal(1, "int32"))
    # A new salt deals users anew; the log has no salt in an exposure, but then a user's bucket is another one.
    rank = ibis.row_number().over(
        group_by=[table.user, table.bucket.fill_null(-1)], order_by=[table["first"], table.period]
    )
    return table.mutate(entry=(rank == 0).cast("int32"))


_JOINED = ("at", "user", "experiment", "group", "allocation", "reason", "synthetic", "status", "items")


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a joined outcome has of its exposure, by the name that it has there."""
    return {f"x_{name}": values[name] for name in _JOINED if name in values}


def _joined(outcomes: ir.Table, exposures: ir.Table, same: Mapping[str, Any], *, by_request: bool) -> ir.Table:
    """The outcomes with a request id, each with its exposure, less what all of them have alike.

    With a user id, user and request must both agree; without one the request alone decides. by_request: Whether there
    are such.
    """
    named = {name: exposures[name] for name in exposures.columns if name not in same}
    by_both = outcomes.filter(outcomes.exposure.notnull())
    called = exposures.filter(exposures.exposure.notnull()).select("exposure", **_renamed(named))
    columns = ["outcome", "at", "type", "item_id", "value", "currency", "user", "request", *_renamed(named)]
    both = by_both.inner_join(called, "exposure").select(columns)
    if not by_request:
        return both
    alone = outcomes.filter(outcomes.request.notnull(), outcomes.exposure.isnull())
    single = exposures.semi_join(alone, "request")
    named = {name: single[name].argmin(single["at"]) for name in named}
    first = single.group_by("request").aggregate(**_renamed(named))
    return both.union(alone.inner_join(first, "request").select(columns))
