"""`--exclude FROM/TO`: windows of time that a report leaves out, from text, and what is wrong with them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from abfleet.commands.experiment_file import loaded, refuse

if TYPE_CHECKING:
    from abfleet_analysis.report.report import Report
    from abfleet_experiments.config import ExcludedWindow

WHY = "--exclude"
"""What a report gives as the reason."""


def excluded_windows(
    texts: Sequence[str] | None, experiments: Path, fleet: Path | None, *, only: str | None
) -> "tuple[ExcludedWindow, ...]":
    """The windows in order of time; refused where they overlap each other, or a window of a reported experiment."""
    if not texts:
        return ()
    from abfleet_experiments.file.read_exclude import window_problem

    (config,) = loaded(experiments, fleet=fleet)
    others = [one for each in config.experiments if only in (None, each.name) for one in each.exclude]
    windows: list[ExcludedWindow] = []
    for text in texts:
        window = _window(text)
        if (problem := window_problem(window, (*windows, *others))) is not None:
            refuse(f"--exclude: {problem}")
        windows.append(window)
    return tuple(sorted(windows, key=lambda one: one.begin))


def _window(text: str) -> "ExcludedWindow":
    from abfleet_experiments.config import ExcludedWindow
    from abfleet_process.declarations.kinds import parse_time

    begin, slash, end = text.partition("/")
    if not slash:
        refuse(f"--exclude: `{text[:64]}` must be FROM/TO, such as 2026-11-08T12:00:00Z/2026-11-08T13:30:00Z")
    try:
        return ExcludedWindow(parse_time(begin), parse_time(end), WHY)
    except (ValueError, OverflowError) as error:
        refuse(f"--exclude: {error}")


def refuse_outside(windows: "Sequence[ExcludedWindow]", report: "Report") -> None:
    """Refuses a window in which no experiment of the report was there, by its first call and the report's moment."""
    from abfleet_experiments.config import time_text

    begins = [one.gathered.allocations[0].begin for one in report.experiments if one.gathered.allocations]
    begins += [
        one.window.begin for each in report.experiments if each.excluded for one in each.excluded.windows if one.calls
    ]
    if report.as_of is None or not begins:
        return
    for window in windows:
        if window.end <= min(begins) or window.begin > report.as_of:
            refuse(
                f"--exclude: {time_text(window.begin)} to {time_text(window.end)} is outside of what is reported: the "
                f"first call was at {time_text(min(begins))}, and the report is as of {time_text(report.as_of)}"
            )
