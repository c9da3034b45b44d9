"""Clients that share no code with us: `buf curl` (Go) and `@grpc/grpc-js` (Node.js) against a real fleet."""

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from abfleet_experiments.assign import Assigner
from abfleet_experiments.file.load import load

from tests.support.fleet import VERSIONS, Fleet, experiments_file
from tests.support.node_tools import ROOT, buf, node

pytestmark = pytest.mark.system

PROTO = "protos/recommender.proto"
SEED_CALL = '{"item_ids":[1,2,3,10,15]}'
SCHEMAS = pytest.mark.parametrize("schema", [(), ("--schema", PROTO)], ids=["reflection", "proto"])


@pytest.fixture(scope="module", params=["native", "grpcio"])
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Three workers and a router, on each transport."""
    folder = tmp_path_factory.mktemp("fleet")
    with Fleet(folder, experiments=experiments_file(), transport=request.param) as running:
        for version in VERSIONS:
            running.wait_for_serving(version)
        yield running


def curl(fleet: Fleet, method: str, data: str, *arguments: str) -> "tuple[int, Any]":
    """Exit code, and the answer or the error, as JSON."""
    url = f"http://{fleet.address}/{method}"
    done = buf("curl", "--protocol", "grpc", "--http2-prior-knowledge", *arguments, "-d", data, url)
    return done.returncode, json.loads(done.stdout or done.stderr)


@SCHEMAS
def test_the_plain_call_answers(fleet: Fleet, schema: tuple[str, ...]) -> None:
    """A history and nothing else gets ten new items from the default version, with and without reflection."""
    code, answer = curl(fleet, "Recommender/Recommend", SEED_CALL, *schema)
    assert code == 0, answer
    items = [int(item) for item in answer["itemIds"]]
    assert len(set(items)) == 10
    assert not {1, 2, 3, 10, 15} & set(items)
    assert answer["scores"] == sorted(answer["scores"], reverse=True)
    assert answer["modelVersion"] == "v1.2.3"
    assert "experiment" not in answer
    assert answer["requestId"]


@SCHEMAS
def test_a_mistake_is_named(fleet: Fleet, schema: tuple[str, ...]) -> None:
    """An impossible limit is INVALID_ARGUMENT with field, value and what is allowed; never a stack trace."""
    code, error = curl(fleet, "Recommender/Recommend", '{"limit":1000}', *schema)
    assert code != 0
    assert error == {
        "code": "invalid_argument",
        "message": "limit: 1000 is not allowed; allowed: 1 to 100, or 0 for the default of 10",
    }


def test_reflection_lists_what_is_served(fleet: Fleet) -> None:
    """A client that knows nothing finds the services."""
    url = f"http://{fleet.address}"
    done = buf("curl", "--protocol", "grpc", "--http2-prior-knowledge", "--list-services", url)
    assert {"Recommender", "Feedback", "grpc.health.v1.Health"} <= set(done.stdout.split())


def test_health_answers_a_stranger(fleet: Fleet) -> None:
    """The standard health check works through reflection."""
    assert curl(fleet, "grpc.health.v1.Health/Check", "{}") == (0, {"status": "SERVING"})
    assert curl(fleet, "grpc.health.v1.Health/Check", '{"service": "Recommender"}') == (0, {"status": "SERVING"})


def test_user_id_travels_as_metadata(fleet: Fleet) -> None:
    """`x-user-id-bin` carries a name outside ASCII; the same user gets the same group by the message's field."""
    name = "пользователь-7"
    header = f"x-user-id-bin: {base64.b64encode(name.encode()).decode().rstrip('=')}"
    _, by_metadata = curl(fleet, "Recommender/Recommend", "{}", "-H", header)
    _, by_field = curl(fleet, "Recommender/Recommend", json.dumps({"user_id": name}))
    assert by_metadata["group"] == by_field["group"]
    assert by_metadata["modelVersion"] == by_field["modelVersion"]


def test_grpc_js_gets_the_groups_of_the_file(fleet: Fleet) -> None:
    """300 calls at once on one Node.js connection, half by field and half by metadata: each gets the file's group."""
    users = [f"user-{number}" for number in range(150)]
    by_field = [{"request": {"user_id": user, "item_ids": [1, 2, 3, 10, 15]}} for user in users]
    by_metadata = [{"request": {"item_ids": [1]}, "metadata": {"x-user-id": user}} for user in users]
    answers = grpc_js(fleet, [*by_field, *by_metadata])
    assert [answer for answer in answers if "code" in answer] == []
    assigner = Assigner(load(fleet.experiments_path), at=datetime.now(UTC))  # the file has no dated rows
    for user, answer in zip([*users, *users], answers, strict=True):
        arm, _ = assigner.assign(user, {})
        response = answer["response"]
        assert (response["experiment"], response["group"]) == ("homepage-ranking", arm.group)
        assert response["model_version"] == arm.model_version
        assert len(response["item_ids"]) == len(response["scores"]) == 10


def test_grpc_js_sees_status_codes(fleet: Fleet) -> None:
    """Errors arrive as gRPC status with a readable text, and a good call beside them is not touched."""
    good = {"request": {"user_id": "user-1", "limit": 3, "request_id": "mine"}}
    answers = grpc_js(fleet, [good, {"request": {"limit": -1}}, {"request": {"user_id": "a\u0007b"}}, good])
    assert [answer.get("code") for answer in answers] == [None, 3, 3, None]
    assert answers[1]["details"] == "limit: -1 is not allowed; allowed: 1 to 100, or 0 for the default of 10"
    assert answers[2]["details"].startswith("user_id: ")
    assert answers[0]["response"]["request_id"] == "mine"
    assert len(answers[0]["response"]["item_ids"]) == 3


def grpc_js(fleet: Fleet, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the Node.js client gets for these calls, in order."""
    text = json.dumps({"address": fleet.address, "proto": str(ROOT / PROTO), "calls": calls})
    answers: list[dict[str, Any]] = json.loads(node(Path(__file__).with_name("grpc_js_client.js"), text))
    return answers
