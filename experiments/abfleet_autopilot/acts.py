"""What the autopilot may want done, and what it waits for. Values; they know neither file nor log."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Action(StrEnum):
    """What is done to an experiment."""

    HALT = "halt"
    CLIMB = "climb"
    CONCLUDE = "conclude"


@dataclass(frozen=True, slots=True)
class IntendedAction:
    """One thing to be done.

    Attributes:
        group: The treatment that is halted or wins; None where traffic climbs.
        as_of: Microseconds since 1970: the line by which the evidence sufficed.
        reasons: In plain words, the deciding one first. figures: What they rest on.
        traffic_bp: Of the next step.
    """

    action: Action
    experiment: str
    group: str | None
    as_of: int
    reasons: tuple[str, ...]
    figures: Mapping[str, Any] = field(default_factory=dict)
    traffic_bp: int | None = None

    def sentence(self) -> str:
        """The act and its first reason as a line for people."""
        what = f"{self.action} {self.experiment}" + (f" {self.group}" if self.group else "")
        if self.traffic_bp is not None:
            what += f" to {self.traffic_bp / 100:g} % of traffic"
        return f"{what}: {self.reasons[0]}"


@dataclass(frozen=True, slots=True)
class TreatmentVerdict:
    """What the newest report says of a treatment.

    Attributes:
        since: When the report first said so without a break. harm: Whether the primary metric is why.
    """

    verdict: str
    since: int
    harm: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReportVerdict:
    """What the newest report says of an experiment, as of a moment in microseconds since 1970.

    Attributes:
        look: The newest look that it includes; None before the first. next_look: When the next one is.
        broken: Why its data cannot be judged; empty if it can. winner: The group to ship; None while there is none.
    """

    as_of: int
    look: int | None
    next_look: int | None
    verdict: str
    winner: str | None
    broken: tuple[str, ...]
    treatments: Mapping[str, TreatmentVerdict]
    reasons: tuple[str, ...] = ()
