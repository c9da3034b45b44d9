"""One experiment as a page shows it: sentences, rows and pictures, made from a report."""

import math
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from abfleet_analysis.report.excluded import excluded_sentences
from abfleet_analysis.report.render import adding_up, expected_texts, missing
from abfleet_analysis.report.report import ExperimentReport
from abfleet_experiments.config import Config
from markupsafe import Markup

from abfleet_dashboard.numbers import UNKNOWN, instant, share, whole
from abfleet_dashboard.pictures import estimate as estimates
from abfleet_dashboard.pictures import over_time
from abfleet_dashboard.pictures.history import NAMES, class_of, sign, verdicts
from abfleet_dashboard.pictures.picture import Picture
from abfleet_dashboard.views.breakdown_view import Dimension, dimensions
from abfleet_dashboard.views.commands_view import Command, Files, commands
from abfleet_dashboard.views.data_words import DataHealth, health
from abfleet_dashboard.views.metric_view import MetricTable, metric_tables
from abfleet_dashboard.views.preference_view import PreferenceView, preference_view
from abfleet_dashboard.views.recommended_view import RecommendedView, recommended_view
from abfleet_dashboard.views.schedule_view import schedule
from abfleet_dashboard.views.setup_view import ChangeRow, SetupView, change_rows, setup_view
from abfleet_dashboard.views.values_view import ValuesView, values_view
from abfleet_dashboard.views.words import (
    METRICS,
    PlainAnswers,
    answers,
    metric_title,
    not_yet,
    progress,
    spoken,
    with_version,
)


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One group in the table of groups, as text: users who count, and their calls."""

    name: str
    version: str
    users: str
    share: str
    calls: str
    errors: str
    fallbacks: str
    verdict: str
    sign: Markup
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SplitRow:
    """One group of those whom the test of the groups' sizes counts, as text."""

    name: str
    users: str
    expected: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentView:
    """One experiment's page, as values; `key` begins all ids of it on the page.

    Attributes:
        reached: Users over planned users, 0 to 1; None where there is no plan yet.
        waiting: What an experiment that keeps running waits for.
        groups: Who is compared. split: Whom the test of the groups' sizes counts, which are fewer after a ramp.
        schedule: State and dates, as pairs. commands: What can be typed now.
        values: Each group's values and users over time; None without details.
        main: The primary metric's change over time, one picture for each treatment. others: Of all other metrics.
        early: Whether there has been no look, so that values alone are drawn over time.
        excluded: What windows leave out, and what the verdict is with it; empty where there are none.
        detailed: Whether the report came with details; without, pictures over time cannot be drawn.
        preference: What an interleaving shows, in place of metrics.
    """

    key: str
    name: str
    path: str
    owner: str
    hypothesis: str
    schedule: tuple[tuple[str, str], ...]
    commands: tuple[Command, ...]
    verdict: str
    verdict_class: str
    sign: Markup
    answers: PlainAnswers
    reasons: tuple[str, ...]
    waiting: tuple[str, ...]
    excluded: tuple[str, ...]
    progress: str
    reached: float | None
    health: DataHealth
    groups: tuple[GroupRow, ...]
    split: tuple[SplitRow, ...]
    tables: tuple[MetricTable, ...]
    values: ValuesView | None
    early: bool
    main: tuple[Picture, ...]
    others: tuple[Picture, ...]
    sizes: Picture | None
    traffic: tuple[Picture, ...]
    history: Picture | None
    dimensions: tuple[Dimension, ...]
    recommended: RecommendedView | None
    setup: SetupView
    changes: tuple[ChangeRow, ...]
    detailed: bool
    preference: PreferenceView | None


def experiment_path(name: str) -> str:
    """The path of the experiment's page, percent-encoded."""
    return f"/experiments/{quote(name, safe='')}"


