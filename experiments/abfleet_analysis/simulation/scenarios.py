"""The made-up experiments by which the analysis is tried, and what the product promises for each. Judges nothing.

Their sums go into the same decision as those of a log.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from abfleet_analysis.decision.evidence import Evidence
from abfleet_analysis.simulation.plain_scenario import PLAN, PlainScenario
from abfleet_analysis.simulation.ramp_scenario import RampScenario

__all__ = ["PLAN", "SCENARIOS", "PlainScenario", "Promise", "RampScenario", "Scenario"]


@dataclass(frozen=True, slots=True)
class Promise:
    """A share of runs and what it may be; `most` or `least`, or neither where it is only shown.

    Attributes:
        outcome: A verdict, `refuse or check_first`, or `interval excludes 0`.
        any_group: Whether every treatment counts, or the one named `experiment` alone.
    """

    outcome: str
    most: float | None = None
    least: float | None = None
    any_group: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """A kind of made-up experiment: its story, how one is drawn, and what is promised of its verdicts."""

    name: str
    story: str
    draw: Callable[[np.random.Generator], Evidence]
    promises: tuple[Promise, ...]


SCENARIOS: Final[Mapping[str, Scenario]] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "no-effect",
            "nothing differs",
            PlainScenario().draw,
            (
                Promise("ship", most=0.025, any_group=True),
                Promise("roll_back", most=0.05, any_group=True),
                Promise("refuse or check_first", most=0.005, any_group=True),
                Promise("interval excludes 0", most=0.05),
            ),
        ),
        Scenario(
            "planned-effect",
            "+10 % conversion, as planned",
            PlainScenario(lift=0.10).draw,
            (Promise("ship", least=0.80),),
        ),
        Scenario("harm", "-10 % conversion", PlainScenario(lift=-0.10).draw, (Promise("roll_back", least=0.90),)),
        Scenario(
            "guardrail-at-margin",
            "+10 % conversion, and slow users +5 %, exactly what is not tolerated",
            PlainScenario(lift=0.10, slow_ratio=1.05).draw,
            (Promise("ship", most=0.05),),
        ),
        Scenario(
            "lost-lines",
            "4 % of the experiment's exposures lost, of users who did not convert",
            PlainScenario(lost=0.04).draw,
            (Promise("ship", most=0.02),),
        ),
        Scenario(
            "errors",
            "errors at twice the tolerated ratio",
            PlainScenario(error_ratio=2.5).draw,
            (Promise("roll_back", least=0.99),),
        ),
        Scenario(
            "too-good-and-broken",
            "+60 % conversion and ten times the errors",
            PlainScenario(lift=0.60, error_ratio=10.0).draw,
            (
                Promise("roll_back", least=0.999),
                Promise("check_first", most=0.001),
            ),
        ),
        Scenario(
            "ramp",
            "10/30/50 %, base rate drifting, users coming back, no effect",
            RampScenario().draw,
            (
                Promise("ship", most=0.025, any_group=True),
                Promise("roll_back", most=0.05, any_group=True),
            ),
        ),
    )
}
