"""From lines to pairs of answers to the same call: one that the user got, one in its shadow. Tables alone."""

from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from abfleet_analysis.reading.open_log import Log


@dataclass(frozen=True, slots=True)
class Pairs:
    """Tables of a log.

    Attributes:
        pairs: A row for each call in the shadow, once a version: `version`, `primary`, `request_id`, `user` and `call`
            (hashes), `at`, `status`, `latency_ms`, `items`; of the user's own answer `found`, `primary_latency_ms`,
            `primary_items`, `attributes`, `synthetic`, null where the log does not have it.
        exposures: Users' calls, each once and without synthetic ones: `version` that was assigned, `at`, `failed`.
    """

    pairs: ir.Table
    exposures: ir.Table


def pairs_of(log: Log) -> Pairs:
    """`log`: opened with `answers`."""
    lines = log.lines.filter(log.lines["at"].notnull())
    asked = _first(lines.filter(lines.shadow, lines.version.notnull(), lines.primary.notnull()), "call", "version")
    exposures = _first(lines.filter(~lines.shadow), "call")
    answered = exposures.filter(exposures.status == "OK").select(
        "call",
        "attributes",
        "synthetic",
        primary="version",
        found=ibis.literal(True),
        primary_latency_ms="latency_ms",
        primary_items="items",
    )
    both = asked.drop("attributes", "synthetic").left_join(answered, ["call", "primary"])
    names = ("version", "primary", "request_id", "user", "call", "at", "status", "latency_ms", "items")
    more = ("found", "primary_latency_ms", "primary_items", "attributes", "synthetic")
    pairs = log.storage.keep("shadow_pairs", both.select(*names, *more))
    failed = (exposures.status != "OK") | exposures.fallback.notnull()
    real = exposures.filter(~exposures.synthetic)
    return Pairs(pairs, real.select("at", version="model_version", failed=failed))


def comparable(pairs: ir.Table) -> ir.Table:
    """Those with a list on both sides that no traffic generator made."""
    lists = pairs["items"].notnull() & pairs.primary_items.notnull()
    return pairs.filter(pairs.found.fill_null(False), ~pairs.synthetic, pairs.status == "OK", lists)


def _first(lines: ir.Table, *key: str) -> ir.Table:
    """Each of these once: a caller may have tried again with the same request id. Of the same time it is always the
    same one, whichever file is read first."""
    window = ibis.window(group_by=key, order_by=["at", *(name for name in lines.columns if name not in (*key, "at"))])
    return lines.mutate(place=ibis.row_number().over(window)).filter(ibis._.place == 0).drop("place")
