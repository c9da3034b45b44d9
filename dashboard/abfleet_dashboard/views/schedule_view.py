"""When an experiment began, is looked at next, may be shipped and ends: dates for the head of its page."""

from abfleet_analysis.decision.verdicts import Verdict
from abfleet_analysis.report.report import ExperimentReport
from abfleet_analysis.report.run_state import State

from abfleet_dashboard.numbers import instant
from abfleet_dashboard.views.words import state_words


def schedule(report: ExperimentReport) -> tuple[tuple[str, str], ...]:
    """Pairs of a name and a text, in the order of time; only what is known, and what is still to come."""
    state, waits = report.run_state, report.waiting
    found = [("State", state_words(report))]
    if report.gathered.allocations and (state.state is not State.RUNNING or state.since is None):
        found.append(("First call", instant(report.gathered.allocations[0].begin)))
    if state.state is not State.RUNNING:
        return tuple(found)
    if waits.next_look is not None:
        found.append(("Next look", instant(waits.next_look)))
    if waits.earliest_ship is not None and report.decision.verdict is Verdict.KEEP_RUNNING:
        found.append(("Earliest date to ship", instant(waits.earliest_ship)))
    if waits.next_look is not None:
        found.append(("Last look", instant(waits.horizon_ends)))
    elif report.gathered.allocations:
        found.append(("Last look", f"{instant(waits.horizon_ends)}, which has passed"))
    return tuple(found)
