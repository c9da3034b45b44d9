"""The simulated loop: few runs of what takes long in full, `abfleet simulate --autopilot`."""

import json

import pytest
from abfleet_autopilot.simulation import flights, scenarios, summary
from typer.testing import CliRunner

from abfleet.cli import app


@pytest.mark.parametrize("name", ["errors", "wrong", "absent", "slow"])
def test_harm_is_halted_in_time(name: str) -> None:
    """Ten runs each: all of them halted, within what is promised of the median, and some users were harmed."""
    scenario = scenarios()[name]
    found = summary(scenario, list(flights(scenario, runs=10, seed=1)))
    assert found.kept
    assert found.halted == 1
    assert found.harmed > 0


def test_the_same_seed_is_the_same_flight() -> None:
    """Another run is another one."""
    scenario = scenarios()["wrong"]
    first, again = (list(flights(scenario, runs=2, seed=3)) for _ in range(2))
    assert first == again
    assert first[0] != first[1]


def test_the_command_shows_promises_and_fixed_thresholds() -> None:
    """In words and as JSON; a scenario that is not known is named."""
    shown = CliRunner().invoke(app, ["simulate", "--autopilot", "wrong", "--runs", "2"])
    assert shown.exit_code == 0, shown.output
    assert "autopilot         halted 100.0% of 2 runs" in shown.output
    assert "fixed thresholds  halted 100.0%" in shown.output
    document = CliRunner().invoke(app, ["simulate", "--autopilot", "absent", "--runs", "1", "--json"])
    (one,) = json.loads(document.output)
    assert 10 <= one["median_minutes"] <= 10.5
    unknown = CliRunner().invoke(app, ["simulate", "--autopilot", "nonsense"])
    assert (unknown.exit_code, "`nonsense` is not known" in unknown.output) == (2, True)
