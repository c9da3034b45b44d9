"""The autopilot of `abfleet up`: started when a file asks for it, by an edit too, and never else."""

import json
from pathlib import Path

import pytest
from abfleet_log.tools.actions import STATE_FILE

from tests.support.fleet import experiments_file, wait_until
from tests.support.up import Up, run_abfleet, tiny_models

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
        wait_until((tmp_path / "logs" / STATE_FILE).exists, "what it waits for", 60.0)
        status = run_abfleet("status", "--json", "--admin", up.admin_address, folder=tmp_path)
        said = json.loads(status.stdout)["autopilot"]
        assert (said["actions"], said["state"]["holds"]) == ([], {"homepage-ranking": []})
        lines = run_abfleet("status", "--admin", up.admin_address, folder=tmp_path).stdout.splitlines()
        assert lines[-2:] == ["  homepage-ranking: nothing holds it", "  it has done nothing yet"]
        log = next((tmp_path / ".abfleet").rglob("autopilot.log"))
        assert log.exists()
    assert not process.is_running()