def experiment_view(
    report: ExperimentReport, config: Config | None, key: str, files: Files | None = None
) -> ExperimentView:
    """The view of one report; without a configuration, setup shows the report alone. files: For commands."""
    details, decision = report.details, report.decision
    groups = report.gathered.evidence.groups
    early = details is not None and details.before_first_look is not None
    main, others = _over_time(report, key)
    values = None if details is None else values_view(report, details, key)
    names = _names(report)
    users = int(report.gathered.evidence.users[-1].sum())
    traffic = []
    if details is not None:
        traffic = [
            None if values is None else values.users,
            over_time.calls(f"{key}-calls", groups, details.traffic),
            over_time.trouble(f"{key}-trouble", groups, details.traffic),
        ]
    return ExperimentView(
        key=key,
        name=report.name,
        path=experiment_path(report.name),
        owner=report.owner or "",
        hypothesis=report.hypothesis or "",
        schedule=schedule(report),
        commands=commands(report, files or Files()),
        verdict=NAMES[decision.verdict],
        verdict_class=class_of(decision.verdict),
        sign=sign(decision.verdict, size=20),
        answers=answers(report),
        reasons=tuple(_sentence(reason, names) for reason in decision.reasons),
        # The last sentence has the dates, which stand in the head of the page.
        waiting=tuple(_sentence(text, names) for text in (*report.waiting.sentences[:-1], *missing(report))),
        excluded=_excluded(report, names),
        progress=progress(report),
        reached=min(users / decision.users_planned, 1.0) if decision.users_planned > 0 else None,
        health=health(report),
        groups=_group_rows(report),
        split=_split_rows(report),
        tables=metric_tables(report),
        values=values,
        early=early,
        main=() if early else main,
        others=() if early else others,
        sizes=over_time.sizes(f"{key}-sizes", details.paths) if details and not early else None,
        traffic=tuple(picture for picture in traffic if picture is not None),
        history=_history(report, key),
        dimensions=dimensions(report, key),
        recommended=recommended_view(report),
        setup=setup_view(report, config),
        changes=change_rows(details.changes, report.run_state) if details else (),
        detailed=details is not None or report.preference is not None,
        preference=preference_view(report, key),
    )


def _excluded(report: ExperimentReport, names: frozenset[str]) -> tuple[str, ...]:
    if report.excluded is None:
        return ()
    sentences = excluded_sentences(report.excluded, report.decision, report.gathered)
    return tuple(_sentence(sentence, names) for sentence in sentences)


def as_of_text(at: datetime | None) -> str:
    """The moment up to which the report reads the log; `–` if the log has no time."""
    return UNKNOWN if at is None else instant(at)


def _over_time(report: ExperimentReport, key: str) -> tuple[tuple[Picture, ...], tuple[Picture, ...]]:
    main: list[Picture] = []
    others: list[Picture] = []
    if report.details is None:
        return (), ()
    paths = report.details.paths
    lowest = {one.rule.name: -math.inf if one.negative else -1.0 for one in report.gathered.evidence.metrics}
    for index, path in enumerate(paths.metrics):
        title = f"{metric_title(path.metric)}: {with_version(report, path.group)} against control"
        picture = estimates.estimate(f"{key}-path-{index}", title, path, paths.times, lowest[path.metric])
        if picture is not None:
            (main if path.role == "primary" else others).append(picture)
    return tuple(main), tuple(others)


def _history(report: ExperimentReport, key: str) -> Picture | None:
    decision = report.decision
    rows = [("overall", decision.history)] if len(decision.groups) > 1 or report.preference is not None else []
    rows += [(group.group, tuple((verdict, None) for verdict in group.history)) for group in decision.groups]
    return verdicts(f"{key}-history", rows, report.gathered.evidence.calendar.planned)


def _group_rows(report: ExperimentReport) -> tuple[GroupRow, ...]:
    decided = {group.group: group for group in report.decision.groups}
    yet = not_yet(report)
    total, names = sum(facts.users for facts in report.gathered.facts), _names(report)
    shares = adding_up([facts.users / total if total else math.nan for facts in report.gathered.facts], 3)
    rows = []
    for facts, part in zip(report.gathered.facts, shares, strict=True):
        group = decided.get(facts.name)
        rows.append(
            GroupRow(
                name=facts.name,
                version=facts.model_version or f"no calls{yet}",
                users=whole(facts.users),
                share=share(part, 1) if total else f"no users{yet}",
                calls=whole(facts.exposures),
                errors=whole(facts.errors),
                fallbacks=whole(facts.fallbacks),
                verdict=NAMES[group.verdict] if group else "Control" if report.preference is None else "",
                sign=sign(group.verdict) if group else Markup(""),
                reasons=tuple(_sentence(reason, names) for reason in group.reasons) if group else (),
            )
        )
    return tuple(rows)


def _split_rows(report: ExperimentReport) -> tuple[SplitRow, ...]:
    if report.preference is not None:
        return ()
    ratio, groups = report.decision.sample_ratio, report.gathered.evidence.groups
    observed = map(whole, (*ratio.observed, sum(ratio.observed)))
    return tuple(map(SplitRow, (*groups, "all"), observed, expected_texts(ratio.expected)))


def _names(report: ExperimentReport) -> frozenset[str]:
    """Words that stay as they are written: the file's own metrics, and groups."""
    evidence = report.gathered.evidence
    own = (metric.rule.name for metric in evidence.metrics if metric.rule.name not in METRICS)
    return frozenset((*evidence.groups, *own))


def _sentence(text: str, names: frozenset[str]) -> str:
    text = spoken(text)
    begun = text if text.split(" ", 1)[0] in names else f"{text[:1].upper()}{text[1:]}"
    return begun + ("" if begun.endswith((".", "!", "?")) else ".")
