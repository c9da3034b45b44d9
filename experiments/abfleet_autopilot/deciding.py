"""From an experiment's evidence to what is to be done with it, or why nothing is. Pure; knows no log and no file."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from abfleet_experiments.allocation import allocation_in_force
from abfleet_experiments.config import AutopilotRamp, Experiment, time_text
from abfleet_statistics.guardrails import found_ratio

from abfleet_autopilot.acts import Action, IntendedAction, ReportVerdict
from abfleet_autopilot.evidence.experiment_evidence import ExperimentEvidence
from abfleet_autopilot.evidence.guardrail_evidence import LN_ACTS, Counts
from abfleet_autopilot.evidence.step import Step
from abfleet_autopilot.lines import SECOND_US, moment

LN_WAITS: Final = LN_ACTS - math.log(2)
"""Above half of its threshold a guardrail keeps traffic from climbing."""
MOST_E: Final = 1e300


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is known besides an experiment's evidence.

    Attributes:
        now: On the wall, in UTC. newest: The newest line that was taken, microseconds since 1970.
        faults: What is wrong with the log as it comes: routers that do not write, clocks.
        report: The newest, if there is one.
    """

    now: datetime
    newest: int
    faults: Sequence[str]
    report: ReportVerdict | None


@dataclass(frozen=True, slots=True)
class Decided:
    """What is to be done, in this order, or else why an experiment waits."""

    acts: tuple[IntendedAction, ...] = ()
    holds: tuple[str, ...] = ()
    report_wanted: bool = False


def decide(experiment: Experiment, evidence: ExperimentEvidence, around: Surroundings) -> Decided:
    """What is to be done with an experiment that has an autopilot."""
    autopilot = experiment.autopilot
    assert autopilot is not None
    if not experiment.enabled:
        return Decided(holds=("the experiment is switched off",))
    if halts := _halts(experiment, evidence, around):
        return Decided(halts)
    if autopilot.conclude == "ship" and (act := _conclusion(experiment, around.report)) is not None:
        return Decided((act,))
    looked = _look_is_due(around)
    if autopilot.ramp is None:
        return Decided(report_wanted=looked)
    act, holds, wanted = _climb(experiment, autopilot.ramp, evidence, around)
    return Decided(() if act is None else (act,), tuple(holds), looked or wanted)


def treatments_in_file(experiment: Experiment, now: datetime) -> set[str]:
    """The treatments that have a share, now or by a later row."""
    row = experiment.row_in_force(now)
    rows = [*([row] if row is not None else []), *(later for later in experiment.ramp if later.at > now)]
    return {
        group.name
        for one in rows
        for group, share in zip(experiment.groups, one.weights_bp, strict=True)
        if share and group.name != experiment.control
    }


# --- halts ------------------------------------------------------------------------------------------------------------


def _halts(experiment: Experiment, evidence: ExperimentEvidence, around: Surroundings) -> tuple[IntendedAction, ...]:
    present = treatments_in_file(experiment, around.now)
    names = evidence.watched.groups
    found = [
        act
        for number in evidence.treatments
        if names[number] in present and (act := _halt(experiment, evidence, number, around)) is not None
    ]
    return tuple(sorted(found, key=lambda act: act.as_of))


def _halt(
    experiment: Experiment, evidence: ExperimentEvidence, number: int, around: Surroundings
) -> IntendedAction | None:
    assert experiment.autopilot is not None
    treatment, name = evidence.treatments[number], evidence.watched.groups[number]
    allowed, control = experiment.autopilot.halt, experiment.control
    if treatment.absent is not None:
        at, since, calls = treatment.absent
        reason = (
            f"{name} is absent since {time_text(moment(since))}: it has answered none of {calls:,} calls, "
            f"while {control} answers"
        )
        figures = {"absent_since": time_text(moment(since)), "calls": calls}
        return IntendedAction(Action.HALT, experiment.name, name, at, (reason,), figures)
    if "guardrails" in allowed and treatment.acted:
        kind, (at, counts) = min(treatment.acted.items(), key=lambda one: one[1][0])
        reasons = guardrail_reasons(kind, counts, name, control)
        return IntendedAction(Action.HALT, experiment.name, name, at, reasons, {kind: guardrail_figures(counts)})
    said = None if around.report is None else around.report.treatments.get(name)
    if said is None or around.report is None or said.since <= treatment.since:
        return None
    if ("harm" in allowed and said.verdict == "roll_back" and said.harm) or (
        "broken_data" in allowed and said.verdict == "refuse"
    ):
        return IntendedAction(
            Action.HALT, experiment.name, name, around.report.as_of, said.reasons, {"verdict": said.verdict}
        )
    return None


