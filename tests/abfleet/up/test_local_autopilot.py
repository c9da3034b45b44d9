"""The autopilot of `abfleet up`: started when a file asks for it, by an edit too, and never else."""

from pathlib import Path

import pytest

from tests.support.fleet import experiments_file, wait_until
from tests.support.up import Up, tiny_models

pytestmark = pytest.mark.system


def test_the_autopilot_runs_while_an_experiment_asks_for_one(tmp_path: Path) -> None:
    """Nothing is started without the key; an edit that adds it starts one, and the end of `up` is its end."""
    registry = tiny_models(tmp_path / "models")
    with Up(tmp_path, registry) as up:
        up.ready()
        assert not any("abfleet_autopilot" in process.cmdline() for process in up.children())
        up.edit(experiments_file(autopilot={}))
        up.wait_for("the autopilot watches homepage-ranking")
        (process,) = wait_until(
            lambda: [one for one in up.children() if "abfleet_autopilot" in one.cmdline()[:4]], "the autopilot", 60.0
        )
        log = next((tmp_path / ".abfleet").rglob("autopilot.log"))
        assert log.exists()
    assert not process.is_running()
