"""What the versions recommended, with their offline metrics beside the online one. Values to rows; computes nothing."""

import math
from dataclasses import dataclass

from abfleet_analysis.report.details import VersionLists
from abfleet_analysis.report.report import ExperimentReport

from abfleet_dashboard.numbers import UNKNOWN, change, metric_value, plain, share, whole
from abfleet_dashboard.views.words import metric_name, primary


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One version, as text. `offline` has a cell for each of the table's offline columns."""

    version: str
    lists: str
    items: str
    coverage: str
    top_share: str
    online: str
    offline: tuple[str, ...]
    top: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class OverlapCell:
    """How alike two versions' most recommended items are. `heat`: 0 to 10, a class of the style sheet."""

    text: str
    heat: int


@dataclass(frozen=True, slots=True)
class RecommendedView:
    """All versions. `online_name` is the primary metric; a version's is that of the group that was assigned it."""

    online_name: str
    offline_names: tuple[str, ...]
    rows: tuple[VersionRow, ...]
    overlap: tuple[tuple[OverlapCell, ...], ...]


def recommended_view(report: ExperimentReport) -> RecommendedView | None:
    """None where nothing is known of any list."""
    if report.details is None or not report.details.recommended.versions:
        return None
    found = report.details.recommended
    names = tuple(dict.fromkeys(name for version in found.versions for name, _ in version.offline))
    online = _online(report)
    first = next((m.rule.name for m in report.gathered.evidence.metrics if m.rule.role == "primary"), "")
    return RecommendedView(
        online_name=metric_name(first),
        offline_names=tuple(map(_offline_title, names)),
        rows=tuple(_row(version, names, online) for version in found.versions),
        overlap=tuple(tuple(_cell(float(value)) for value in row) for row in found.overlap),
    )


def _offline_title(name: str) -> str:
    """`recall@10_se` is what the training report calls a standard error."""
    measured = name.removesuffix("_se")
    return name if measured == name else f"standard error of {measured}"


def _row(version: VersionLists, names: tuple[str, ...], online: dict[str, str]) -> VersionRow:
    offline = dict(version.offline)
    return VersionRow(
        version=version.version,
        lists=whole(version.lists),
        items=whole(version.items),
        coverage="not measured" if math.isnan(version.coverage) else share(version.coverage),
        top_share=share(version.top_share),
        online=online.get(version.version, "not assigned"),
        offline=tuple(plain(offline[name]) if name in offline else "not measured" for name in names),
        top=tuple((str(item), share(part)) for item, part in version.top),
    )


def _cell(value: float) -> OverlapCell:
    if not math.isfinite(value):
        return OverlapCell(UNKNOWN, 0)
    return OverlapCell(share(value, 0), min(max(round(value * 10), 0), 10))


def _online(report: ExperimentReport) -> dict[str, str]:
    """The primary metric of each assigned version, with its change where it is a treatment's."""
    versions = {facts.name: facts.model_version for facts in report.gathered.facts}
    found: dict[str, str] = {}
    for group in report.decision.groups:
        metric = primary(group)
        if metric is None:
            continue
        version, base = versions.get(group.group), versions.get(report.gathered.evidence.groups[0])
        if version and math.isfinite(metric.value):
            found[version] = f"{metric_value(metric.rule, metric.value)} ({change(metric.relative_difference)})"
        if base and math.isfinite(metric.baseline_value):
            found.setdefault(base, metric_value(metric.rule, metric.baseline_value))
    return found
