"""What the autopilot has done, why, what it waits for, and how a person takes over: rows and sentences."""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from abfleet_experiments.config import Experiment
from abfleet_log.tools.actions import AutopilotState, RecordedAction

from abfleet_dashboard.numbers import duration, evidence, instant
from abfleet_dashboard.situation import Situation
from abfleet_dashboard.views.commands_view import DEFAULT_EXPERIMENTS, Files
from abfleet_dashboard.views.experiment_view import experiment_path
from abfleet_dashboard.views.words import metric_title, spoken

MOST_ON_OVERVIEW: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRow:
    """One act, as text. `moved`: traffic and shares before and after; `command`: how a person undoes it."""

    at: str
    experiment: str
    path: str
    what: str
    moved: str
    outcome: str
    given_up: bool
    reasons: tuple[str, ...]
    command: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AutopilotView:
    """The autopilot on a page.

    Attributes:
        rows: Acts, the newest first; `more`: How many there are beside these.
        waits: Sentences on each experiment that it watches: what keeps its traffic from climbing, or that nothing does.
        evidence: (guardrail of group, E) as text.
        said: Of when its state is, and that it may not run. silent: Whether the last is so.
        empty: A sentence where nothing was done yet.
    """

    rows: tuple[ActionRow, ...]
    more: int
    waits: tuple[str, ...]
    evidence: tuple[tuple[str, str], ...]
    said: str
    silent: bool
    empty: str
    problem: str


def autopilot_of_all(situation: Situation) -> AutopilotView | None:
    """For the page of all experiments; None where no experiment has an autopilot, and none ever acted."""
    watched = [] if situation.config is None else [one for one in situation.config.experiments if one.autopilot]
    if not watched and not situation.autopilot.actions:
        return None
    return _view(situation, watched, situation.autopilot.actions, most=MOST_ON_OVERVIEW)


def autopilot_of(situation: Situation, name: str) -> AutopilotView | None:
    """For the page of one experiment; None where it has no autopilot, and none ever acted on it."""
    experiments = () if situation.config is None else situation.config.experiments
    watched = [one for one in experiments if one.name == name and one.autopilot]
    actions = [one for one in situation.autopilot.actions if one.experiment == name]
    return _view(situation, watched, actions, one=True) if watched or actions else None


def _view(
    situation: Situation,
    watched: list[Experiment],
    actions: Iterable[RecordedAction],
    *,
    most: int | None = None,
    one: bool = False,
) -> AutopilotView:
    newest = sorted(actions, key=lambda act: (act.at, act.id), reverse=True)
    shown = newest[:most]
    state = situation.autopilot.state
    silent = state is None or state.silent(situation.now)
    return AutopilotView(
        rows=tuple(_row(act, situation.files) for act in shown),
        more=len(newest) - len(shown),
        waits=tuple(_waits(experiment, state, silent=silent, named=not one) for experiment in watched),
        evidence=_evidence(watched, state) if one and not silent else (),
        said=_said(situation, state, silent=silent)
        if watched
        else "No experiment of the file has the key autopilot now.",
        silent=silent and bool(watched),
        empty="" if newest else "It has done nothing yet.",
        problem=""
        if situation.autopilot.problem is None
        else f"Its actions cannot be read: {situation.autopilot.problem}.",
    )


def _row(act: RecordedAction, files: Files) -> ActionRow:
    edits = ["--experiments", str(files.experiments)] if files.experiments != DEFAULT_EXPERIMENTS else []
    back = act.way_back()
    words = act.words()
    return ActionRow(
        at=instant(act.at, seconds=True),
        experiment=act.experiment,
        path=experiment_path(act.experiment),
        what=f"{words[:1].upper()}{words[1:]}",
        moved="" if act.outcome == "given_up" else _moved(act.before, act.after),
        outcome=act.outcome_words(),
        given_up=act.outcome == "given_up",
        reasons=tuple(spoken(reason) for reason in act.reasons),
        command=shlex.join([*back, *edits]) if back else "",
        by=act.by,
    )


def _moved(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """`traffic 5 % to 20 %, canary 20 % to 0 %`; empty where nothing is known."""
    found = []
    if before.get("enabled") is True and after.get("enabled") is False:
        found.append("switched off")
    if before.get("traffic") != after.get("traffic") and "traffic" in after:
        found.append(f"traffic {_percent(before.get('traffic'))} to {_percent(after['traffic'])}")
    was, now = before.get("weights") or {}, after.get("weights") or {}
    found += [
        f"{group} {_percent(was[group])} to {_percent(now[group])}"
        for group in was
        if was[group] != now.get(group, was[group])
    ]
    if "default" in after:
        found.append(f"the default version is {after['default']}")
    return ", ".join(found)


def _percent(value: object) -> str:
    return f"{value:g} %" if isinstance(value, int | float) else "?"


def _waits(experiment: Experiment, state: AutopilotState | None, *, silent: bool, named: bool) -> str:
    words = _hold_words(experiment, state, silent=silent)
    return f"{experiment.name}: {words}." if named else f"{words[:1].upper()}{words[1:]}."


def _hold_words(experiment: Experiment, state: AutopilotState | None, *, silent: bool) -> str:
    autopilot = experiment.autopilot
    assert autopilot is not None
    if silent or state is None or experiment.name not in state.holds:
        return "what traffic waits for is not known" if autopilot.ramp else "it may halt, but does not raise traffic"
    if holds := state.holds[experiment.name]:
        return f"traffic waits: {'; '.join(map(spoken, holds))}"
    if autopilot.ramp is None:
        return "it is watched; the autopilot may halt it, but does not raise its traffic"
    return "nothing keeps traffic from climbing, or traffic is at its last step"


def _evidence(watched: list[Experiment], state: AutopilotState | None) -> tuple[tuple[str, str], ...]:
    if state is None:
        return ()
    return tuple(
        (f"{metric_title(kind)} in {group}", f"E = {evidence(e)}")
        for experiment in watched
        for group, kind, e in state.evidence.get(experiment.name, ())
    )


def _said(situation: Situation, state: AutopilotState | None, *, silent: bool) -> str:
    if state is None:
        return "No autopilot has written its state beside these actions, so perhaps none is running."
    age = max((situation.now - state.at).total_seconds(), 0.0)
    if silent:
        return f"Its state is {duration(age)} old ({instant(state.at, seconds=True)}), so it may not be running."
    return f"As of {instant(state.at, seconds=True)}, by {state.by}."
