"""The promises of the whole procedure, each over 200 made-up experiments, with what chance allows at 0.1 %."""

import numpy as np
import pytest
from abfleet_analysis.decision.decide import decide
from abfleet_analysis.decision.verdicts import Verdict
from abfleet_analysis.simulation.scenarios import PLAN, SCENARIOS, PlainScenario, RampScenario, scenarios_of
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


@pytest.mark.parametrize(("split", "rate", "users_a_day"), [((0.9, 0.1), 0.02, 2000), ((0.95, 0.05), 0.01, 500)])
def test_an_experiment_of_ones_own(split: tuple[float, ...], rate: float, users_a_day: int) -> None:
    """Its shares, rate and users are drawn; errors are promised as ever, and what needs users is not."""
    own = scenarios_of(split, rate, users_a_day)
    evidence = own["no-effect"].draw(np.random.default_rng(1))
    assert evidence.groups == ("control", "experiment")
    assert evidence.users[-1].sum() == users_a_day * 28
    assert evidence.users[-1, 0] / (users_a_day * 28) == pytest.approx(split[0], abs=0.02)
    assert evidence.metrics[0].moments.y[-1].sum() == pytest.approx(rate * users_a_day * 28, rel=0.3)
    assert "ramp" not in own
    assert own["planned-effect"].promises == ()
    found = characteristics(own["no-effect"], list(runs_of(own["no-effect"].draw, runs=RUNS, seed=3)))
    assert [(one.promise.outcome, one.count) for one in found if not one.kept] == []


def test_runs_are_repeatable() -> None:
    """Run i depends on the seed and i alone."""

    def history(runs: int) -> list[object]:
        return [decision.history for decision in runs_of(PlainScenario().draw, runs=runs, seed=9)]

    assert history(3) == history(5)[:3]


def test_a_ramp_with_an_effect_is_found() -> None:
    """The strata that keep a ramp honest do not blind it."""
    evidence = RampScenario(lift=0.30).draw(np.random.default_rng(1))
    assert decide(evidence, PLAN).verdict is Verdict.SHIP
