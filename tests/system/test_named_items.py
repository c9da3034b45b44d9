"""Items by name, end to end: any CSV trained, served, recorded, logged and concluded on, by real processes."""

import asyncio
import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from abfleet_client import AsyncRecommender, Outcome
from abfleet_protos import inference_pb2 as inference
from abfleet_protos.recommender_pb2 import RecommendRequest

from tests.support.fleet import Fleet, wait_until
from tests.transport.serving import TRANSPORTS
from tests.worker.tensors.infer_calls import arrays, request
from tests.worker.worker_process import PATIENCE_SECONDS

pytestmark = pytest.mark.system
NAMES = ("B00-café", "SKU 2", "3", 'with "quotes", and commas', "red", "blue", "green")
EXPERIMENTS = """
version: 1
default: shop-v1.2.3
log: {items: item_ids}
models:
  shop-v1.2.3: {target: "127.0.0.1:1"}
  shop-v1.3.0-beta: {target: "127.0.0.1:1"}
  num-v1.3.0-beta: {target: "127.0.0.1:1"}
experiments:
  - name: ranking
    overrides: {forced: treatment}
    groups: [{name: control, model: shop-v1.2.3, weight: 50}, {name: treatment, model: TREATMENT, weight: 50}]
    metrics: {primary: ctr}
"""


