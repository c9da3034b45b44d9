"""How an experiment is set up, and how that changed."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from abfleet_analysis.report.details import ConfigChange
from abfleet_analysis.report.report import ExperimentReport
from abfleet_analysis.report.run_state import RunState, State
from abfleet_experiments.bucketing import BUCKETS
from abfleet_experiments.config import Condition, Config, Experiment, InRange, OneOf, percent_text

from abfleet_dashboard.numbers import NBSP, duration, instant, share
from abfleet_dashboard.views.words import metric_name


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """One change, as text."""

    at: str
    refused: bool
    text: str
    revision: str


@dataclass(frozen=True, slots=True)
class SetupView:
    """Facts in pairs of name and text; `note` for what has to be known.

    Attributes:
        allocations: Those of the log: an id, since when, and a share for each group.
        newest: What the last of them is: in force, or until when.
        planned: Rows of the file that are still to come: from when, a share for each group, and what it then takes.
    """

    note: str
    facts: tuple[tuple[str, str], ...]
    groups: tuple[str, ...]
    allocations: tuple[tuple[str, str, tuple[str, ...]], ...]
    newest: str = "in force"
    planned: tuple[tuple[str, tuple[str, ...], str], ...] = ()


def setup_view(report: ExperimentReport, config: Config | None) -> SetupView:
    """What the file says, where it still has the experiment, and the plan that the report was made with."""
    experiment = None
    if config is not None:
        experiment = next((one for one in config.experiments if one.name == report.name), None)
    note = ""
    if config is not None and experiment is None:
        note = "No longer in the experiments file, so this report is made from the log, with the default plan."
    plan = report.plan
    facts = [] if experiment is None else _facts(experiment)
    looks = ("Looks", f"one every {_span(plan.look).removeprefix(f'1{NBSP}')}")
    if report.preference is not None:
        facts += [
            ("Interleaved", " and ".join(report.preference.evidence.versions)),
            looks,
            ("Duration", f"at most {_span(plan.horizon)}"),
        ]
    else:
        facts += [
            ("Planned to detect", f"a change of {share(plan.effect, 0)}, with a probability of {share(plan.power, 0)}"),
            looks,
            ("Duration", f"at least {_span(plan.minimum)}, at most {_span(plan.horizon)}"),
        ]
    return SetupView(
        note=note,
        facts=tuple(facts),
        groups=report.gathered.evidence.groups,
        allocations=tuple(
            (found.id, instant(found.begin), tuple(share(float(weight)) for weight in found.weights))
            for found in report.gathered.allocations
        ),
        newest=_newest(report.run_state),
        planned=() if experiment is None else _planned(report, experiment),
    )


def _planned(report: ExperimentReport, experiment: Experiment) -> tuple[tuple[str, tuple[str, ...], str], ...]:
    now, found = report.gathered.looks.times[-1], []
    for row in experiment.ramp:
        if row.at > now:
            weights = {group.name: weight for group, weight in zip(experiment.groups, row.weights_bp, strict=True)}
            shares = tuple(share(weights.get(name, 0) / BUCKETS) for name in report.gathered.evidence.groups)
            found.append((instant(row.at), shares, f"{percent_text(row.traffic_bp)}{NBSP}%"))
    return tuple(found)


def _newest(state: RunState) -> str:
    """What the newest shares are."""
    if state.state is not State.ENDED:
        return "in force"
    return "over" if state.since is None else f"until {instant(state.since)}"


def change_rows(changes: tuple[ConfigChange, ...], state: RunState) -> tuple[ChangeRow, ...]:
    """The changes of the configuration as rows of text, newest first, and among them the end of the experiment."""
    if state.state is State.ENDED and state.since is not None:
        won = "" if state.winner is None else f", winner {state.winner}"
        end = ConfigChange(state.since, "conclusion", f"the experiment ended{won}", None)
        changes = tuple(sorted((end, *changes), key=lambda change: change.at, reverse=True))
    return tuple(
        ChangeRow(
            at=instant(change.at, seconds=True),
            refused=change.kind == "refused",
            text=change.text,
            revision=change.revision or "",
        )
        for change in changes
    )


def parsed_time(text: str | None) -> datetime | None:
    """An instant as programs write it; None where there is none, or it cannot be read."""
    try:
        found = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found is not None and found.tzinfo is None else found


def _facts(experiment: Experiment) -> list[tuple[str, str]]:
    metrics, compared = experiment.metrics, experiment.interleave is None
    facts = [
        ("Traffic", f"{percent_text(experiment.traffic_bp)}{NBSP}% of the users of layer {experiment.layer}"),
        ("Audience", "; ".join(_condition(condition) for condition in experiment.audience) or "everyone"),
        ("Primary metric", metric_name(metrics.primary) if compared else ""),
        ("Guardrails", ", ".join(metric_name(guardrail.name) for guardrail in metrics.guardrails if compared)),
        ("Secondary metrics", ", ".join(metric_name(name) for name in metrics.secondary)),
        ("Salt of the assignment", experiment.salt),
        (
            "Users with a forced group",
            f"{len(experiment.overrides)}, not in the analysis" if experiment.overrides else "",
        ),
    ]
    return [(name, text) for name, text in facts if text]


def _condition(condition: Condition) -> str:
    if isinstance(condition, OneOf):
        return f"{condition.attribute} is {' or '.join(condition.values)}"
    if isinstance(condition, InRange):
        ends = [f"at least {condition.minimum:g}" if condition.minimum is not None else ""]
        ends.append(f"at most {condition.maximum:g}" if condition.maximum is not None else "")
        return f"{condition.attribute} is {' and '.join(end for end in ends if end)}"
    return f"{condition.attribute} is {'given' if condition.present else 'not given'}"


def _span(span: timedelta) -> str:
    return duration(span.total_seconds())
