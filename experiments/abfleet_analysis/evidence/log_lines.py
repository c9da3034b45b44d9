"""From log lines to the users, calls and outcomes that count. Ibis expressions; knows the data rules, no statistics.

Tables that are needed more than once are kept in the connection. Times are microseconds since 1970.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import ibis
import ibis.expr.types as ir

from abfleet_analysis.decision.failures import CERTAIN, FAILURE_RULES, NOT_SENT, FailureRule
from abfleet_analysis.decision.metrics import ERROR_FALLBACKS, ERROR_STATUSES, TIMED_STATUSES, Failure
from abfleet_analysis.evidence.layout import Layout, layout_of_log
from abfleet_analysis.periods.allocation_periods import index_of
from abfleet_analysis.reading.clocks import NO_FAULTS, ClockFaults
from abfleet_analysis.reading.open_log import Log, LogError
from abfleet_analysis.reading.survey import CATEGORICAL, Calls, Survey, calls_of, counts, survey_of
from abfleet_analysis.storage.fetching import fetched_one
from abfleet_analysis.storage.storage import Values, Words

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
        layout: Which shortcuts hold for all of it.
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
    layout: Layout
    clocks: ClockFaults = NO_FAULTS


def read_lines(log: Log, as_of_us: int, survey: Survey | None = None, clocks: ClockFaults = NO_FAULTS) -> LogTables:
    """The log up to a moment. Exposures with the same user and request, and outcomes with the same id, count once.

    survey: Of the whole log, if it is known already. clocks: What was left out of it.
    """
    survey = survey or survey_of(log)
    if survey.newest is not None and survey.newest > as_of_us:
        survey = survey_of(log, as_of_us)
    known = log.lines.filter(log.lines["at"] <= as_of_us).drop("unusable")
    storage = log.storage
    outcomes = storage.keep("every_outcome", _outcomes(known))
    repeated, extra_outcomes = storage.keep_repeated("repeated_outcome", outcomes, "outcome")
    conflicts = 0
    if extra_outcomes:
        ranked = storage.keep("repeated_outcomes", _ranked(outcomes, repeated, "outcome", *_CONTENT))
        conflicts = int(fetched_one(_conflicts(ranked).count()))
        first = ranked.filter(ranked["rank"] == 0).drop("rank")
        outcomes = storage.keep("outcomes", outcomes.anti_join(repeated, "outcome").union(first))
    layout = layout_of_log(survey, outcomes, detailed=log.detailed)
    words = _words(survey, layout)
    every = storage.keep_words("every_exposure", _exposures(log, known, outcomes, layout), words, _results)
    see = partial(_seen, log, outcomes, survey=survey, layout=layout, same=words.same)
    with storage.alongside() as beside:
        repeats = beside(storage.keep_repeated, "repeated_exposure", every, "exposure")
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
        layout=layout,
        clocks=clocks,
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    exposures: ir.Table
    calls: Calls
    joined: ir.Table
    missing: ir.Table


def _seen(log: Log, outcomes: ir.Table, once: ir.Table, *, survey: Survey, layout: Layout, same: Values) -> _Seen:
    """What is known of calls that are there once, and of the outcomes that name one."""
    storage = log.storage
    exposures = storage.view("exposures", once)
    called = storage.keep_but("called_outcomes", _with_calls(outcomes, once, layout), _renamed(same))
    return _Seen(
        exposures,
        calls_of(exposures, survey.same()),
        joined=storage.view("joined", called.filter(called.x_at.notnull())),
        missing=storage.view("missing", called.filter(called.x_at.isnull())),
    )


def _words(survey: Survey, layout: Layout) -> Words:
    """What is known of the columns of calls; those that nothing asks for are null in all of them."""
    same: dict[str, ir.Value] = {
        name: ibis.literal(value, _KINDS.get(name, "string")) for name, value in survey.same().items()
    }
    columns = [column for column in CATEGORICAL if column not in same]
    if not layout.detailed:
        same |= {} if layout.by_request else {"request": ibis.null("int64")}
        same |= {} if layout.ramped else {"bucket": ibis.null("int32")}
    return Words(columns, survey.combinations(columns), same)


def _results(words: Values) -> Values:
    """`call_results` of calls with these words."""
    return call_results(words["status"], words["fallback"], words["cause"], words["unsent"], words["unlisted"])


def _outcomes(known: ir.Table) -> ir.Table:
    """The outcomes that happened. A log of other making may have `eur` or an empty text for a currency."""
    return known.filter(known.event == "outcome", ~known.synthetic).select(
        *("outcome", "at", "type", "item_id", "value", "user", "request", "exposure"),
        currency=known.currency.strip().upper().nullif(""),
    )


def _exposures(log: Log, known: ir.Table, outcomes: ir.Table, layout: Layout) -> ir.Table:
    """The calls with what is asked of them: lists where an outcome may ask for them; everything if details want it."""
    table = known.filter(known.event == "exposure")
    if layout.detailed:
        return table
    asked = table.exposure.isin(outcomes.filter(outcomes.exposure.notnull()).exposure)
    columns = ["at", "user", "exposure", *CATEGORICAL, "propensity", "latency_ms", "synthetic", "items"]
    if layout.by_request:
        asked |= table.request.isin(outcomes.filter(outcomes.exposure.isnull(), outcomes.request.notnull()).request)
        columns.append("request")
    if layout.ramped:
        columns.append("bucket")
    # By a name, that what is asked is found once for both columns.
    chosen = log.storage.view("asked_exposures", table.select(*columns, asked=asked))
    return chosen.mutate(items=ibis.ifelse(chosen.asked, chosen["items"], ibis.null()))


def _first_ones(table: ir.Table, repeated: ir.Table, key: str) -> ir.Table:
    """A table without the later of rows with the same key, of which `repeated` has those that occur more than once."""
    ranked = _ranked(table, repeated, key, *(name for name in table.columns if name not in (key, "at")))
    return table.anti_join(repeated, key).union(ranked.filter(ranked["rank"] == 0).drop("rank"))


def _ranked(table: ir.Table, repeated: ir.Table, key: str, *then: str) -> ir.Table:
    """The rows with a repeated key, each with its `rank` among those of its key: by time, and `then` by columns, so
    that it does not depend on which file was read first."""
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
    nobodys = unsent.notnull() & plain.isin(NOT_SENT) & ~reason.isin(CERTAIN)
    failed = (reason.isin(ERROR_FALLBACKS) | plain.isin(ERROR_STATUSES)) & ~nobodys
    failure = ibis.cases(
        *((_holds(rule, plain, reason, unsent), int(rule.failure)) for rule in FAILURE_RULES), else_=int(Failure.NONE)
    )
    return {
        "error": failed,
        "answered": (plain == "OK") & unlisted.isnull(),
        "in_time": plain.isin(TIMED_STATUSES) & ~nobodys,
        "fell_back": fallback.notnull() & ~nobodys,
        "failure": failure.cast("int8"),
        "own": (plain == "OK") & fallback.isnull(),
    }


def _holds(rule: FailureRule, status: ir.StringValue, cause: ir.StringValue, unsent: ir.StringValue) -> ir.BooleanValue:
    """Whether a rule of the table fits."""
    parts = [] if rule.causes is None else [cause.isin(rule.causes)]
    parts += [] if rule.statuses is None else [status.isin(rule.statuses)]
    return ibis.and_(*parts, *([unsent.notnull()] if rule.unsent else []))


_CALLED: Final = ("at", "user", "experiment", "group", "allocation", "reason", "synthetic", "answered")
"""What an outcome has of its call, each with the prefix `x_`."""


def _renamed(values: Values) -> Values:
    return {f"x_{name}": values[name] for name in _CALLED if name in values}


def _with_calls(outcomes: ir.Table, exposures: ir.Table, layout: Layout) -> ir.Table:
    """The outcomes with a request id, each with its call, or with nulls where there is none in the log.

    With a user id, user and request must both agree; without one the request alone decides.
    """
    if "asked" in exposures.columns:
        exposures = exposures.filter(exposures.asked)
    named = {name: exposures[name] for name in _CALLED}
    by_both = outcomes.filter(outcomes.exposure.notnull())
    calls = exposures.filter(exposures.exposure.notnull()).select("exposure", "items", **_renamed(named))
    both = by_both.left_join(calls, "exposure")
    columns = ["outcome", "at", "type", "item_id", "value", "currency", "user", "request", *_renamed(named)]
    found = both.select(*columns, listed=_listed(both))
    if not layout.by_request:
        return found
    alone = outcomes.filter(outcomes.request.notnull(), outcomes.exposure.isnull())
    single = exposures.semi_join(alone, "request")
    named = {name: single[name].argmin(single["at"]) for name in named}
    first = single.group_by("request").aggregate(items=single["items"].argmin(single["at"]), **_renamed(named))
    with_first = alone.left_join(first, "request")
    return found.union(with_first.select(*columns, listed=_listed(with_first)))


def _listed(outcomes: ir.Table) -> ir.BooleanValue:
    """Whether the call was answered, with the outcome's item in its list; where one is not known, it may have been."""
    return outcomes.x_answered & outcomes["items"].contains(outcomes.item_id).fill_null(True)
