"""How answers in the shadow compare with those that users got: measures of each pair of lists, and their means."""

import heapq
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from abfleet_statistics.clusters import ClusteredMean, clustered_mean
from abfleet_statistics.rankings import kendall_tau_b, overlap, rank_biased_overlap

from abfleet_analysis.reading.open_log import Log, open_log
from abfleet_analysis.shadow.pairs import Pairs, comparable, pairs_of
from abfleet_analysis.storage.fetching import fetched, fetched_one, fetched_rows

DEPTHS: Final = (1, 5, 10)
"""Of overlap@k."""
MOST_DIFFERENT: Final = 10
"""Requests that differ most which are named."""
MOST_VALUES: Final = 10
"""Of an attribute, the most frequent first."""
ROWS: Final = 8192
"""Pairs that are Python objects at a time."""
BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    **{f"overlap_at_{k}": (0.0, 1.0) for k in DEPTHS},
    "rank_biased_overlap": (0.0, 1.0),
    "kendall_tau_b": (-1.0, 1.0),
    "identical": (0.0, 1.0),
}
"""The measures of a pair of lists, and what each can be."""


@dataclass(frozen=True, slots=True)
class DifferentRequest:
    """A request whose two lists have little in common."""

    request_id: str
    rank_biased_overlap: float
    overlap_at_10: float


