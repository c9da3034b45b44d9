"""From log lines to the users, calls and outcomes that count. Ibis expressions; knows the data rules, no statistics.

Tables that are needed more than once are kept in the connection. Times are microseconds since 1970.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from abfleet_experiments.analysis.metrics import ERROR_FALLBACKS, ERROR_STATUSES, TIMED_STATUSES
from abfleet_experiments.analysis.periods import index_of
from abfleet_experiments.readlog import Log


@dataclass(frozen=True, slots=True)
class Lines:
    """What the whole log has, before any experiment is asked about.

    Attributes:
        exposures, outcomes: Each call and each outcome once; synthetic outcomes are left out.
        joined: Outcomes with a request id that is in the log; the exposure's columns have the prefix `x_`.
        missing: Those whose request is not in the log, or belongs to another user.
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


def newest(log: Log) -> int | None:
    """The newest time in the log, in microseconds since 1970; None if no line has one."""
    value = log.lines["at"].max().to_pyarrow().as_py()
    return None if value is None else int(value)


def read_lines(log: Log, as_of_us: int) -> Lines:
    """The log up to a moment. Exposures with the same user and request, and outcomes with the same id, count once."""
    table = log.lines
    unreadable = table.event.isnull() | (table.event.isin(("exposure", "outcome")) & table["at"].isnull())
    seen = table.filter(unreadable | (table["at"] <= as_of_us))
    known = table.filter(table["at"] <= as_of_us)
    counts = seen.aggregate(
        lines=seen.count(),
        unreadable=_count(seen.event.isnull() | seen["at"].isnull()),
        no_user_id=_count((seen.event == "exposure") & seen.user.isnull() & ~seen.synthetic),
        holdout=_count((seen.event == "exposure") & (seen.reason == "holdout") & ~seen.synthetic),
    ).to_pyarrow().to_pylist()[0]  # fmt: skip
    exposures, repeated = _once(log, known.filter(known.event == "exposure"), "exposure")
    # Views, so that what is asked of them stays a short query: Ibis takes longer over a long one than DuckDB does.
    exposures = log.connection.create_view("exposures", exposures, overwrite=True)
    outcomes, repeated_outcomes = _once(
        log, known.filter(known.event == "outcome", ~known.synthetic), "outcome", name="outcomes"
    )
    found = log.connection.create_table("joined_outcomes", _joined(outcomes, exposures), temp=True)
    missing = outcomes.filter(outcomes.request.notnull()).anti_join(found, "outcome")
    return Lines(
        log=log,
        all=known,
        exposures=exposures,
        outcomes=outcomes,
        joined=found,
        missing=log.connection.create_table("missing_outcomes", missing, temp=True),
        lines=int(counts["lines"]),
        unreadable=int(counts["unreadable"] or 0),
        duplicates=repeated,
        duplicate_outcomes=repeated_outcomes,
        no_user_id=int(counts["no_user_id"] or 0),
        holdout=int(counts["holdout"] or 0),
    )


def _count(condition: ir.BooleanValue) -> ir.IntegerScalar:
    return condition.cast("int64").sum()


def _once(log: Log, table: ir.Table, key: str, *, name: str | None = None) -> tuple[ir.Table, int]:
    """A table without the later of rows with the same key, and how many those were. Rows without a key all stay."""
    keys = table.filter(table[key].notnull()).group_by(key).aggregate(times=lambda t: t.count())
    repeated = log.connection.create_table(f"repeated_{key}", keys.filter(keys.times > 1), temp=True)
    extra = repeated.aggregate(extra=(repeated.times - 1).sum()).to_pyarrow().to_pylist()[0]["extra"]
    if extra:
        twice = table.semi_join(repeated, key)
        ranked = twice.mutate(rank=ibis.row_number().over(group_by=twice[key], order_by=twice["at"]))
        table = table.anti_join(repeated, key).union(ranked.filter(ranked["rank"] == 0).drop("rank"))
    if name is not None:
        table = log.connection.create_table(name, table, temp=True)
    return table, int(extra or 0)


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
    row = table.aggregate(
        synthetic=_count(table.synthetic), overrides=_count((table.reason == "override") & ~table.synthetic)
    ).to_pyarrow().to_pylist()[0]  # fmt: skip
    return int(row["synthetic"] or 0), int(row["overrides"] or 0)


def calls(exposures: ir.Table, groups: Sequence[str], periods: Sequence[str]) -> ir.Table:
    """The calls of an experiment in its groups and allocations, with what became of each."""
    table = exposures.mutate(
        g=index_of(exposures.group, groups),
        period=index_of(exposures.allocation, periods),
        error=failed(exposures).cast("float64"),
        timed=(exposures.status.fill_null("OK").isin(TIMED_STATUSES) & exposures.latency_ms.notnull()).cast("float64"),
        answered=(exposures.status.fill_null("OK") == "OK").cast("float64"),
        fell_back=exposures.fallback.notnull().cast("float64"),
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


def units(visits: ir.Table) -> ir.Table:
    """One row for each user and allocation, from visits (one for each user, allocation and look).

    `g` is the group of the first exposure, `entry` whether it is the user's first allocation under this salt, and
    `two_groups` whether the user was served in more than one group of the allocation.
    """
    table = visits.group_by("user", "period").aggregate(
        first=visits["first"].min(),
        g=visits.g.argmin(visits["first"]),
        bucket=visits.bucket.argmin(visits["first"]),
        two_groups=visits.g_low.min() != visits.g_high.max(),
    )
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
    if not by_request.count().to_pyarrow().as_py():
        return both.select(columns)
    single = exposures.semi_join(by_request, "request")
    first = single.group_by("request").aggregate(**{f"x_{name}": single[name].argmin(single["at"]) for name in _JOINED})
    alone = by_request.inner_join(first, "request")
    return both.select(columns).union(alone.select(columns))
