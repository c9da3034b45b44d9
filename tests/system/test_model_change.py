"""A release under load on real processes: the alias moves, the workers follow, and no caller notices a thing."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from abfleet_models.registry import Registry
from abfleet_protos.recommender_pb2 import RecommendRequest
from typer.testing import CliRunner

from abfleet.cli import app
from tests.support.fleet import MODELS, Fleet, wait_until
from tests.support.load import SEED_HISTORY, Load
from tests.transport.serving import TRANSPORTS

pytestmark = pytest.mark.system
EXPERIMENTS = {
    "version": 1,
    "default": "production",
    "models": {name: {"target": "dns:///nowhere.invalid:50061"} for name in ("production", "v1.3.0-beta")},
    "experiments": [
        {
            "name": "ranking",
            "groups": [
                {"name": "control", "model": "production", "weight": 80},
                {"name": "experiment", "model": "v1.3.0-beta", "weight": 20},
            ],
        }
    ],
}
MOVES = [("promote", "v1.4.0-rc1"), ("rollback",)] * 3


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """A copy of the registry that ships, to release in."""
    copy = tmp_path / "models"
    shutil.copytree(MODELS, copy, symlinks=True, ignore=shutil.ignore_patterns("abfleet_models"))
    return copy


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_promotions_and_rollbacks_lose_no_call(tmp_path: Path, registry: Path, transport: str) -> None:
    """Three promotions and three rollbacks by the command, with two workers behind the alias: of all calls at 100 a
    second none fails or falls back, both versions have served, each line of the log names the version that the caller
    was told, and in the end the version serves that the alias leads to."""
    folder = tmp_path / "fleet"
    folder.mkdir()
    with Fleet(
        folder,
        experiments=json.dumps(EXPERIMENTS),
        registry=registry,
        versions=("production", "v1.3.0-beta"),
        replicas=2,
        transport=transport,
        worker_flags=("--follow-interval", "0.05"),
    ) as fleet:
        fleet.wait_for_serving("production", 2)
        fleet.wait_for_serving("v1.3.0-beta", 2)
        load = Load(fleet.address, rate=100, prefix="move")

        async def story() -> None:
            for words in MOVES:
                before = len(load.answers)
                result = await asyncio.to_thread(
                    CliRunner().invoke, app, ["models", *words, "--registry", str(registry)]
                )
                assert result.exit_code == 0, result.output
                leads_to = Registry(registry).resolve("production").version

                # Twenty calls of control in a row from the new version: both replicas have changed.
                def settled(before: int = before, leads_to: str = leads_to) -> bool:
                    told = [answer for _, _, answer in load.answers[before:] if answer.group == "control"]
                    return len(told) >= 20 and {answer.model_version for answer in told[-20:]} == {leads_to}

                await asyncio.to_thread(wait_until, settled, f"{leads_to} serves", 60)

        asyncio.run(load.until(story()))
        assert load.errors == []
        served = {answer.request_id: answer for _, _, answer in load.answers}
        assert len(served) == len(load.answers)
        control = {answer.model_version for answer in served.values() if answer.group == "control"}
        assert control == {"v1.2.3", "v1.4.0-rc1"}
        lines = fleet.exposures(len(served))
        assert len(lines) == len(served)
        for line in lines:
            assert (line["status"], line["fallback"]) == ("OK", None)
            assert line["served_version"] == served[line["request_id"]].model_version
            assert line["model_version"] == {"control": "production", "experiment": "v1.3.0-beta"}[line["group"]]
        with fleet.stub() as stub:
            assert stub.Recommend(RecommendRequest(item_ids=SEED_HISTORY), timeout=10).model_version == "v1.2.3"
