"""What each served version recommended, and how alike the versions are. Ibis expressions over one experiment's calls.

Knows no registry: what is known of a version before it was served is an argument.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

import ibis
import ibis.expr.types as ir
import numpy as np
from abfleet_statistics.moments import Floats

from abfleet_analysis.evidence.tables import Tables
from abfleet_analysis.report.details import Recommended, VersionLists
from abfleet_analysis.storage.fetching import fetched_rows, storage_of

TOP: Final = 10
OVERLAPPING: Final = 100
"""So many most recommended items of two versions are compared."""
MOST_VERSIONS: Final = 12


class VersionFacts(Protocol):
    """What is known of a version beside the log.

    Attributes:
        metrics: Offline ones, name and value. items: How many its catalogue has; None if that is not known.
    """

    @property
    def metrics(self) -> Sequence[tuple[str, float]]: ...
    @property
    def items(self) -> int | None: ...


def recommended(tables: Tables, known: Mapping[str, VersionFacts]) -> Recommended:
    """The versions that answered, the one with the most lists first, at most MOST_VERSIONS."""
    answered = tables.exposures.filter(
        tables.exposures.served_version.notnull(), tables.exposures["items"].length().fill_null(0) > 0
    )
    counted = answered.group_by(version="served_version").aggregate(lists=ibis._.count())
    rows = fetched_rows(counted.order_by(ibis.desc("lists"), "version").limit(MOST_VERSIONS))
    if not rows:
        return Recommended((), np.zeros((0, 0)))
    places = answered.select(version="served_version", item=answered["items"].unnest())
    by_item = places.group_by("version", "item").aggregate(n=places.count())
    ranked = tables.keep(
        "recommended_items",
        by_item.mutate(
            rank=ibis.row_number().over(group_by=by_item.version, order_by=[ibis.desc(by_item.n), by_item.item])
        ),
    )
    totals = {row["version"]: row for row in fetched_rows(_totals(ranked))}
    top: dict[str, list[tuple[int, int]]] = {row["version"]: [] for row in rows}
    first = ranked.filter(ranked["rank"] < OVERLAPPING)
    for row in fetched_rows(first.order_by("version", "rank")):
        if row["version"] in top:
            top[row["version"]].append((int(row["item"]), int(row["n"])))
    names = _names(answered, first)
    versions = tuple(
        _version(row["version"], row["lists"], totals[row["version"]], top[row["version"]], known.get(row["version"]))
        for row in rows
    )
    versions = tuple(replace(one, top=tuple((names.get(int(i), i), n) for i, n in one.top)) for one in versions)
    return Recommended(versions, overlap([{item for item, _ in top[one.version]} for one in versions]))


def _names(answered: ir.Table, ranked: ir.Table) -> dict[int, str]:
    """The names of ranked items that have names, which are hashes there."""
    if "item_names" not in answered.columns:
        return {}
    dialect = storage_of(answered.get_backend()).dialect
    named = answered.filter(answered.item_names.notnull())
    names = named.select(name=named.item_names.unnest()).distinct()
    found = names.mutate(item=dialect.item(names.name)).semi_join(ranked, "item")
    return {int(row["item"]): row["name"] for row in fetched_rows(found)}


def _totals(ranked: ir.Table) -> ir.Table:
    """Different items of each version, the places that they took, and those that its most frequent ones took."""
    return ranked.group_by("version").aggregate(
        items=ranked.count(), places=ranked.n.sum(), top=ranked.n.sum(where=ranked["rank"] < TOP)
    )


def _version(
    name: str, lists: int, totals: Mapping[str, int], top: Sequence[tuple[int, int]], known: VersionFacts | None
) -> VersionLists:
    items = int(totals["items"])
    catalogue = known.items if known is not None else None
    return VersionLists(
        version=name,
        lists=int(lists),
        items=items,
        # A catalogue that is smaller than what was recommended is not the one that was served.
        coverage=items / catalogue if catalogue and items <= catalogue else float("nan"),
        top_share=float(totals["top"]) / float(totals["places"]),
        top=tuple((item, n / lists) for item, n in top[:TOP]),
        offline=tuple(known.metrics) if known is not None else (),
    )


def overlap(sets: Sequence[set[int]]) -> Floats:
    """Jaccard similarity of each two sets, common over all: float64[sets, sets]; nan for two empty ones."""
    result = np.full((len(sets), len(sets)), np.nan)
    for row, one in enumerate(sets):
        for column, other in enumerate(sets):
            if one or other:
                result[row, column] = len(one & other) / len(one | other)
    return result
