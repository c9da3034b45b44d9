"""The tables of the pages as CSV, with every digit: from the report's JSON document and from the routers' statuses."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from abfleet_analysis.report.report import Report
from abfleet_analysis.shadow.compare import BOUNDS, ShadowReport
from abfleet_analysis.shadow.words import document
from abfleet_experiments.config import time_text
from abfleet_transport.client.rates import between

from abfleet_dashboard.situation import RouterState

Document = Mapping[str, Any]
Rows = Iterable[Sequence[object]]
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""With one of these a text is a formula to a spreadsheet; names come from outside."""


def experiment_table(report: Report, name: str, table: str) -> str:
    """One table of one experiment. KeyError if there is no such one, or the report lacks its details."""
    only = replace(report, experiments=tuple(one for one in report.experiments if one.name == name))
    if not only.experiments:
        raise KeyError(name)
    (experiment,) = _experiments(only)
    return _text(_EXPERIMENT_TABLES[table](experiment))


def overview_table(report: Report) -> str:
    """All experiments, with verdict and plan."""
    head = (
        "name",
        "owner",
        "state",
        "since",
        "winner",
        "verdict",
        "group",
        "version",
        "users",
        "users_planned",
        "days_left",
    )
    rows = [
        (
            *(one[key] for key in ("name", "owner", "state", "since", "winner")),
            *(one["decision"][key] for key in ("verdict", "group", "version")),
            *(one["plan"][key] for key in ("users", "users_planned", "days_left")),
        )
        for one in _experiments(report, detailed=False)
    ]
    return _text((head, *rows))


def fleet_table(routers: Sequence[RouterState], table: str) -> str:
    """`calls`: by router and group, as on the page; `workers`: one row each. KeyError for another table."""
    return _text({"calls": _calls, "workers": _workers}[table](routers))


def shadow_table(report: ShadowReport, table: str) -> str:
    """`measures`, `attributes`, `answers` or `requests` of all comparisons. KeyError for another table."""
    return _text(_SHADOW_TABLES[table](document(report)["comparisons"]))


def _experiments(report: Report, *, detailed: bool = True) -> list[Document]:
    found: Any = report.as_dict(detailed=detailed)["experiments"]
    return list(found)


def _text(rows: Rows) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value


# --- answers in the shadow --------------------------------------------------------------------------------------------

_PAIR: Final = ("version", "primary")
_MEAN: Final = ("mean", "low", "high", "requests")


def _shadow_measures(comparisons: Sequence[Document]) -> Rows:
    yield (*_PAIR, "measure", *_MEAN)
    for one in comparisons:
        yield from ((one["version"], one["primary"], name, *(one[name][key] for key in _MEAN)) for name in BOUNDS)


def _shadow_attributes(comparisons: Sequence[Document]) -> Rows:
    names = ("overlap_at_10", "identical")
    yield (*_PAIR, "attribute", "value", *(f"{name}_{key}" for name in names for key in _MEAN))
    for one in comparisons:
        for row in one["by_attribute"]:
            numbers = (row[name][key] for name in names for key in _MEAN)
            yield (one["version"], one["primary"], row["attribute"], row["value"], *numbers)


def _shadow_answers(comparisons: Sequence[Document]) -> Rows:
    counts = ("from", "to", "asked", "users", "compared", "without_answer", "without_lists")
    times = ("mean", "p50", "p95")
    yield (
        *(*_PAIR, *counts, "items", "primary_items", "items_of_both"),
        *(f"{side}_ms_{key}" for side in ("shadow", "primary") for key in times),
        *("errors", "errors_low", "errors_high", "primary_errors"),
    )
    for one in comparisons:
        latency, errors = one["latency_ms"], one["errors"]
        yield (
            *(one[key] for key in (*_PAIR, *counts)),
            *one["coverage"].values(),
            *(latency[side][key] for side in ("shadow", "primary") for key in times),
            *(errors["shadow"][key] for key in ("mean", "low", "high")),
            errors["primary"],
        )


