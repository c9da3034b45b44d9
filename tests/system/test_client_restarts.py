"""A service with the client's wheel alone, while the one router that it has is restarted under it."""

from pathlib import Path

import pytest

from tests.proofs.client import environment, nothing_is_lost, restartable

pytestmark = pytest.mark.system


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_restarts_cost_a_service_nothing(tmp_path: Path, transport: str) -> None:
    """No call fails, each outcome is in the log, none is there twice; from threads and from an event loop."""
    python = environment(tmp_path)
    with restartable(tmp_path, transport) as fleet:
        nothing_is_lost(fleet, python, lambda restarts: restarts < 2)
