"""From log lines to the users, calls and outcomes that count. Ibis expressions; knows the data rules, no statistics.

Tables that are needed more than once are kept in the connection. Times are microseconds since 1970.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import ibis
import ibis.expr.types as ir

from abfleet_analysis.decision.metrics import ERROR_FALLBACKS, ERROR_STATUSES, FAILURES, TIMED_STATUSES, Failure
from abfleet_analysis.evidence.allocation_periods import index_of
from abfleet_analysis.reading.clocks import NO_FAULTS, ClockFaults
from abfleet_analysis.reading.databases import alongside, fetched_one, keep, keep_narrow, keep_repeated, view
from abfleet_analysis.reading.open_log import Log, LogError
from abfleet_analysis.reading.survey import CATEGORICAL, Calls, Survey, calls_of, counts, survey_of

GROUPS_IN_NUMBER: Final = 128
"""More than an experiment may have groups: a time and a group make one number, the least of which has the first's."""
_CONTENT: Final = ("type", "item_id", "value", "currency", "user", "request")
"""What an outcome says beside its id and time."""
_KINDS: Final = {"synthetic": "boolean"}
"""Of what may be the same in all calls, and is no text."""


@dataclass(frozen=True, slots=True)
class LogTables:
    """What the whole log has, before any experiment is asked about.

    Attributes:
        survey, calls: The log in numbers; of calls, each counted once.
        exposures, outcomes: Each call and each outcome once; synthetic outcomes are left out.
        joined: Outcomes with a request id that is in the log; the exposure's columns have the prefix `x_`, and `listed`
            is whether it was answered, with the outcome's item in the list.
        missing: Those whose request is not in the log, or belongs to another user.
        duplicates, duplicate_outcomes: Calls and outcomes that are there once more.
        conflicting_outcomes: Those with the id of an earlier outcome that says something else; they do not count.
        unusable: Lines with a number that is none, such as nan; they count without it.
        clocks: What is wrong with the clocks of its lines, and was left out.
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
    conflicting_outcomes: int
    unusable: int
    clocks: ClockFaults = NO_FAULTS


def read_lines(log: Log, as_of_us: int, survey: Survey | None = None, clocks: ClockFaults = NO_FAULTS) -> LogTables:
    """The log up to a moment. Exposures with the same user and request, and outcomes with the same id, count once.

    survey: Of the whole log, if it is known already. clocks: What was left out of it.
    """
    survey = survey or survey_of(log)
    if survey.newest is not None and survey.newest > as_of_us:
        survey = survey_of(log, as_of_us)
    known = log.lines.filter(log.lines["at"] <= as_of_us).drop("unusable")
    connection = log.connection
    outcomes = keep(connection, "every_outcome", _outcomes(known))
    repeated, extra_outcomes = keep_repeated(connection, "repeated_outcome", outcomes, "outcome")
    conflicts = 0
    if extra_outcomes:
        ranked = keep(connection, "repeated_outcomes", _ranked(outcomes, repeated, "outcome", *_CONTENT))
        conflicts = int(fetched_one(_conflicts(ranked).count()))
        first = ranked.filter(ranked["rank"] == 0).drop("rank")
        outcomes = keep(connection, "outcomes", outcomes.anti_join(repeated, "outcome").union(first))
    alone = outcomes.filter(outcomes.exposure.isnull(), outcomes.request.notnull())
    by_request = bool(fetched_one(alone.count()))
    table, same = _exposures(log, known, outcomes, survey, by_request=by_request)
    varying = [column for column in CATEGORICAL if column not in same]
    facts = partial(_facts, same=same)
    every = keep_narrow(connection, "every_exposure", table, varying, survey.combinations(varying), facts)
    see = partial(_seen, log, outcomes, survey=survey, same=same, by_request=by_request)
    with alongside(connection) as beside:
        repeats = beside(keep_repeated, connection, "repeated_exposure", every, "exposure")
        # As if no call came again, which is nearly always so: ids are sorted while the database joins.
        seen = see(every)
        surveyed = survey.count(lambda row: row["event"] == "exposure" and not row["timeless"])
        if seen.calls.count(lambda row: True) != surveyed:
            raise LogError("the log changed while it was read; run the analysis again")
        repeated, extra = repeats.result()
    if extra:
        seen = see(_first_ones(every, repeated, "exposure"))
    return LogTables(
        log=log,
        all=known,
        survey=survey,
        calls=seen.calls,
        exposures=seen.exposures,
        outcomes=outcomes,
        joined=seen.joined,
        missing=seen.missing,
        duplicates=extra,
        duplicate_outcomes=extra_outcomes - conflicts,
        conflicting_outcomes=conflicts,
        unusable=survey.unusable,
        clocks=clocks,
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    exposures: ir.Table
    calls: Calls
    joined: ir.Table
    missing: ir.Table


def _seen(
    log: Log, outcomes: ir.Table, once: ir.Table, *, survey: Survey, same: Mapping[str, ir.Value], by_request: bool
) -> _Seen:
    """What is known of calls that are there once, and of the outcomes that name one."""
    connection = log.connection
    exposures = view(connection, "exposures", once.mutate(**same))
    called = keep(connection, "called_outcomes", _with_calls(outcomes, once, same, by_request=by_request))
    called = called.mutate(**_renamed(same))
    return _Seen(
        exposures,
        calls_of(exposures, survey.same()),
        joined=view(connection, "joined", called.filter(called.x_at.notnull())),
        missing=view(connection, "missing", called.filter(called.x_at.isnull())),
    )


def _facts(calls: ir.Table, same: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
    """`call_results` of calls, where some columns have one value in all calls (`same`)."""
    names = ("status", "fallback", "cause", "unsent", "unlisted")
    return call_results(*(same[column] if column in same else calls[column] for column in names))


def _outcomes(known: ir.Table) -> ir.Table:
    """The outcomes that happened. A log of other making may have `eur` or an empty text for a currency."""
    return known.filter(known.event == "outcome", ~known.synthetic).select(
        *("outcome", "at", "type", "item_id", "value", "user", "request", "exposure"),
        currency=known.currency.strip().upper().nullif(""),
    )


def _exposures(
    log: Log, known: ir.Table, outcomes: ir.Table, survey: Survey, *, by_request: bool
) -> tuple[ir.Table, dict[str, ir.Value]]:
    """The calls with what is asked of them: buckets where there is a ramp, lists where an outcome may ask for them.

    With everything, if details want it. What all of them have alike comes apart, that nothing is kept of it.
    by_request: Whether an outcome has a request id alone.
    """
    table = known.filter(known.event == "exposure")
    same = {name: ibis.literal(value, _KINDS.get(name, "string")) for name, value in survey.same().items()}
    if log.detailed:
        return table.drop(*same), same
    asked = table.exposure.isin(outcomes.filter(outcomes.exposure.notnull()).exposure)
    columns = ["at", "user", "exposure", *CATEGORICAL, "propensity", "latency_ms", "synthetic", "items"]
    if by_request:
        asked |= table.request.isin(outcomes.filter(outcomes.exposure.isnull(), outcomes.request.notnull()).request)
        columns.append("request")
    else:
        same["request"] = ibis.null("int64")
    if survey.ramped:
        columns.append("bucket")
    else:
        same["bucket"] = ibis.null("int32")
    # By a name, that what is asked is found once for both columns.
    chosen = view(log.connection, "asked_exposures", table.select(*(c for c in columns if c not in same), asked=asked))
    return chosen.mutate(items=ibis.ifelse(chosen.asked, chosen["items"], ibis.null())), same


def _first_ones(table: ir.Table, repeated: ir.Table, key: str) -> ir.Table:
    """A table without the later of rows with the same key, of which `repeated` has those that occur more than once."""
    ranked = _ranked(table, repeated, key)
    return table.anti_join(repeated, key).union(ranked.filter(ranked["rank"] == 0).drop("rank"))


def _ranked(table: ir.Table, repeated: ir.Table, key: str, *then: str) -> ir.Table:
    """The rows with a repeated key, each with its `rank` among those of its key: by time, and `then` by columns."""
    twice = table.semi_join(repeated, key)
    order = [twice["at"], *(twice[name] for name in then)]
    return twice.mutate(rank=ibis.row_number().over(group_by=twice[key], order_by=order))


def _conflicts(ranked: ir.Table) -> ir.Table:
    """The later ones of outcomes with the same id that say something else than its first. The time may differ."""
    first = ranked.filter(ranked["rank"] == 0).select("outcome", **{f"first_{name}": ranked[name] for name in _CONTENT})
    both = ranked.filter(ranked["rank"] > 0).inner_join(first, "outcome")
    same = [both[name].identical_to(both[f"first_{name}"]) for name in _CONTENT if name != "value"]
    return both.filter(~ibis.and_(*same, both.value.fill_null(0) == both.first_value.fill_null(0)))


def allocated(lines: LogTables, experiment: str) -> ir.Table:
    """The exposures of an experiment that count."""
    table = lines.exposures
    return table.filter(table.experiment == experiment, counts(table))


def calls(exposures: ir.Table, groups: Sequence[str], periods: Sequence[str]) -> ir.Table:
    """The calls of an experiment in its groups and allocations; exposures have the columns of `call_results`."""
    table = exposures.mutate(
        g=index_of(exposures.group, groups),
        period=index_of(exposures.allocation, periods),
        timed=exposures.in_time & exposures.latency_ms.notnull(),
    )
    return table.filter(table.g >= 0, table.period >= 0).select(
        "at",
        "user",
        "request",
        "exposure",
        "g",
        "period",
        "bucket",
        "error",
        "timed",
        "answered",
        "fell_back",
        "failure",
        "own",
        "latency_ms",
        "items",
    )


def call_results(
    status: ir.StringValue,
    fallback: ir.StringValue,
    cause: ir.StringValue,
    unsent: ir.StringValue,
    unlisted: ir.StringValue,
) -> dict[str, ir.Value]:
    """What the status, the fallback, the cause of a failure and the attempts of calls say.

    `error` is whether the assigned version failed, `in_time` whether the response time says something of it, `failure`
    how it failed, as a number of Failure, `own` whether the assigned version itself has answered, `answered` whether
    one has, with a list. A call that was not sent, because its time was up or the router failed, says nothing of any
    version, unless none was there to ask.
    """
    plain = status.fill_null("OK")
    reason = cause.fill_null("")
    missing = reason.isin([name for name, failure in FAILURES.items() if failure is not Failure.LATE])
    nobodys = unsent.notnull() & plain.isin(("DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN")) & ~missing
    failed = (reason.isin(ERROR_FALLBACKS) | plain.isin(ERROR_STATUSES)) & ~nobodys
    alone = reason == ""
    failure = ibis.cases(
        (nobodys, int(Failure.NONE)),
        *((reason == name, int(failure)) for name, failure in FAILURES.items()),
        (alone & plain.isin(("INTERNAL", "UNKNOWN")), int(Failure.WRONG)),
        (alone & (plain == "DEADLINE_EXCEEDED"), int(Failure.LATE)),
        (alone & (plain == "UNAVAILABLE") & unsent.notnull(), int(Failure.ABSENT)),
        (alone & (plain == "UNAVAILABLE"), int(Failure.AMBIGUOUS)),
        else_=int(Failure.NONE),
    )
    return {
        "error": failed,
        "answered": (plain == "OK") & unlisted.isnull(),
        "in_time": plain.isin(TIMED_STATUSES) & ~nobodys,
        "fell_back": fallback.notnull() & ~nobodys,
        "failure": failure.cast("int8"),
        "own": (plain == "OK") & fallback.isnull(),
    }


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
        calls=visits.calls.sum() if "calls" in visits.columns else visits.count(),
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


_CALLED: Final = ("at", "user", "experiment", "group", "allocation", "reason", "synthetic", "answered")
"""What an outcome has of its call, each with the prefix `x_`."""


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"x_{name}": values[name] for name in _CALLED if name in values}


def _with_calls(outcomes: ir.Table, exposures: ir.Table, same: Mapping[str, Any], *, by_request: bool) -> ir.Table:
    """The outcomes with a request id, each with its call, or with nulls where there is none in the log.

    Without what all calls have alike. With a user id, user and request must both agree; without one the request alone
    decides. by_request: Whether there are such.
    """
    if "asked" in exposures.columns:
        exposures = exposures.filter(exposures.asked)
    named = {name: exposures[name] for name in exposures.columns if name not in same}
    by_both = outcomes.filter(outcomes.exposure.notnull())
    calls = exposures.filter(exposures.exposure.notnull()).select("exposure", "items", **_renamed(named))
    both = by_both.left_join(calls, "exposure")
    columns = ["outcome", "at", "type", "item_id", "value", "currency", "user", "request", *_renamed(named)]
    found = both.select(*columns, listed=_listed(both))
    if not by_request:
        return found
    alone = outcomes.filter(outcomes.request.notnull(), outcomes.exposure.isnull())
    single = exposures.semi_join(alone, "request")
    named = {name: single[name].argmin(single["at"]) for name in named}
    first = single.group_by("request").aggregate(items=named["items"], **_renamed(named))
    with_first = alone.left_join(first, "request")
    return found.union(with_first.select(*columns, listed=_listed(with_first)))


def _listed(outcomes: ir.Table) -> ir.BooleanValue:
    """Whether the call was answered, with the outcome's item in its list; where one is not known, it may have been."""
    return outcomes.x_answered & outcomes["items"].contains(outcomes.item_id).fill_null(True)
