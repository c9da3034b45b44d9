"""How an experiment is set up, and how that changed."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from abfleet_analysis.report.details import ConfigChange
from abfleet_analysis.report.report import ExperimentReport
from abfleet_experiments.config import Condition, Config, Experiment, InRange, OneOf, percent_text

from abfleet_dashboard.numbers import NBSP, duration, instant, share
from abfleet_dashboard.views.words import metric_name


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """One change, as text. `stamp` is the instant for machines."""

    at: str
    stamp: str
    refused: bool
    text: str
    revision: str


@dataclass(frozen=True, slots=True)
class SetupView:
    """Facts in pairs of name and text; `allocations` with a share for each group; `note` for what has to be known."""

    note: str
    facts: tuple[tuple[str, str], ...]
    groups: tuple[str, ...]
    allocations: tuple[tuple[str, str, tuple[str, ...]], ...]


def setup_view(report: ExperimentReport, config: Config | None) -> SetupView:
    """What the file says, where it still has the experiment, and the plan that the report was made with."""
    experiment = None
    if config is not None:
        experiment = next((one for one in config.experiments if one.name == report.name), None)
    note = ""
    if config is not None and experiment is None:
        note = "No longer in the experiments file: concluded from the log, with the default plan."
    plan = report.plan
    facts = [] if experiment is None else _facts(experiment)
    facts += [
        ("Looks for", f"a change of {share(plan.effect, 0)} with a probability of {share(plan.power, 0)}"),
        ("Looks every", _span(plan.look)),
        ("Runs", f"at least {_span(plan.minimum)}, at most {_span(plan.horizon)}"),
    ]
    return SetupView(
        note=note,
        facts=tuple(facts),
        groups=report.gathered.evidence.groups,
        allocations=tuple(
            (found.id, instant(found.begin), tuple(share(float(weight)) for weight in found.weights))
            for found in report.gathered.allocations
        ),
    )


def change_rows(changes: tuple[ConfigChange, ...]) -> tuple[ChangeRow, ...]:
    """The changes of the configuration as rows of text, newest first."""
    return tuple(
        ChangeRow(
            at=instant(change.at, seconds=True),
            stamp=change.at.isoformat(),
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
    metrics = experiment.metrics
    facts = [
        ("Hypothesis", experiment.hypothesis or ""),
        ("Owner", experiment.owner or ""),
        ("State", "" if experiment.enabled else "switched off: it takes nobody"),
        ("Takes", f"{percent_text(experiment.traffic_bp)}{NBSP}% of the users of layer {experiment.layer}"),
        ("Audience", "; ".join(_condition(condition) for condition in experiment.audience) or "everyone"),
        ("Decides by", metric_name(metrics.primary)),
        ("Guards", ", ".join(metric_name(guardrail.name) for guardrail in metrics.guardrails)),
        ("Shows", ", ".join(metric_name(name) for name in metrics.secondary)),
        ("Salt", experiment.salt),
        ("Forced users", f"{len(experiment.overrides)}, left out" if experiment.overrides else ""),
        ("Ramp", "; ".join(f"{instant(row.at)}: {percent_text(row.traffic_bp)}{NBSP}%" for row in experiment.ramp)),
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