def guardrail_reasons(kind: str, counts: Counts, name: str, control: str) -> tuple[str, ...]:
    """Why a guardrail speaks against a treatment: which half, users, outages."""
    acts = f"(E = {e_text(counts.ln_e)}, acts at 200)"
    first = f"{kind} guardrail: more in {name} than the tolerated 1.25 times {control}'s {acts}"
    left_out = f"; {counts.left_out:,} events around outages do not count" if counts.left_out else ""
    capped = f"; {counts.capped:,} blocks count for less than was in them" if counts.capped else ""
    users = (
        f"first bad events: {counts.treatment:,} users of {name}, {counts.control:,} of {control}, where "
        f"{name} should have {counts.share:.1%} of them (E = {e_text(counts.wrong)}){left_out}{capped}"
    )
    if counts.absent is None:
        return first, users
    mine, others, shared = counts.outages
    outages = f"outages: {mine:,} of {name}, {others:,} of {control}, {shared:,} shared (E = {e_text(counts.absent)})"
    return (first, outages, users) if counts.absent > counts.wrong else (first, users, outages)


def guardrail_figures(counts: Counts) -> dict[str, Any]:
    """The same as numbers."""
    figures: dict[str, Any] = {
        "e": e_value(counts.ln_e),
        "e_users": e_value(counts.wrong),
        "users": counts.treatment,
        "control_users": counts.control,
        "expected_share": round(counts.share, 6),
    }
    if counts.absent is not None:
        mine, others, shared = counts.outages
        figures |= {"e_outages": e_value(counts.absent), "outages": mine, "control_outages": others, "shared": shared}
    return figures


def e_value(ln_e: float) -> float:
    """E in four digits, as JSON can hold it."""
    return float(f"{min(math.exp(min(ln_e, 690.0)), MOST_E):.4g}")


def e_text(ln_e: float) -> str:
    """E for a sentence."""
    value = e_value(ln_e)
    return f"{value:,.3g}" if value < 1e4 else f"{value:.1e}"


# --- conclusions ------------------------------------------------------------------------------------------------------


def _conclusion(experiment: Experiment, report: ReportVerdict | None) -> IntendedAction | None:
    if report is None or report.look is None or report.winner is None or report.verdict != "ship":
        return None
    return IntendedAction(
        Action.CONCLUDE, experiment.name, report.winner, report.as_of, report.reasons, {"verdict": "ship"}
    )


def _look_is_due(around: Surroundings) -> bool:
    report = around.report
    return report is None or (report.next_look is not None and around.newest >= report.next_look)


# --- climbs -----------------------------------------------------------------------------------------------------------


