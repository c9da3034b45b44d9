"""Each call is answered once, with its own answer, on both transports."""

from pathlib import Path

import pytest

from tests.proofs.exactly_once import each_call_gets_its_own_answer
from tests.support.fleet import VERSIONS, Fleet, experiments_file

pytestmark = pytest.mark.system


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_each_call_gets_its_own_answer(tmp_path: Path, transport: str) -> None:
    """Among callers that hang up and callers without time, every answer is the model's for that very history, and the
    log has one line for each call, with the same end."""
    with Fleet(tmp_path, experiments=experiments_file(), transport=transport) as fleet:
        for version in VERSIONS:
            fleet.wait_for_serving(version)
        each_call_gets_its_own_answer(fleet, calls=2500, seed=1)
