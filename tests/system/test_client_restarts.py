"""A service with the client's wheel alone, while the one router that it has is restarted under it."""

from pathlib import Path

import pytest

from tests.proofs.client import environment, nothing_is_lost, restartable

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the client's wheel, and nothing else of abfleet."""
    return environment(tmp_path_factory.mktemp("service"))


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_restarts_cost_a_service_nothing(tmp_path: Path, python: Path, transport: str) -> None:
    """No call fails, each outcome is in the log, none is there twice; from threads and from an event loop."""
    with restartable(tmp_path, transport) as fleet:
        nothing_is_lost(fleet, python, lambda restarts: restarts < 2, longest_gap_seconds=0.3, calls_between=50)