def abfleet(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """Runs the command, which must end well."""
    command = [sys.executable, "-m", "abfleet", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended


def experiments(treatment: str = "shop-v1.3.0-beta") -> str:
    return EXPERIMENTS.replace("TREATMENT", treatment)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions of a shop with names, and one with numbers, trained by the command from files as anybody has them."""
    folder = tmp_path_factory.mktemp("named")
    root = folder / "models"
    for prefix, items, kinds in (("shop-", NAMES, ("item-cosine", "ease")), ("num-", range(1, 8), ("ease",))):
        file = folder / f"{prefix}orders.csv"
        with file.open("w", newline="", encoding="utf-8") as out:
            rows = csv.writer(out)
            rows.writerow(["at", "customer", "sku", "price"])
            for user in range(12):
                for step in range(4):
                    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=user * 10 + step)
                    rows.writerow([at.isoformat(), f"customer {user}", items[(user + step * step) % 7], 9.5])
        columns = ("--user-column", "customer", "--item-column", "sku", "--time-column", "at")
        only = [word for kind in kinds for word in ("--only", kind)]
        abfleet(
            *("models", "train", "--data", file, "--out", root, "--min-ratings", 1, *columns),
            *("--version-prefix", prefix, *only),
        )
    return root


@pytest.fixture(scope="module", params=TRANSPORTS)
def fleet(request: pytest.FixtureRequest, registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    versions = ("shop-v1.2.3", "shop-v1.3.0-beta", "num-v1.3.0-beta")
    with Fleet(
        tmp_path_factory.mktemp("fleet"),
        experiments=experiments(),
        registry=registry,
        versions=versions,
        transport=request.param,
        router_flags=("--default-deadline", "30", "--attempt-timeout", "20"),
    ) as running:
        running.wait_for_serving("shop-v1.3.0-beta")
        running.wait_for_serving("num-v1.3.0-beta")
        yield running


def refused(fleet: Fleet, message: RecommendRequest) -> str:
    with fleet.stub() as stub, pytest.raises(grpc.RpcError) as raised:
        stub.Recommend(message, timeout=PATIENCE_SECONDS)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return str(raised.value.details())


def line_of(fleet: Fleet, event: str, **fields: Any) -> dict[str, Any]:
    """The first line of a kind with these values."""

    def found() -> list[dict[str, Any]]:
        return [
            line
            for line in fleet.log()
            if line["event"] == event and all(line.get(name) == value for name, value in fields.items())
        ]

    line: dict[str, Any] = wait_until(found, f"{event} with {fields}")[0]
    return line


def test_names_go_in_and_come_out(fleet: Fleet) -> None:
    """Whatever is in them; what nobody knows is ignored; the log has names and no numbers."""
    with fleet.stub() as stub:
        asked = RecommendRequest(user_id="u", items=[NAMES[0], "nobody knows it", NAMES[3]], limit=4, request_id="in")
        answer = stub.Recommend(asked, timeout=PATIENCE_SECONDS)
        cold = stub.Recommend(RecommendRequest(user_id="u", limit=100), timeout=PATIENCE_SECONDS)
    assert set(cold.items) == set(NAMES)
    assert (len(answer.items), len(answer.scores), list(answer.item_ids)) == (4, 4, [])
    assert not {NAMES[0], NAMES[3]} & set(answer.items)
    assert answer.model_version.startswith("shop-")
    line = line_of(fleet, "exposure", request_id="in")
    assert (line["items"], line["item_names"], line["history_length"]) == (None, list(answer.items), 3)


def test_traffic_with_names(fleet: Fleet, registry: Path) -> None:
    """Every call is answered, and clicks name items that the log can join."""
    names = registry / "shop-v1.2.3" / "items.txt"
    traffic = ("--rate", 100, "--duration", 1, "--users", 20, "--delay", 0.1, "--loss", 0, "--run", "by-name", "--json")
    summary = json.loads(abfleet("traffic", "--address", fleet.address, "--item-names", names, *traffic).stdout)
    assert (summary["answered"], summary["errors"]) == (100, {})
    assert summary["outcomes"]["rejected"] == 0
    click = line_of(fleet, "outcome", type="click")
    assert (click["item_id"], click["item_name"] in NAMES) == (None, True)


def test_the_other_kind_is_refused(fleet: Fleet) -> None:
    """Numbers, and both in one request: the field is named, and what is allowed."""
    numbers = RecommendRequest(user_id="u", item_ids=[1, 2], request_id="numbers")
    assert refused(fleet, numbers) == (
        "item_ids: numbers are not allowed; items of this version have names, which go into items"
    )
    line = line_of(fleet, "exposure", request_id="numbers")
    assert (line["status"], line["fallback"], line["items"]) == ("INVALID_ARGUMENT", None, [])
    both = RecommendRequest(user_id="u", item_ids=[1], items=["red"], request_id="both")
    assert "items: 'red' is not allowed; allowed: names in items, or numbers in item_ids" in refused(fleet, both)
    assert line_of(fleet, "rejected", request_id="both")["field"] == "items"


def test_tensors_have_names_too(fleet: Fleet) -> None:
    """Over the Open Inference Protocol histories and items are BYTES, and the log has the names."""
    path = "/inference.GRPCInferenceService/"
    history = np.array([["", NAMES[0]], ["nobody knows it", "red"]], dtype=object)
    message = request({"history": history}, model_name="recommender", id="tensors", model_version="shop-v1.2.3")
    with grpc.insecure_channel(fleet.address) as channel:
        infer = channel.unary_unary(
            f"{path}ModelInfer", inference.ModelInferRequest.SerializeToString, inference.ModelInferResponse.FromString
        )
        found = arrays(infer(message, timeout=PATIENCE_SECONDS))
        about = channel.unary_unary(
            f"{path}ModelMetadata",
            inference.ModelMetadataRequest.SerializeToString,
            inference.ModelMetadataResponse.FromString,
        )(inference.ModelMetadataRequest(name="recommender"), timeout=PATIENCE_SECONDS)
    assert [(one.name, one.datatype) for one in (*about.inputs, *about.outputs)] == [
        ("history", "BYTES"),
        ("item_ids", "BYTES"),
        ("scores", "FP32"),
    ]
    items = found["item_ids"].tolist()
    assert set(items[0]) == {"", *NAMES} - {NAMES[0]}
    assert set(items[1]) == {"", *NAMES} - {"red"}
    line = line_of(fleet, "exposure", request_id="tensors")
    assert (line["items"], line["item_names"]) == (None, [item for row in items for item in row if item])


def test_outcomes_by_name_lead_to_a_conclusion(fleet: Fleet) -> None:
    """Clicks by name count on the lists that have them; the tools of the log read them, and so does the analysis."""

    async def clicked() -> AsyncRecommender:
        async with AsyncRecommender(fleet.address) as client:
            for user, answer in answers.items():
                item = answer.items[0] if answer.group == "treatment" else "on no list"
                await client.record("click", outcome_id=f"click-{user}", user_id=user, request_id=user, item=item)
            both = Outcome(outcome_id="both", user_id="user-0", type="click", item="red", item_id=3)
            await client.record_outcome(both)
        return client

    with fleet.stub() as stub:
        answers = {
            f"user-{number}": stub.Recommend(
                RecommendRequest(user_id=f"user-{number}", request_id=f"user-{number}", items=["red"]),
                timeout=PATIENCE_SECONDS,
            )
            for number in range(60)
        }
    tally = asyncio.run(clicked()).outcomes
    assert (tally.accepted, tally.rejected) == (60, 1)
    line = line_of(fleet, "outcome", outcome_id="click-user-0")
    assert (line["item_id"], "item_name" in line) == (None, True)
    sound = json.loads(abfleet("logs", "check", "--logs", fleet.log_dir, "--json").stdout)
    assert (sound["sound"], sound["problems"]) == (True, {})
    assert f"item {line['item_name']}" in abfleet("logs", "user", "user-0", "--logs", fleet.log_dir).stdout
    report = json.loads(
        abfleet(
            *("analyze", "--experiments", fleet.experiments_path, "--fleet", fleet.fleet_path),
            *("--logs", fleet.log_dir, "--json"),
        ).stdout
    )
    (experiment,) = report["experiments"]
    (ctr,) = [one for one in experiment["metrics"] if one["name"] == "ctr" and one["role"] == "primary"]
    assert ctr["baseline_value"] == 0
    assert ctr["value"] > 0.5
    assert experiment["decision"]["verdict"] == "keep_running"


def test_versions_must_agree(fleet: Fleet) -> None:
    """An edit that brings a version with numbers beside names stays out, and the status says which has what."""
    before = fleet.status().config.revision
    fleet.edit(experiments("num-v1.3.0-beta"))
    said = "item ids differ: shop-v1.2.3 has names, num-v1.3.0-beta has numbers"
    wait_until(lambda: any(said in error for error in fleet.status().config.errors), "the status says it")
    assert fleet.status().config.revision == before
    line = line_of(fleet, "reload", active=False)
    assert said in line["errors"][0]
    with fleet.stub() as stub:
        assert stub.Recommend(RecommendRequest(user_id="forced"), timeout=PATIENCE_SECONDS).items
    fleet.edit(experiments())
    wait_until(lambda: not fleet.status().config.errors, "the old file is taken")


def test_the_command_takes_names(fleet: Fleet) -> None:
    """Of a comma in a name, quotes take care."""
    names = f'red,"{NAMES[3]}"'.replace('with "quotes", and', 'with ""quotes"", and')
    asked = ("client", "--address", fleet.address, "--user-id", "u", "--item-names", names)
    found = json.loads(abfleet(*asked, "--limit", 100, "--json").stdout)
    assert set(found["item_names"]) == set(NAMES) - {"red", NAMES[3]}
    assert found["item_ids"] == []
    assert "blue" in abfleet(*asked).stdout
