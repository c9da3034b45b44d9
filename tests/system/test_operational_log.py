"""Operational logs of real processes: their form, and their level while they run."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from abfleet_protos.recommender_pb2 import RecommendRequest
from typer.testing import CliRunner

from abfleet.cli import app
from tests.support.fleet import Fleet, Process, experiments_file, wait_until
from tests.support.load import SEED_HISTORY
from tests.support.up import run_abfleet

pytestmark = pytest.mark.system


def lines(process: Process) -> list[dict[str, Any]]:
    """What it has said; every line must be a JSON object."""
    text = process.stderr_path.read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def said(process: Process, event: str, **members: Any) -> list[dict[str, Any]]:
    """Lines with this event and these members."""
    return [line for line in lines(process) if line["event"] == event and members.items() <= line.items()]


def test_the_level_follows_command_and_signals(tmp_path: Path) -> None:
    """`abfleet log-level` and SIGUSR1/2 change what a router says, SIGUSR1/2 a worker; status has the level."""
    with Fleet(tmp_path, experiments=experiments_file(), versions=("v1.2.3",)) as fleet:
        router, (worker,) = fleet.router, fleet.workers.values()
        assert router is not None
        revision = fleet.status().config.revision
        done = run_abfleet("log-level", "debug", "--json", "--admin", fleet.admin_address, folder=tmp_path)
        assert json.loads(done.stdout) == {"admin": fleet.admin_address, "was": "info", "level": "debug"}
        assert fleet.status().log_level == "debug"
        # The other versions' names do not resolve, which is a line at debug.
        wait_until(lambda: said(router, "target does not resolve", level="debug", config_revision=revision), "debug")
        done = run_abfleet("log-level", "default", "--admin", fleet.admin_address, folder=tmp_path)
        assert done.stdout == f"{fleet.admin_address}: debug -> info\n"
        for process, before in ((router, "info"), (worker, "warning")):
            process.popen.send_signal(signal.SIGUSR1)
            wait_until(lambda: said(process, "log level changed", was=before, now="debug"), "SIGUSR1")  # noqa: B023
            process.popen.send_signal(signal.SIGUSR2)
            wait_until(lambda: said(process, "log level changed", was="debug", now=before), "SIGUSR2")  # noqa: B023
        with fleet.stub() as stub:
            stub.Recommend(RecommendRequest(item_ids=SEED_HISTORY), timeout=10)
        worker.kill()
        wait_until(lambda: said(router, "replica health", was="serving", now="lost"), "the loss is said")
        assert all(line["config_revision"] == revision for line in said(router, "replica health", was="serving"))


def test_another_level_is_refused() -> None:
    """The command names the value and what is allowed, and exits with 2."""
    done = CliRunner().invoke(app, ["log-level", "loud"], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert "'loud' is not allowed; allowed: debug, info, warning, error, default" in done.output


def test_console_where_it_is_asked_for(tmp_path: Path) -> None:
    """--log-format console gives lines for people although nobody is at a terminal."""
    experiments = tmp_path / "experiments.yaml"
    experiments.write_text(experiments_file())
    free = ("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--metrics-port", "off")
    for log_format, is_json in (("console", False), ("json", True)):
        flags = ("--experiments", str(experiments), *free, "--log-format", log_format)
        router = Process(f"router-{log_format}", "abfleet_router", flags, tmp_path)
        wait_until(lambda: router.stderr_path.read_text().count("\n"), "a line")  # noqa: B023
        assert router.stop() == 0
        assert router.stderr_path.read_text().startswith("{") == is_json
