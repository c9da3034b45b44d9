"""The made-up experiments by which the analysis is tried, and what the product promises for each. Judges nothing.

Their sums go into the same decision as those of a log.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from abfleet_analysis.decision.evidence import Evidence
from abfleet_analysis.decision.preference import PreferenceEvidence
from abfleet_analysis.simulation.interleaving_scenario import InterleavingScenario
from abfleet_analysis.simulation.plain_scenario import LOOKS, PLAN, PlainScenario
from abfleet_analysis.simulation.ramp_scenario import RampScenario

__all__ = ["PLAN", "SCENARIOS", "PlainScenario", "Promise", "RampScenario", "Scenario", "scenarios_of"]


@dataclass(frozen=True, slots=True)
class Promise:
    """A share of runs and what it may be; `most` or `least`, or neither where it is only shown.

    Attributes:
        outcome: A verdict, `refuse or check_first`, `interval excludes 0`, or `prefer the better one`.
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
    draw: Callable[[np.random.Generator], Evidence | PreferenceEvidence]
    promises: tuple[Promise, ...]


_HOLDS_ALWAYS: Final = ("no-effect", "guardrail-at-margin")
"""Scenarios whose promises are of any experiment; those of others need users enough."""
HIGHEST_RATE: Final = 0.6
"""Of conversion, so that 60 % more of it are possible."""


def scenarios_of(
    split: tuple[float, ...] | None = None, rate: float | None = None, users_a_day: int | None = None
) -> dict[str, Scenario]:
    """The scenarios, in an experiment with these shares, control's conversion, and users a day over 28 days.

    None leaves what the promises are made for. Elsewhere only errors are promised: how often an effect is found depends
    on the users. The ramp and interleavings have shares of their own, and are left out. Raises ValueError, whose text
    names the argument.
    """
    own = PlainScenario()
    if split is not None:
        if len(split) < 2 or min(split) <= 0 or abs(sum(split) - 1) > 1e-9:
            raise ValueError("split: must be two shares or more, each above 0, that sum to 100, such as 90/10")
        own = replace(own, weights=split)
    if rate is not None:
        if not 0 < rate <= HIGHEST_RATE:
            raise ValueError(f"rate: must be a share of users above 0 and up to {HIGHEST_RATE}, not {rate}")
        own = replace(own, conversion=rate)
    if users_a_day is not None:
        if users_a_day < 1:
            raise ValueError(f"users-a-day: must be 1 or more, not {users_a_day}")
        own = replace(own, users=users_a_day * LOOKS)
    found = {scenario.name: scenario for scenario in _plain(own)}
    if own == PlainScenario():
        return found | {scenario.name: scenario for scenario in (_RAMP, *_INTERLEAVING)}
    return {
        name: scenario if name in _HOLDS_ALWAYS else replace(scenario, promises=()) for name, scenario in found.items()
    }


def _plain(own: PlainScenario) -> tuple[Scenario, ...]:
    return (
        Scenario(
            "no-effect",
            "no difference",
            own.draw,
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
            replace(own, lift=0.10).draw,
            (Promise("ship", least=0.80),),
        ),
        Scenario("harm", "-10 % conversion", replace(own, lift=-0.10).draw, (Promise("roll_back", least=0.90),)),
        Scenario(
            "guardrail-at-margin",
            "+10 % conversion, and slow users at the margin (+5 %)",
            replace(own, lift=0.10, slow_ratio=1.05).draw,
            (Promise("ship", most=0.05),),
        ),
        Scenario(
            "lost-lines",
            "4 % of the exposures lost, all of users who did not convert",
            replace(own, lost=0.04).draw,
            (Promise("ship", most=0.02),),
        ),
        Scenario(
            "errors",
            "errors at twice the tolerated rate",
            replace(own, error_ratio=2.5).draw,
            (Promise("roll_back", least=0.99),),
        ),
        Scenario(
            "too-good-and-broken",
            "+60 % conversion and ten times the errors",
            replace(own, lift=0.60, error_ratio=10.0).draw,
            (
                Promise("roll_back", least=0.999),
                Promise("check_first", most=0.001),
            ),
        ),
    )


_RAMP: Final = Scenario(
    "ramp",
    "shares of 10, 30 and 50 %, a drifting base rate, returning users, no effect",
    RampScenario().draw,
    (
        Promise("ship", most=0.025, any_group=True),
        Promise("roll_back", most=0.05, any_group=True),
    ),
)
_INTERLEAVING: Final = (
    Scenario(
        "interleaving",
        "two lists interleaved, none better, users who click a lot, lists alike in a third of the calls",
        InterleavingScenario().draw,
        (Promise("prefer", most=0.05), Promise("refuse or check_first", most=0.005)),
    ),
    Scenario(
        "interleaving-better",
        "two lists interleaved, items of the other one clicked 20 % more often",
        InterleavingScenario(lift=0.20).draw,
        (Promise("prefer the better one", least=0.80), Promise("refuse or check_first", most=0.005)),
    ),
    Scenario(
        "interleaving-version-dies",
        "two lists interleaved, none better, one version dies on day 3",
        InterleavingScenario(dies=3).draw,
        (Promise("prefer", most=0.05), Promise("refuse or check_first", most=0.005)),
    ),
)
SCENARIOS: Final[Mapping[str, Scenario]] = scenarios_of()
