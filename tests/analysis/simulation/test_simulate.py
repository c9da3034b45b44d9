"""The promises of the whole procedure, each over 200 made-up experiments, with what chance allows at 0.1 %."""

import numpy as np
import pytest
from abfleet_analysis.decision.decide import decide
from abfleet_analysis.decision.verdicts import Verdict
from abfleet_analysis.simulation.scenarios import PLAN, SCENARIOS, PlainScenario, RampScenario
from abfleet_analysis.simulation.simulate import characteristics, runs_of

RUNS = 200


@pytest.mark.parametrize("name", SCENARIOS)
def test_promises_are_kept(name: str) -> None:
    """Each outcome that a scenario names falls as often as promised."""
    scenario = SCENARIOS[name]
    found = characteristics(scenario, list(runs_of(scenario.draw, runs=RUNS, seed=3)))
    promised = [one for one in found if one.promise.most is not None or one.promise.least is not None]
    assert len(promised) == len(scenario.promises)
    assert [(one.promise.outcome, one.count) for one in promised if not one.kept] == []


def test_the_tolerance_can_fail() -> None:
    """The same check on a scenario that breaks its promise: with an effect, `no effect` ships far too often."""
    decisions = list(runs_of(PlainScenario(lift=0.10).draw, runs=50, seed=3))
    found = characteristics(SCENARIOS["no-effect"], decisions)
    assert not next(one for one in found if one.promise.outcome == "ship").kept


def test_runs_are_repeatable() -> None:
    """Run i depends on the seed and i alone."""

    def history(runs: int) -> list[object]:
        return [decision.history for decision in runs_of(PlainScenario().draw, runs=runs, seed=9)]

    assert history(3) == history(5)[:3]


def test_a_ramp_with_an_effect_is_found() -> None:
    """The strata that keep a ramp honest do not blind it."""
    evidence = RampScenario(lift=0.30).draw(np.random.default_rng(1))
    assert decide(evidence, PLAN).verdict is Verdict.SHIP
