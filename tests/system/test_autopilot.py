"""A fleet with an autopilot beside it: what harms users is halted while calls go on, from the log to the routers."""

import asyncio
import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from abfleet_autopilot.evidence.watched import BLOCK_SECONDS

from tests.analysis.log_lines import LogLines
from tests.support.fleet import Fleet, experiments_file, wait_until
from tests.support.load import Load
from tests.support.process import Process

pytestmark = pytest.mark.system
METRICS = {"primary": "ctr", "guardrails": ["error_rate"]}
TREATMENT, VERSION, NAME = "experiment", "v1.3.0-beta", "homepage-ranking"


@contextmanager
def autopilot(fleet: Fleet, *flags: str) -> Iterator[Process]:
    arguments = [
        *("--experiments", str(fleet.experiments_path), "--fleet", str(fleet.fleet_path)),
        *("--logs", str(fleet.log_dir), "--metrics-port", "0", *flags),
    ]
    process = Process("autopilot", "abfleet_autopilot", arguments, fleet.folder)
    try:
        process.ready()
        yield process
        assert process.stop() == 0
    finally:
        process.kill()


def earlier_minutes(folder: Path, blocks: int = 4) -> None:
    """A log of the last whole blocks: a third of the treatment's answers were wrong. Not enough to act on yet."""
    rng, log = random.Random(1), LogLines()
    now = time.time()
    at = datetime.fromtimestamp(now - now % BLOCK_SECONDS - blocks * BLOCK_SECONDS, UTC)
    of = {"experiment": NAME, "allocation": "0" * 12, "router": "earlier"}
    log.allocation("0" * 12, {"control": 50, TREATMENT: 50}, at, experiment=NAME, router="earlier")
    for number in range(blocks * BLOCK_SECONDS * 3):
        group = ("control", TREATMENT)[number % 2]
        wrong = group == TREATMENT and rng.random() < 0.33
        fate = {"fallback": "model_error"} if wrong else {}
        log.exposure(f"e-{number}", group, at + timedelta(seconds=number / 3), propensity=0.5, **of, **fate)
    folder.mkdir()
    log.write(folder, f"decisions-earlier-{at:%Y%m%dT%H%M%S}000000Z-1.jsonl")


def halt_lines(fleet: Fleet) -> list[dict[str, Any]]:
    """Allocations of the router in which the experiment takes nobody."""
    return [line for line in fleet.log() if line["event"] == "allocation" and line["traffic"] == 0]


def seconds(line: dict[str, Any], name: str = "ts") -> float:
    return datetime.fromisoformat(line[name]).timestamp()


@pytest.mark.parametrize("harm", ["wrong answers", "no answers"])
def test_harm_is_halted_within_seconds_of_the_evidence(tmp_path: Path, harm: str) -> None:
    """A worker begins to give wrong answers in a tenth of its calls, or stops answering: from the line with which the
    evidence suffices to the router's new allocation it takes seconds, and no user of control has failed."""
    absent = "2s" if harm == "no answers" else "10m"
    text = experiments_file(50, 50, 0, metrics=METRICS, autopilot={"absent": absent})
    if harm == "wrong answers":
        earlier_minutes(tmp_path / "logs")
    with Fleet(tmp_path, experiments=text, bent=True, versions=("v1.2.3", VERSION)) as fleet:
        for version in ("v1.2.3", VERSION):
            fleet.wait_for_serving(version)
        load = Load(fleet.address, rate=100, prefix="pilot")

        async def story() -> None:
            await asyncio.to_thread(wait_until, lambda: len(load.answers) > 100, "calls before it")
            if harm == "wrong answers":
                fleet.bend(VERSION, fail_share=0.1)
            else:
                fleet.workers[VERSION, 0].kill()
            await asyncio.to_thread(wait_until, lambda: halt_lines(fleet), "the halt", 90.0)
            before = len(load.answers)
            await asyncio.to_thread(wait_until, lambda: len(load.answers) > before + 50, "calls after it")

        with autopilot(fleet):
            asyncio.run(load.until(story()))
        fleet.stop()
        lines = fleet.log()
    (path,) = fleet.log_dir.glob("actions-*.jsonl")
    action, done = [json.loads(line) for line in path.read_text().splitlines()]
    assert (action["action"], action["group"], done["outcome"]) == ("halt", TREATMENT, "edited")
    (halted,) = [line for line in lines if line["event"] == "allocation" and line["traffic"] == 0]
    assert halted["config_revision"] == action["revision_after"]
    assert seconds(action, "as_of") <= seconds(action) <= seconds(halted)
    calls = [line for line in lines if line["event"] == "exposure" and line["router"] != "earlier"]
    assert {line["status"] for line in calls if line["group"] == "control"} == {"OK"}
    harmed = {line["user_id"] for line in calls if line["group"] == TREATMENT and line.get("failure")}
    assert harmed, "somebody was"
    assert all(line["group"] is None for line in calls if seconds(line) > seconds(halted) + 1)
    took = seconds(halted) - seconds(action, "as_of")
    print(f"{harm}: from the sufficient line to the allocation {took:.1f} s; {len(harmed)} users harmed")