@dataclass(frozen=True, slots=True)
class AttributeValue:
    """The requests with one value of an attribute."""

    attribute: str
    value: str
    overlap_at_10: ClusteredMean
    identical: ClusteredMean


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of the requests that both versions answered, in milliseconds; nan where there is none."""

    mean: float
    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class ShadowComparison:
    """A version in the shadow of one other.

    Attributes:
        asked: Calls of users that it was asked with. users: Who made them; a call of nobody known counts as a user.
        first_us, last_us: When it was asked, in microseconds since 1970.
        compared: Of these, calls with two lists. without_answer: The log lacks the user's answer. without_lists: A side
            has no items in the log, as of `ModelInfer` where the file names no output with items.
        measures: By the names of BOUNDS; of Kendall's tau-b over requests with two items in common.
        items, primary_items, items_of_both: Different items in the lists that were compared.
        latency_difference: Shadow less primary, of the requests that both answered, in milliseconds.
        errors: Share of `asked` without an answer. primary_errors: Share of all calls assigned to the primary from the
            first to the last of these that it did not answer; None where there is none.
    """

    version: str
    primary: str
    asked: int
    users: int
    first_us: int
    last_us: int
    compared: int
    without_answer: int
    without_lists: int
    measures: Mapping[str, ClusteredMean]
    items: int
    primary_items: int
    items_of_both: int
    latency: Latencies
    primary_latency: Latencies
    latency_difference: ClusteredMean
    errors: ClusteredMean
    primary_errors: float | None
    statuses: Mapping[str, int]
    differ_most: Sequence[DifferentRequest]
    by_attribute: Sequence[AttributeValue]


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """All comparisons of a log, by version and primary; `synthetic`: calls of a generator, which are left out."""

    comparisons: Sequence[ShadowComparison]
    synthetic: int


def compare_answers(paths: Sequence[Path], *, memory_limit_bytes: int | None = None) -> ShadowReport:
    """What the log in folders and files has of versions in the shadow of others. Raises LogError.

    memory_limit_bytes: What tables may take before they go to the disk.
    """
    with open_log(paths, answers=True, memory_limit_bytes=memory_limit_bytes) as log:
        return report_of(log)


def compared_requests(paths: Sequence[Path], version: str) -> int:
    """How many requests a version has been compared on, in the shadow of whichever others. Raises LogError."""
    with open_log(paths, answers=True) as log:
        pairs = comparable(pairs_of(log).pairs)
        return int(fetched_one(pairs.filter(pairs.version == version).call.nunique()))


def report_of(log: Log) -> ShadowReport:
    """`log`: opened with `answers`."""
    tables = pairs_of(log)
    sides: dict[tuple[str, str], _Gathered] = {}
    synthetic = 0
    for row in _rows(tables):
        if row["synthetic"]:
            synthetic += 1
        else:
            key = row["version"], row["primary"]
            sides.setdefault(key, _Gathered(*key)).take(row)
    found = [sides[key].comparison(_errors(tables, sides[key])) for key in sorted(sides)]
    return ShadowReport(found, synthetic)


def _rows(tables: Pairs) -> Iterator[Mapping[str, Any]]:
    """The pairs in the order of time; where times are the same, in one that does not depend on the database."""
    table = fetched(tables.pairs.order_by("at", "request_id", "version", "call"))
    for batch in table.to_batches(max_chunksize=ROWS):
        yield from batch.to_pylist()


def _errors(tables: Pairs, side: "_Gathered") -> float | None:
    """Of all calls assigned to the primary in the same time: which share it did not answer."""
    calls = tables.exposures
    mine = calls.filter(calls.version == side.primary, calls["at"].between(side.first_us, side.last_us))
    facts = mine.aggregate(n=mine.count(), failed=mine.failed.fill_null(False).cast("int64").sum())
    (row,) = fetched_rows(facts)
    return row["failed"] / row["n"] if row["n"] else None


@dataclass(slots=True)
class _Gathered:
    """The pairs of one version in the shadow of one other. Changed only by `take`."""

    version: str
    primary: str
    first_us: int = 0
    last_us: int = 0
    without_answer: int = 0
    without_lists: int = 0
    users: list[int] = field(default_factory=list)
    failed: list[bool] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    latencies: list[tuple[float, float, int]] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in BOUNDS})
    value_users: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in BOUNDS})
    items: set[int] = field(default_factory=set)
    primary_items: set[int] = field(default_factory=set)
    different: list[tuple[float, float, int, str]] = field(default_factory=list)
    by_value: dict[tuple[str, str], list[tuple[float, float, int]]] = field(default_factory=dict)
    compared: int = 0

    def take(self, row: Mapping[str, Any]) -> None:
        """One call in the shadow, in the order of time."""
        self.first_us = self.first_us if self.users else row["at"]
        self.last_us = row["at"]
        user = row["user"] if row["user"] is not None else row["call"]
        self.users.append(user)
        self.failed.append(row["status"] != "OK")
        self.statuses[row["status"]] = self.statuses.get(row["status"], 0) + 1
        if not row["found"]:
            self.without_answer += 1
        elif row["status"] == "OK":
            times = row["latency_ms"], row["primary_latency_ms"]
            if None not in times:
                self.latencies.append((*times, user))
            if row["items"] is None or row["primary_items"] is None:
                self.without_lists += 1
            else:
                self._lists(row, user)

    def _lists(self, row: Mapping[str, Any], user: int) -> None:
        mine, theirs = row["items"], row["primary_items"]
        self.compared += 1
        self.items.update(mine)
        self.primary_items.update(theirs)
        found = measures(mine, theirs)
        for name, value in found.items():
            if value is not None:
                self.values[name].append(value)
                self.value_users[name].append(user)
        rbo, common = found["rank_biased_overlap"], found["overlap_at_10"]
        if rbo is None or common is None:
            return
        entry = (-rbo, -common, -self.compared, row["request_id"])  # of those alike the earliest is the largest
        if len(self.different) < MOST_DIFFERENT:
            heapq.heappush(self.different, entry)
        else:
            heapq.heappushpop(self.different, entry)
        for pair in _attributes(row["attributes"]).items():
            self.by_value.setdefault(pair, []).append((common, found["identical"] or 0.0, user))

    def comparison(self, primary_errors: float | None) -> ShadowComparison:
        """All of it in numbers."""
        users = np.array(self.users, np.int64)
        times = np.array([one[:2] for one in self.latencies], np.float64).reshape(-1, 2)
        of_times = np.array([one[2] for one in self.latencies], np.int64)
        return ShadowComparison(
            version=self.version,
            primary=self.primary,
            asked=len(users),
            users=len(np.unique(users)),
            first_us=self.first_us,
            last_us=self.last_us,
            compared=self.compared,
            without_answer=self.without_answer,
            without_lists=self.without_lists,
            measures={
                name: clustered_mean(
                    np.array(self.values[name], np.float64), np.array(self.value_users[name], np.int64)
                )
                for name in BOUNDS
            },
            items=len(self.items),
            primary_items=len(self.primary_items),
            items_of_both=len(self.items & self.primary_items),
            latency=_latencies(times[:, 0]),
            primary_latency=_latencies(times[:, 1]),
            latency_difference=clustered_mean(times[:, 0] - times[:, 1], of_times),
            errors=clustered_mean(np.array(self.failed, np.float64), users),
            primary_errors=primary_errors,
            statuses=dict(sorted(self.statuses.items(), key=lambda one: (-one[1], one[0]))),
            differ_most=[
                DifferentRequest(name, -rbo, -common) for rbo, common, _, name in sorted(self.different, reverse=True)
            ],
            by_attribute=list(self._by_attribute()),
        )

    def _by_attribute(self) -> Iterator[AttributeValue]:
        ordered = sorted(self.by_value.items(), key=lambda one: (one[0][0], -len(one[1]), one[0][1]))
        shown: dict[str, int] = {}
        for (attribute, value), rows in ordered:
            shown[attribute] = shown.get(attribute, 0) + 1
            if shown[attribute] <= MOST_VALUES:
                common, same, users = (np.array(column) for column in zip(*rows, strict=True))
                yield AttributeValue(attribute, value, clustered_mean(common, users), clustered_mean(same, users))


def measures(mine: Sequence[int], theirs: Sequence[int]) -> dict[str, float | None]:
    """Those of BOUNDS for a pair of lists; None where a measure has no value."""
    return {
        **{f"overlap_at_{k}": overlap(mine, theirs, k) for k in DEPTHS},
        "rank_biased_overlap": rank_biased_overlap(mine, theirs),
        "kendall_tau_b": kendall_tau_b(mine, theirs),
        "identical": float(mine == theirs),
    }


def _attributes(text: str | None) -> dict[str, str]:
    found = json.loads(text) if text else {}
    return {key: value for key, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}


def _latencies(times: "np.ndarray[Any, np.dtype[np.float64]]") -> Latencies:
    if not len(times):
        return Latencies(*(float("nan"),) * 3)
    return Latencies(float(times.mean()), *(float(one) for one in np.quantile(times, (0.5, 0.95))))
