"""Which experiments an overview shows: by state, verdict and owner, as its address says."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Final
from urllib.parse import urlencode

from abfleet_analysis.report.report import ExperimentReport, Report
from abfleet_analysis.report.run_state import State

from abfleet_dashboard.pictures.history import NAMES

MOST_LETTERS: Final = 256
"""Of a value in the address: as many as an owner may have."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What is asked for; empty: all. Values that no experiment has match none."""

    state: str = ""
    verdict: str = ""
    owner: str = ""

    def __bool__(self) -> bool:
        return any(getattr(self, one.name) for one in fields(self))

    @property
    def query(self) -> str:
        """The address's part that asks for it, always the same for the same filter."""
        return urlencode({one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name)})

    def has(self, report: ExperimentReport) -> bool:
        """Whether an experiment that the report knows is asked for."""
        return (
            self.state in ("", str(report.run_state.state))
            and self.verdict in ("", str(report.decision.verdict))
            and self.owner in ("", report.owner)
        )

    def has_other(self, state: str, owner: str | None = None) -> bool:
        """Whether one is asked for of which no report says more than its state, and perhaps its owner."""
        return not self.verdict and self.state in ("", state) and self.owner in ("", owner)


@dataclass(frozen=True, slots=True)
class Choice:
    """One select box: its name, its label, and options as value, text and whether it is chosen."""

    name: str
    label: str
    options: tuple[tuple[str, str, bool], ...]


def asked(query: Mapping[str, str]) -> Filter:
    """The filter that an address asks for; other parameters say nothing."""
    return Filter(*(query.get(one.name, "")[:MOST_LETTERS] for one in fields(Filter)))


def choices(report: Report | None, chosen: Filter) -> tuple[Choice, ...]:
    """Select boxes with what some experiment has; a box with nothing to choose between is left out."""
    reports = report.experiments if report is not None else ()
    states = {str(one.run_state.state) for one in reports} | ({str(State.ENDED)} if report and report.ended else set())
    verdicts = {one.decision.verdict for one in reports}
    found = (
        _choice("state", "State", chosen.state, ((str(s), str(s).capitalize()) for s in State if str(s) in states)),
        _choice(
            "verdict",
            "What to do",
            chosen.verdict,
            ((str(v), NAMES[v].partition(",")[0]) for v in NAMES if v in verdicts),
        ),
        _choice("owner", "Owner", chosen.owner, ((o, o) for o in sorted({o.owner for o in reports if o.owner}))),
    )
    return tuple(one for one in found if len(one.options) > 2 or any(on for value, _, on in one.options if value))


def _choice(name: str, label: str, chosen: str, options: Iterable[tuple[str, str]]) -> Choice:
    listed = [*options]
    if chosen and chosen not in {value for value, _ in listed}:
        listed.append((chosen, chosen))
    return Choice(name, label, (("", "All", not chosen), *((value, text, value == chosen) for value, text in listed)))