def _shadow_requests(comparisons: Sequence[Document]) -> Rows:
    keys = ("request_id", "rank_biased_overlap", "overlap_at_10")
    yield (*_PAIR, *keys)
    for one in comparisons:
        yield from ((one["version"], one["primary"], *(row[key] for key in keys)) for row in one["differ_most"])


_SHADOW_TABLES: Final[Mapping[str, Callable[[Sequence[Document]], Rows]]] = {
    "measures": _shadow_measures,
    "attributes": _shadow_attributes,
    "answers": _shadow_answers,
    "requests": _shadow_requests,
}


# --- one experiment ---------------------------------------------------------------------------------------------------


def _metrics(experiment: Document) -> Rows:
    plain = ("name", "role", "direction", "currency", "group", "baseline", "users", "baseline_users")
    numbers = ("value", "baseline_value", "difference", "relative_difference", "se", "p_value", "margin", "z")
    more = ("boundary", "e_value", "cap")
    ends = ("interval", "sequential_interval", "relative_interval", "relative_sequential_interval")
    yield (*plain, *numbers, *more, *(f"{name}_{end}" for name in ends for end in ("low", "high")))
    for one in experiment["metrics"]:
        yield (*(one[key] for key in (*plain, *numbers, *more)), *(bound for name in ends for bound in one[name]))


def _groups(experiment: Document) -> Rows:
    keys = ("name", "model_version", "decision", "users", "exposures", "errors", "fallbacks")
    yield (*keys, "new_users", "new_users_expected")
    ratio = experiment["srm"]
    for one in experiment["groups"]:
        yield (*(one[key] for key in keys), ratio["observed"].get(one["name"]), ratio["expected"].get(one["name"]))


def _verdicts(experiment: Document) -> Rows:
    keys = ("look", "verdict", "group", "version")
    yield keys
    yield from ([one[key] for key in keys] for one in experiment["history"])


def _preference_over_time(experiment: Document) -> Rows:
    yield ("look", "value", "sequential_interval_low", "sequential_interval_high")
    for one in (experiment["preference"] or {"path": ()})["path"]:
        yield (one["look"], one["value"], *one["sequential_interval"])


def _shares(experiment: Document) -> Rows:
    groups = [one["name"] for one in experiment["groups"]]
    yield ("allocation", "begin", *groups)
    for one in experiment["allocations"]:
        yield (one["allocation"], one["begin"], *(one["weights"].get(name) for name in groups))


def _values_over_time(experiment: Document) -> Rows:
    groups, details = [one["name"] for one in experiment["groups"]], experiment["details"]
    yield ("time", "is_look", "metric", "group", "value")
    early = details["before_first_look"]
    source = early or details["paths"]
    for one in source["values"]:
        for time, row in zip(source["times"], one["values"], strict=True):
            at_look = not early and time != source["times"][-1]
            yield from ((time, at_look, one["metric"], group, value) for group, value in zip(groups, row, strict=True))


def _users_over_time(experiment: Document) -> Rows:
    groups, details = [one["name"] for one in experiment["groups"]], experiment["details"]
    source = details["before_first_look"] or details["paths"]
    yield ("time", *groups)
    yield from ((time, *row) for time, row in zip(source["times"], source["users"], strict=True))


def _changes_over_time(experiment: Document) -> Rows:
    paths = experiment["details"]["paths"]
    keys = ("relative_difference", "low", "high", "better_at", "worse_at", "log_e")
    yield ("time", "metric", "role", "group", *keys)
    for one in paths["metrics"]:
        for index, time in enumerate(paths["times"]):
            yield (time, one["metric"], one["role"], one["group"], *(one[key][index] for key in keys))


def _sizes_over_time(experiment: Document) -> Rows:
    paths = experiment["details"]["paths"]
    yield ("time", "chi_square_p", "log_e")
    yield from zip(paths["times"], paths["ratio_p"], paths["ratio_log_e"], strict=True)


