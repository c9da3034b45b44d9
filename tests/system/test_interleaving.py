"""Lists out of two versions, with real processes: the same at every router, and whatever happens to a version."""

import json
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest
from abfleet_experiments.team_draft import team_draft
from abfleet_log.schema import problems
from abfleet_protos.inference_pb2 import ModelInferRequest, ModelInferResponse
from abfleet_protos.recommender_pb2 import RecommendRequest, RecommendResponse
from abfleet_protos.recommender_pb2_grpc import RecommenderStub

from tests.support.fleet import Fleet, experiments_file, wait_until

pytestmark = pytest.mark.system
FIRST, SECOND = "v1.2.3", "v1.4.0-rc1"


def duel(first: str = FIRST, second: str = SECOND) -> str:
    """Everybody gets both versions' lists as one; `default` is the first of the file that ships."""
    file = json.loads(experiments_file())
    file["log"] = {"items": "item_ids", "outputs": ["scores"]}
    file["experiments"] = [{"name": "duel", "salt": "s", "interleave": [first, second]}]
    return json.dumps(file)


def request(number: int, limit: int = 10, **fields: Any) -> RecommendRequest:
    return RecommendRequest(
        item_ids=[1, 2, 50 + number], user_id=f"user-{number % 7}", request_id=f"r-{number}", limit=limit, **fields
    )


def own_list(fleet: Fleet, version: str, number: int, limit: int = 10) -> list[int]:
    """What a version answers to a call by itself, asked without a router."""
    with grpc.insecure_channel(fleet.worker_addresses[version, 0]) as channel:
        return list(asked(channel, request(number, limit)).item_ids)


def asked(channel: grpc.Channel, call: RecommendRequest) -> RecommendResponse:
    """The answer that comes over a channel."""
    stub = RecommenderStub(channel)  # type: ignore[no-untyped-call]
    answer: RecommendResponse = stub.Recommend(call, timeout=20)
    return answer


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_the_same_list_at_every_router(tmp_path: Path, transport: str) -> None:
    """Two routers answer alike, and as the draft of what the workers say; a longer limit begins with the same; the
    log has it as it was answered, under either transport."""
    with (
        Fleet(tmp_path, experiments=duel(), transport=transport, versions=(FIRST, SECOND)) as fleet,
        fleet.stub() as stub,
    ):
        address, _ = fleet.start_another_router()
        for version in (FIRST, SECOND):
            fleet.wait_for_serving(version)
        with grpc.insecure_channel(address) as channel:
            for number in range(12):
                call = request(number)
                ours, theirs = stub.Recommend(call, timeout=20), asked(channel, call)
                assert ours == theirs
                first, second = (own_list(fleet, version, number) for version in (FIRST, SECOND))
                wanted = team_draft(first, second, 10, salt="s", user_id=call.user_id, request_id=call.request_id)
                assert tuple(ours.item_ids) == wanted.items
                assert (ours.group, ours.model_version, len(ours.scores)) == ("interleaved", "", 10)
                few, many = (stub.Recommend(request(number, limit), timeout=20) for limit in (4, 40))
                assert list(many.item_ids[:10]) == list(ours.item_ids)
                assert list(few.item_ids) == list(ours.item_ids[:4])
        found = fleet.exposures(48)
        assert [line for line in found if problems(line)] == []
        assert len({line["teams"] for line in found}) > 5, "the two versions must differ, or this shows nothing"
        assert {(tuple(line["versions"]), line["model_version"], line["served_version"]) for line in found} == {
            ((FIRST, SECOND), None, None)
        }
        (group,) = [one for one in fleet.status().groups if one.group == "interleaved"]
        assert group.model_version == f"{FIRST} + {SECOND}"
        infers_too(fleet)


def infers_too(fleet: Fleet) -> None:
    """ModelInfer of the same history gives the same items, with the scores of their versions."""
    made = ModelInferRequest(model_name="recommender", id="r-3")
    made.inputs.add(name="history", datatype="INT64", shape=[1, 3]).contents.int64_contents.extend([1, 2, 53])
    made.parameters["user_id"].string_param = "user-3"
    with grpc.insecure_channel(fleet.address) as channel:
        method = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=ModelInferRequest.SerializeToString,
            response_deserializer=ModelInferResponse.FromString,
        )
        answer = method(made, timeout=20)
        plain = asked(channel, request(3))
    (line,) = [line for line in fleet.exposures(50) if line.get("method") == "infer"]
    assert line["items"][:10] == list(plain.item_ids)
    assert len(line["teams"]) == len(line["items"]) == len(line["outputs"]["scores"])
    assert line["outputs"]["scores"][:10] == pytest.approx(list(plain.scores), rel=1e-3)
    assert (answer.model_version, answer.parameters["group"].string_param) == ("", "interleaved")


def test_users_of_traffic_click_on_what_they_are_shown(tmp_path: Path) -> None:
    """Outcomes of `abfleet traffic` join interleaved lists by request id, and items of both teams are clicked."""
    with Fleet(tmp_path, experiments=duel(), versions=(FIRST, SECOND)) as fleet:
        for version in (FIRST, SECOND):
            fleet.wait_for_serving(version)
        words = ("--rate", "300", "--duration", "1.5", "--users", "50", "--delay", "0.1", "--loss", "0")
        command = [sys.executable, "-m", "abfleet", "traffic", "--address", fleet.address, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        wait_until(lambda: not fleet.status().decision_log.buffered, "an empty buffer")
        lines = fleet.log()
    assert re.search(r"duel\s+interleaved\s+both\s+50\s+450", done.stdout), done.stdout
    exposures = {line["request_id"]: line for line in lines if line["event"] == "exposure"}
    credit: Counter[str] = Counter()
    for line in lines:
        if line["event"] == "outcome" and line["type"] == "click":
            shown = exposures[line["request_id"]]
            credit[shown["teams"][shown["items"].index(line["item_id"])]] += 1
    assert len(exposures) == 450
    assert min(credit["A"], credit["B"]) > 10, credit


@pytest.mark.parametrize("dies", [FIRST, SECOND])
def test_a_version_that_dies_costs_no_call(tmp_path: Path, dies: str) -> None:
    """It is killed with calls under way: each is answered, with the other's list where it was not both's, and its line
    says so. When it is back, lists are out of two again."""
    with (
        Fleet(tmp_path, experiments=duel(), versions=(FIRST, SECOND)) as fleet,
        fleet.stub() as stub,
    ):
        for version in (FIRST, SECOND):
            fleet.wait_for_serving(version)
        under_way = [stub.Recommend.future(request(number), timeout=20) for number in range(150)]
        fleet.workers[dies, 0].popen.send_signal(signal.SIGKILL)
        under_way += [stub.Recommend.future(request(number), timeout=20) for number in range(150, 300)]
        assert Counter(one.code().name for one in under_way) == {"OK": 300}
        answers = {one.result().request_id: one.result() for one in under_way}
        fleet.restart_worker(dies)
        fleet.wait_for_serving(dies)
        assert stub.Recommend(request(300), timeout=20).model_version == ""
        lines = {line["request_id"]: line for line in fleet.exposures(301)}
        assert [line for line in lines.values() if problems(line)] == []
        alone = [line for line in lines.values() if "teams" not in line]
        assert alone
        for line in alone:
            (answered,) = {FIRST, SECOND} - {dies}
            assert (line["served_version"], line["fallback"] in ("unavailable", "ejected")) == (answered, True)
        for name, answer in answers.items():
            assert (list(answer.item_ids), answer.model_version) == (
                lines[name]["items"],
                lines[name]["served_version"] or "",
            )
