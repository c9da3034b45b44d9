"""The windows of time that the analysis of an experiment leaves out, from their values."""

from collections.abc import Iterable, Sequence
from typing import Any

from abfleet_process.declarations.nodes import Findings, Path

from abfleet_experiments.config import ExcludedWindow, RampRow, time_text


def read_exclude(
    findings: Findings, given: Sequence[dict[str, Any] | None], path: Path, ramp: Sequence[RampRow]
) -> tuple[ExcludedWindow, ...]:
    """The windows in order of time, in whatever order they are written."""
    windows: list[ExcludedWindow] = []
    for index, values in enumerate(given):
        if values is None or values["from"] is None or values["to"] is None:
            continue
        window = ExcludedWindow(values["from"], values["to"], values["why"] or "")
        problem = window_problem(window, windows)
        if problem is None and ramp and window.end <= ramp[0].at:
            first = time_text(ramp[0].at)
            problem = f"ends before the first ramp row at {first}, when no user is in the experiment yet"
        if problem is not None:
            findings.add((*path, index), problem)
        windows.append(window)
    return tuple(sorted(windows, key=lambda window: window.begin))


def window_problem(window: ExcludedWindow, others: Iterable[ExcludedWindow]) -> str | None:
    """What is wrong with an excluded window beside others, which may touch it; None if nothing is."""
    begin, end = time_text(window.begin), time_text(window.end)
    if window.begin >= window.end:
        return f"`from` {begin} must be before `to` {end}"
    for other in others:
        if window.begin < other.end and other.begin < window.end:
            both = f"{time_text(other.begin)} to {time_text(other.end)}"
            return f"{begin} to {end} overlaps another window, {both}; write one for both"
    return None
