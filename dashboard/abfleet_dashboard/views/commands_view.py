"""The commands with which somebody acts on an experiment, ready to copy. They are text: nothing here runs them."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from abfleet_analysis.decision.verdicts import Verdict
from abfleet_analysis.report.report import ExperimentReport
from abfleet_analysis.report.run_state import State

DEFAULT_LOGS: Final = (Path("logs"),)
DEFAULT_EXPERIMENTS: Final = Path("experiments/recommender.yaml")
_MOST_PERCENT: Final = 50.0
"""A share that is proposed is at most this: beyond it, control would be the smaller part."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where commands find the log and the experiments file, as the dashboard was told."""

    logs: tuple[Path, ...] = DEFAULT_LOGS
    experiments: Path = DEFAULT_EXPERIMENTS


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `what`: what it does, in a sentence. `fits`: whether it does what the verdict says.

    changes: Whether it changes something.
    """

    what: str
    line: str
    fits: bool = False
    changes: bool = True


def commands(report: ExperimentReport, files: Files) -> tuple[Command, ...]:
    """Those that make sense in the experiment's state; what the verdict asks for comes first."""
    name, state = report.name, report.run_state.state
    groups, verdict = report.gathered.evidence.groups, report.decision.verdict
    logs = [word for path in files.logs for word in ("--logs", str(path))] if files.logs != DEFAULT_LOGS else []
    edits = ["--experiments", str(files.experiments)] if files.experiments != DEFAULT_EXPERIMENTS else []
    printing = _line("analyze", "--experiment", name, *logs, *edits)
    found = [Command("Print this report in a terminal.", printing, changes=False)]
    if state is State.ENDED:
        return tuple(found)
    if state is State.HALTED:
        found.append(Command("Resume it: all users return to the groups that they had.", _line("resume", name, *edits)))
    else:
        found.append(
            Command(
                "Halt it: all users get the default version. It can be resumed.",
                _line("halt", name, *edits),
                verdict is Verdict.REFUSE,
            )
        )
        found += _ramps(report, edits)
    if report.preference is not None:
        for version in report.preference.evidence.versions:
            what, line = f"End it: {version} becomes the default.", ("conclude", name, "--winner", version)
            found.append(Command(what, _line(*line, *logs, *edits), version == report.decision.version))
        groups = ()
    for group in groups:
        keeps = group == groups[0]
        fits = group == report.decision.group and verdict is Verdict.SHIP
        fits |= keeps and verdict in (Verdict.STOP_NO_EFFECT, Verdict.INCONCLUSIVE)
        what = "End it and keep control's version." if keeps else f"End it: the version of {group} becomes the default."
        found.append(Command(what, _line("conclude", name, "--winner", group, *logs, *edits), fits))
    return tuple(sorted(found, key=lambda command: not command.fits))


def _ramps(report: ExperimentReport, edits: Sequence[str]) -> list[Command]:
    """Twice the share of each treatment, and none for one that is to be rolled back."""
    if not report.gathered.allocations:
        return []
    weights = report.gathered.allocations[-1].weights
    found = []
    for group, weight in zip(report.gathered.evidence.groups[1:], weights[1:].tolist(), strict=True):
        now, more = 100 * weight, min(200 * weight, _MOST_PERCENT)
        harms = any(one.group == group and one.verdict is Verdict.ROLL_BACK for one in report.decision.groups)
        if harms:
            what = f"Take {group} out: its share goes to control."
            found.append(Command(what, _line("ramp", report.name, f"{group}=0", *edits), fits=True))
        elif more > now:
            what = f"Give {group} a share of {more:.4g} % of the users, from now on; it has {now:.4g} %."
            found.append(Command(what, _line("ramp", report.name, f"{group}={more:.4g}", *edits)))
    return found


def _line(*words: str) -> str:
    return shlex.join(["abfleet", *words])
