"""The verdict at each look, as a strip of time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from abfleet_analysis.decision.verdicts import Verdict
from markupsafe import Markup

from abfleet_dashboard.pictures.picture import DataTable, LegendKey, Picture, few
from abfleet_dashboard.pictures.svg import element, percent

ROW: Final = 34
"""Pixels a row takes."""
NAMES: Final = {
    Verdict.SHIP: "Ship",
    Verdict.PREFER: "Preferred",
    Verdict.ROLL_BACK: "Roll back",
    Verdict.REFUSE: "No conclusion, the data is broken",
    Verdict.CHECK_FIRST: "Check first",
    Verdict.KEEP_RUNNING: "Keep running",
    Verdict.STOP_NO_EFFECT: "Stop, no effect",
    Verdict.INCONCLUSIVE: "Inconclusive",
    Verdict.NO_PREFERENCE: "No preference",
}
_SIGNS: Final = {
    Verdict.SHIP: "M-5 4L0-5L5 4Z",
    Verdict.PREFER: "M-5 4L0-5L5 4Z",
    Verdict.ROLL_BACK: "M-5-4L0 5L5-4Z",
    Verdict.REFUSE: "M-5-3.2L-3.2-5L0-1.8L3.2-5L5-3.2L1.8 0L5 3.2L3.2 5L0 1.8L-3.2 5L-5 3.2L-1.8 0Z",
    Verdict.CHECK_FIRST: "M-1.3-6H1.3V1.5H-1.3ZM-1.5 3.2H1.5V6.2H-1.5Z",
    Verdict.KEEP_RUNNING: "M-4-5L5 0L-4 5Z",
    Verdict.STOP_NO_EFFECT: "M-4.5-4.5H4.5V4.5H-4.5Z",
    Verdict.INCONCLUSIVE: "M-6-1.4H6V1.4H-6Z",
    Verdict.NO_PREFERENCE: "M-4.5-4.5H4.5V4.5H-4.5Z",
}


@dataclass(frozen=True, slots=True)
class VerdictRun:
    """Looks in a row with one verdict; numbers from 1, both included."""

    first: int
    last: int
    verdict: Verdict
    group: str | None


def runs(history: Sequence[tuple[Verdict, str | None]]) -> tuple[VerdictRun, ...]:
    """Looks in a row with the same verdict and group, as one run each."""
    found: list[VerdictRun] = []
    for look, (verdict, group) in enumerate(history, start=1):
        if found and (found[-1].verdict, found[-1].group) == (verdict, group):
            found[-1] = VerdictRun(found[-1].first, look, verdict, group)
        else:
            found.append(VerdictRun(look, look, verdict, group))
    return tuple(found)


def class_of(verdict: Verdict) -> str:
    """The verdict's class of the style sheet."""
    return f"verdict-{str(verdict).replace('_', '-')}"


def sign(verdict: Verdict, *, size: int = 16) -> Markup:
    """A verdict's sign, for readers who do not see its colour; its word always stands beside it."""
    return element(
        "svg",
        element("path", d=_SIGNS[verdict]),
        class_=f"sign {class_of(verdict)}",
        width=size,
        height=size,
        viewBox="-8 -8 16 16",
        aria_hidden="true",
        focusable="false",
    )


def verdicts(
    id_: str, rows: Sequence[tuple[str, Sequence[tuple[Verdict, str | None]]]], planned: int
) -> Picture | None:
    """A row for the experiment and for each treatment, over all looks up to the horizon."""
    if not rows or not rows[0][1]:
        return None
    title = "Verdict at each look"
    looks = max(planned, len(rows[0][1]))
    lines: list[Markup] = []
    for index, (name, history) in enumerate(rows):
        lines += _row(name, runs(history), index * ROW, looks)
    table = tuple(
        (name, f"{run.first}" if run.first == run.last else f"{run.first} to {run.last}", _words(run))
        for name, history in rows
        for run in runs(history)
    )
    said = few([f"{which}: {words}" for _, which, words in table[: len(runs(rows[0][1]))]], "; ")
    done = len(rows[0][1])
    description = f"{done} of {looks} looks so far. {'Look' if done == 1 else 'Looks'} {said}."
    drawing = element(
        "svg",
        element("title", title, id=f"{id_}-t"),
        element("desc", description, id=f"{id_}-d"),
        *lines,
        class_="verdicts",
        role="img",
        aria_labelledby=f"{id_}-t {id_}-d",
        width="100%",
        height=len(rows) * ROW + 18,
    )
    met = [verdict for verdict in Verdict if any(verdict is found for _, history in rows for found, _ in history)]
    return Picture(
        id=id_,
        title=title,
        description=description,
        drawing=element("div", drawing, class_="strip-box"),
        table=DataTable(("Whose", "Looks", "Verdict"), table),
        legend=tuple(LegendKey(sign(verdict), NAMES[verdict]) for verdict in met),
        csv="verdicts",
    )


def _row(name: str, found: Sequence[VerdictRun], top: int, looks: int) -> list[Markup]:
    parts: list[Markup] = [
        element("text", name, x="0", y=top + 11, class_="row-name"),
        element("rect", x="0", y=top + 16, width="100%", height="14", class_="to-come"),
    ]
    for run in found:
        left, width = (run.first - 1) / looks, (run.last - run.first + 1) / looks
        parts.append(
            element(
                "rect",
                element("title", f"{name}, looks {run.first} to {run.last}: {_words(run)}"),
                x=percent(left),
                y=top + 16,
                width=percent(width),
                height="14",
                class_=f"run {class_of(run.verdict)}",
            )
        )
        mark = element("path", d=_SIGNS[run.verdict], class_="run-sign", transform="translate(8 7) scale(0.7)")
        parts.append(element("svg", mark, x=percent(left), y=top + 16, width=percent(width), height="14"))
    return parts


def _words(run: VerdictRun) -> str:
    return NAMES[run.verdict] + (f" ({run.group})" if run.group else "")
