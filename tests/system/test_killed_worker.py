"""A worker's process is killed under load and comes back: one outage, which changes no verdict, whoever had it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from abfleet_analysis.analyse import analyse
from abfleet_experiments.file.load import load

from tests.support.fleet import Fleet, experiments_file, wait_until
from tests.support.load import Load

pytestmark = pytest.mark.system
VERSIONS = {"control": "v1.2.3", "experiment": "v1.3.0-beta"}
FEW = 10
"""Failed users of a killed worker; as many with one cause each would roll a treatment back."""
METRICS = {"primary": "ctr", "guardrails": ["error_rate"]}


@pytest.mark.parametrize("killed", VERSIONS)
def test_a_killed_worker_changes_no_verdict(tmp_path: Path, killed: str) -> None:
    """At 40 calls a second the only worker of a version is killed with SIGKILL and started again: its group's users
    fail, the log says of each that the version was unavailable, and the report goes on, with one outage of that
    group and nothing in the wrong answers of the guardrail."""
    version = VERSIONS[killed]
    with Fleet(tmp_path, experiments=experiments_file(50, 50, 0, metrics=METRICS)) as fleet:
        for each in VERSIONS.values():
            fleet.wait_for_serving(each)
        load_ = Load(fleet.address, rate=40, prefix="kill")

        def answered(number: int) -> bool:
            return sum(answer.group == killed and answer.model_version == version for *_, answer in load_.answers) > (
                number
            )

        def failures() -> list[dict[str, Any]]:
            return [line for line in fleet.log() if line.get("group") == killed and line.get("failure")]

        async def story() -> None:
            await asyncio.to_thread(wait_until, lambda: answered(40), "calls before it")
            fleet.workers[version, 0].kill()
            await asyncio.to_thread(wait_until, lambda: len(failures()) >= FEW, "calls that found nobody")
            await asyncio.to_thread(fleet.restart_worker, version)
            before = len(load_.answers)
            await asyncio.to_thread(wait_until, lambda: answered(40) and len(load_.answers) > before + 80, "after it")
            await asyncio.to_thread(fleet.wait_for_serving, version)

        asyncio.run(load_.until(story()))
        fleet.stop()
        lost = failures()
        config = load(fleet.experiments_path, fleet.fleet_path)
    assert {line["failure"] for line in lost} <= {"unavailable", "ejected"}
    assert len({line["user_id"] for line in lost}) >= FEW
    expected = {"UNAVAILABLE"} if killed == "control" else {"OK"}
    assert {line["status"] for line in lost} == expected, "the default has no fallback"
    (report,) = analyse([fleet.log_dir], config).as_dict()["experiments"]  # type: ignore[attr-defined]
    assert report["decision"]["verdict"] == "keep_running", report["decision"]
    assert [(one["group"], one["calls"]) for one in report["outages"]] == [(killed, len(lost))]
    (errors,) = [m for m in report["metrics"] if m["name"] == "error_rate" and m["group"] == "experiment"]
    assert errors["e_value"] < 2, "one outage, and no wrong answer"
