"""The lines of a log as the analysis takes them, on any database: columns, hashes of ids, usable numbers."""

from collections.abc import Mapping
from typing import Final

import ibis
import ibis.expr.types as ir
from abfleet_log.schema import EXPOSURE, LARGEST_VALUE, SHADOW

from abfleet_analysis.storage.storage import Dialect

LONGEST_MS: Final = 1e9
"""Twelve days: no call takes so long, and squares of response times up to here add up."""
LATEST_US: Final = 221_845_392_000_000_000
"""The year 9000: a line of a broken clock, past which dates and their distances have no type of Python."""
COLUMNS: Final[Mapping[str, str]] = {
    "event": "string",
    "ts": "timestamp(6)",
    "request_id": "string",
    "user_id": "string",
    "user_id_hmac": "string",
    "experiment": "string",
    "group": "string",
    "bucket": "int32",
    "reason": "string",
    "allocation": "string",
    "propensity": "float64",
    "model_version": "string",
    "served_version": "string",
    "fallback": "string",
    "failure": "string",
    "attempts": "int32",
    "status": "string",
    "latency_ms": "float64",
    "method": "string",
    "items": "array<int64>",
    "item_names": "array<string>",
    "versions": "array<string>",
    "teams": "string",
    "synthetic": "boolean",
    "outcome_id": "string",
    "type": "string",
    "item_id": "int64",
    "item_name": "string",
    "value": "float64",
    "currency": "string",
    "salt": "string",
    "weights": "string",
    "traffic": "float64",
    "winner": "string",
    "concluded_at": "string",
    "router": "string",
}
"""What a table of lines has, as the log names it; `weights` is JSON. A log need not have all of it."""


ANSWER_COLUMNS: Final[Mapping[str, str]] = {
    "event": "string",
    "ts": "timestamp(6)",
    "request_id": "string",
    "user_id": "string",
    "user_id_hmac": "string",
    "model_version": "string",
    "served_version": "string",
    "version": "string",
    "primary": "string",
    "fallback": "string",
    "status": "string",
    "latency_ms": "float64",
    "items": "array<int64>",
    "item_names": "array<string>",
    "synthetic": "boolean",
}
"""What is read of a log to compare answers, and `attributes`, which are JSON."""


def answers(lines: ir.Table, dialect: Dialect) -> ir.Table:
    """Answers to users' calls, and to those in their shadow, which `shadow` says.

    `call` is a hash of user and request, which both of them have; `user` is null where nobody is known. `version` is
    the one that answered, and for a call in the shadow the one that was asked. Items with names are hashes.
    """
    shadow = lines.event == SHADOW.name
    names = lines.item_names.map(dialect.item)
    user_id = ibis.coalesce(lines.user_id.nullif(""), lines.user_id_hmac.nullif(""))
    return lines.filter(shadow | (lines.event == EXPOSURE.name), lines.request_id.notnull()).select(
        "request_id",
        "primary",
        "model_version",
        "fallback",
        "status",
        "attributes",
        shadow=shadow,
        call=dialect.identity(user_id.fill_null(""), lines.request_id),
        user=ibis.ifelse(user_id.notnull(), dialect.identity(user_id), ibis.null()),
        at=dialect.microseconds(lines.ts),
        version=ibis.ifelse(shadow, lines.version, lines.served_version),
        items=ibis.coalesce(lines["items"], ibis.ifelse(lines.item_names.notnull(), names, ibis.null())),
        latency_ms=ibis.ifelse(lines.latency_ms.between(0.0, LONGEST_MS), lines.latency_ms, ibis.null()),
        synthetic=lines.synthetic.fill_null(False),
    )


def normalised(lines: ir.Table, dialect: Dialect) -> ir.Table:
    """The lines as the analysis takes them: times in microseconds, ids as hashes; all else as in the log.

    Without those of calls in the shadow: whether a version is asked there moves no report, nor the time it is as of.

    A table of hashes is a tenth of the size, and two of 10 million users share one with a probability of 5 in a
    million. An id that is empty is absent, and so is a time before 1970 or after the year 8999, and a number that no
    sum could take, such as nan; `unusable` is whether the line has one of these. Columns beyond those of the analysis
    are kept. `unsent` is a word in lines of calls that no worker was asked about, `cause` why the assigned version did
    not answer, where a line says so, and `unlisted` a word in lines of calls of ModelInfer whose items are not logged.
    Items that have names are in `items` and `item_id` as hashes: two of a million share one with a probability of 1 in
    10 million.
    """
    lines = lines.filter(lines.event.isnull() | (lines.event != SHADOW.name))
    at = dialect.microseconds(lines.ts)
    names = lines.item_names.map(dialect.item)
    lines = lines.mutate(
        items=ibis.coalesce(lines["items"], ibis.ifelse(lines.item_names.notnull(), names, ibis.null())),
        item_id=ibis.coalesce(
            lines.item_id, ibis.ifelse(lines.item_name.notnull(), dialect.item(lines.item_name), ibis.null())
        ),
    )
    user_id = ibis.coalesce(lines.user_id.nullif(""), lines.user_id_hmac.nullif(""))
    request_id = lines.request_id.nullif("")
    outcome_id = lines.outcome_id.nullif("")
    made_of = [user_id, request_id, lines.type, *(lines[name].cast("string") for name in ("ts", "item_id", "value"))]
    instead = dialect.identity(*(part.fill_null("") for part in made_of))
    outcome = ibis.ifelse(outcome_id.notnull(), dialect.identity(outcome_id), instead)
    both = ibis.ifelse(user_id.notnull() & request_id.notnull(), dialect.identity(user_id, request_id), ibis.null())
    detail = {}
    if "attributes" in lines.columns:
        text = lines.attributes.cast("string").nullif("{}")
        detail["attributes"] = ibis.ifelse(lines.event == "exposure", text, ibis.null())
    bounds = {"value": (-LARGEST_VALUE, LARGEST_VALUE), "latency_ms": (0.0, LONGEST_MS), "propensity": (0.0, 1.0)}
    # Nan is above every bound, or compares with none: it is in no range on any of the databases.
    usable = {name: lines[name].between(low, high).fill_null(True) for name, (low, high) in bounds.items()}
    replaced = ("ts", "user_id", "user_id_hmac", "request_id", "outcome_id", "attempts", "failure", "method", *bounds)
    # One in the other: where a log is known to have no such calls, nobody has to read the lists.
    unlisted = ibis.ifelse(lines["items"].isnull(), "unlisted", ibis.null("string"))
    return lines.select(
        *(name for name in lines.columns if name not in (*replaced, *detail, "allocation", "synthetic")),
        at=ibis.ifelse(at.between(0, LATEST_US), at, ibis.null()),
        user=ibis.ifelse(user_id.notnull(), dialect.identity(user_id), ibis.null()),
        request=ibis.ifelse(request_id.notnull(), dialect.identity(request_id), ibis.null()),
        exposure=both,
        outcome=ibis.ifelse(lines.event == "outcome", outcome, ibis.null()),
        allocation=lines.allocation.fill_null(""),
        synthetic=lines.synthetic.fill_null(False),
        **{name: ibis.ifelse(usable[name], lines[name], ibis.null()) for name in bounds},
        unsent=ibis.ifelse(lines.attempts == 0, "unsent", ibis.null("string")),
        unlisted=ibis.ifelse(lines.method == "infer", unlisted, ibis.null("string")),
        cause=ibis.coalesce(lines.failure, lines.fallback),
        unusable=~ibis.and_(*usable.values()),
        **detail,
    )
