"""From a node to the windows of time that the analysis of an experiment leaves out."""

from collections.abc import Iterable, Sequence

from abfleet_experiments.config import ExcludedWindow, RampRow, time_text
from abfleet_experiments.file import fields, keys
from abfleet_experiments.file.document import Findings, Node, Path


def read_exclude(
    findings: Findings, node: Node | None, path: Path, ramp: Sequence[RampRow]
) -> tuple[ExcludedWindow, ...]:
    """The windows in order of time, in whatever order they are written."""
    windows: list[ExcludedWindow] = []
    for item, item_path in fields.items(findings, node, path, most=keys.MAX_EXCLUDED):
        values = fields.members(findings, item, item_path, keys.EXCLUDED) or {}
        begin = fields.instant(findings, values.get("from"), (*item_path, "from"))
        end = fields.instant(findings, values.get("to"), (*item_path, "to"))
        why = fields.text(findings, values.get("why"), (*item_path, "why"), longest=256)
        if begin is None or end is None:
            continue
        window = ExcludedWindow(begin, end, why or "")
        problem = window_problem(window, windows)
        if problem is None and ramp and end <= ramp[0].at:
            first = time_text(ramp[0].at)
            problem = f"is over before the first ramp row at {first}, and nobody is in the experiment before that"
        if problem is not None:
            findings.add(item, item_path, problem)
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