def _climb(
    experiment: Experiment, ramp: AutopilotRamp, evidence: ExperimentEvidence, around: Surroundings
) -> tuple[IntendedAction | None, list[str], bool]:
    """The next step, else why not; and whether only a report of now is missing."""
    row, step = experiment.row_in_force(around.now), evidence.step
    if row is None:
        return None, ["no ramp row is in force yet"], False
    following = next((traffic for traffic in ramp.traffic_bp if traffic > row.traffic_bp), None)
    if following is None:
        return None, [], False
    if later := [one for one in experiment.ramp if one.at > around.now]:
        return None, [f"the file has a row of its own for {time_text(later[0].at)}"], False
    allocation = allocation_in_force(experiment, around.now)
    if step is None or allocation is None or step.allocation != allocation.id:
        return None, ["no router has taken the file's shares yet, as far as the log says"], False
    holds = [*_too_early(ramp, step, around), *_too_few(experiment, evidence, ramp, row.weights_bp, step)]
    holds += [*_doubts(evidence), *around.faults]
    if holds:
        return None, holds, False
    ratios = found_ratios(evidence)
    holds = [
        f"{kind} would have found no less than {_ratio_text(ratio)} control's in {name} with a probability of 80 %"
        for (kind, name), ratio in ratios.items()
        if ramp.detect is not None and not ratio <= ramp.detect
    ]
    if holds:
        return None, holds, False
    report = around.report
    if report is None or report.as_of < max(step.since + _us(ramp.hold), around.newest - _us(ramp.hold) // 4):
        return None, ["a report as of now is not ready yet"], True
    if report.broken:
        return None, [f"the data cannot be judged: {report.broken[0]}"], _grows_old(report, ramp, around)
    return _climbed(experiment, evidence, following, ratios, around), [], False


def _climbed(
    experiment: Experiment,
    evidence: ExperimentEvidence,
    following: int,
    ratios: dict[tuple[str, str], float],
    around: Surroundings,
) -> IntendedAction:
    step = evidence.step
    assert step is not None
    held = (around.newest - step.since) / 3600 / SECOND_US
    users = {evidence.watched.groups[group]: len(users) for group, users in sorted(step.users.items())}
    least = ", ".join(f"{name} {number:,}" for name, number in users.items())
    kept = f"{step.traffic:g} % has been in force for {held:.1f} h with at least these users: {least}"
    reasons = [f"{kept}; no guardrail is above half of its threshold"]
    reasons += [f"{kind} in {name} {_found_text(ratio)}" for (kind, name), ratio in ratios.items()]
    figures: dict[str, Any] = {
        "hours": round(held, 3),
        "users": users,
        "found_with_80_percent": {
            f"{kind}/{name}": None if math.isinf(ratio) else round(ratio, 3) for (kind, name), ratio in ratios.items()
        },
    }
    figures["e"] = {f"{kind}/{name}": e_value(counts.ln_e) for kind, name, counts in standing(evidence)}
    return IntendedAction(Action.CLIMB, experiment.name, None, around.newest, tuple(reasons), figures, following)


def _too_early(ramp: AutopilotRamp, step: Step, around: Surroundings) -> list[str]:
    hold, found = _us(ramp.hold), []
    wall = int(around.now.timestamp() * SECOND_US)
    if around.newest < step.since + hold:
        found.append(f"{step.traffic:g} % is in force since {time_text(moment(step.since))}, and is to be held longer")
    if step.newest is None or wall - step.newest > hold // 4:
        newest = "there is none" if step.newest is None else f"the newest is of {time_text(moment(step.newest))}"
        found.append(f"no call is younger than a quarter of the time that a step is held: {newest}")
    return found


def _too_few(
    experiment: Experiment, evidence: ExperimentEvidence, ramp: AutopilotRamp, weights: Sequence[int], step: Step
) -> list[str]:
    shares = dict(zip((group.name for group in experiment.groups), weights, strict=True))
    return [
        f"{name} has {len(step.users.get(number, ())):,} users in this step, and needs {ramp.users:,}"
        for number, name in enumerate(evidence.watched.groups)
        if shares[name] and len(step.users.get(number, ())) < ramp.users
    ]


def _doubts(evidence: ExperimentEvidence) -> list[str]:
    found = []
    for kind, name, counts in standing(evidence):
        if counts.ln_e > LN_WAITS:
            found.append(f"{kind} of {name} is above half of its threshold (E = {e_text(counts.ln_e)}, acts at 200)")
        if counts.full:
            found.append(f"{kind} of {name} has more users with a bad event than can be remembered")
    return found


def standing(evidence: ExperimentEvidence) -> list[tuple[str, str, Counts]]:
    """Where each guardrail of each treatment stands."""
    return [
        (kind, evidence.watched.groups[number], treatment.guardrails.counts(kind, evidence.newest or 0))
        for number, treatment in evidence.treatments.items()
        if treatment.guardrails is not None
        for kind in treatment.guardrails.events
    ]


def found_ratios(evidence: ExperimentEvidence) -> dict[tuple[str, str], float]:
    """By guardrail and treatment, which ratio of bad events the step's would have found with a probability of 80 %;
    inf: none."""
    step, found = evidence.step, {}
    if step is not None:
        for (number, kind), control in evidence.control_events().items():
            guardrails = evidence.treatments[number].guardrails
            assert guardrails is not None
            events = control - min(step.before.get((number, kind), 0), control)
            halves = 2 if guardrails.counts(kind, evidence.newest or 0).absent is not None else 1
            share = evidence.share(number)
            found[kind, evidence.watched.groups[number]] = found_ratio(events, share, stake=0.5 / halves)
    return found


def _found_text(ratio: float) -> str:
    if math.isinf(ratio):
        return "would have found nothing in this step: control had no bad event"
    return f"of {_ratio_text(ratio)} control's would have been found with a probability of 80 %"


def _ratio_text(ratio: float) -> str:
    return "any multiple of" if math.isinf(ratio) else f"{ratio:.3g} times"


def _grows_old(report: ReportVerdict, ramp: AutopilotRamp, around: Surroundings) -> bool:
    return around.newest - report.as_of > _us(ramp.hold) // 4


def _us(duration: Any) -> int:
    return int(duration.total_seconds() * SECOND_US)