def _calls_over_time(experiment: Document) -> Rows:
    traffic, groups = experiment["details"]["traffic"], [one["name"] for one in experiment["groups"]]
    yield ("begin", "group", "calls", "errors", "fallbacks", "errors_or_fallbacks")
    begin, width = datetime.fromisoformat(traffic["begin"]), timedelta(seconds=traffic["width_s"])
    for index, calls in enumerate(traffic["calls"]):
        for place, group in enumerate(groups):
            more = (traffic[key][index][place] for key in ("errors", "fallbacks", "troubled"))
            yield (time_text(begin + width * index), group, calls[place], *more)


def _breakdowns(experiment: Document) -> Rows:
    keys = ("label", "group", "users", "baseline_users", "value", "baseline_value", "relative_difference")
    last = ("adjusted_p", "divisor", "baseline_divisor")
    yield ("kind", "name", "metric", *keys, "interval_low", "interval_high", *last)
    for one in experiment["details"]["breakdowns"]:
        for part in one["slices"]:
            of = (one["kind"], one["name"], one["metric"])
            yield (*of, *(part[key] for key in keys), *part["interval"], *(part[key] for key in last))


def _recommended(experiment: Document) -> Rows:
    versions = experiment["details"]["recommended"]["versions"]
    offline = list(dict.fromkeys(name for one in versions for name, _ in one["offline"]))
    keys = ("version", "lists", "items", "coverage", "top_share")
    yield (*keys, *offline)
    for one in versions:
        known = dict(one["offline"])
        yield (*(one[key] for key in keys), *(known.get(name) for name in offline))


def _overlap(experiment: Document) -> Rows:
    found = experiment["details"]["recommended"]
    names = [one["version"] for one in found["versions"]]
    yield ("version", *names)
    yield from ((name, *row) for name, row in zip(names, found["overlap"], strict=True))


def _top_items(experiment: Document) -> Rows:
    yield ("version", "item", "share_of_lists")
    for one in experiment["details"]["recommended"]["versions"]:
        yield from ((one["version"], item, part) for item, part in one["top"])


def _config_changes(experiment: Document) -> Rows:
    keys = ("at", "kind", "text", "revision")
    yield keys
    yield from ([one[key] for key in keys] for one in experiment["details"]["changes"])


_EXPERIMENT_TABLES: Final[Mapping[str, Callable[[Document], Rows]]] = {
    "metrics": _metrics,
    "groups": _groups,
    "verdicts": _verdicts,
    "preference-over-time": _preference_over_time,
    "shares": _shares,
    "values-over-time": _values_over_time,
    "users-over-time": _users_over_time,
    "changes-over-time": _changes_over_time,
    "sizes-over-time": _sizes_over_time,
    "calls-over-time": _calls_over_time,
    "breakdowns": _breakdowns,
    "recommended": _recommended,
    "overlap": _overlap,
    "top-items": _top_items,
    "config-changes": _config_changes,
}
EXPERIMENT_TABLES: Final = tuple(_EXPERIMENT_TABLES)


# --- the fleet --------------------------------------------------------------------------------------------------------


def _calls(routers: Sequence[RouterState]) -> Iterator[Sequence[object]]:
    keys = ("experiment", "group", "model_version", "calls_per_s", "share", "p50_ms", "p99_ms")
    yield ("router", *keys, "calls", "errors", "fallbacks")
    for router in routers:
        if router.status is not None:
            for one in between(router.earlier, router.status).groups:
                of = (router.status.router, *(getattr(one, key) for key in keys))
                yield (*of, one.calls, one.errors, one.fallbacks)


def _workers(routers: Sequence[RouterState]) -> Iterator[Sequence[object]]:
    yield ("router", "version", "address", "health", "gets_calls", "load")
    for router in routers:
        for pool in router.status.pools if router.status is not None else ():
            for one in pool.replicas:
                yield (router.status.router, pool.version, one.address, one.health, one.gets_calls, one.load)  # type: ignore[union-attr]
