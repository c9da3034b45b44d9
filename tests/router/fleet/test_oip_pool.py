"""Servers of the Open Inference Protocol as pools, over real sockets: what they are sent, and what callers get back."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from abfleet_experiments.config import ModelTarget, OipModel
from abfleet_protos.inference_pb2 import ModelInferRequest, ModelInferResponse
from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_router.fleet.health_watch import ReplicaHealth
from abfleet_router.settings import RoutingSettings
from abfleet_transport.call import Code

from tests.router.fakes import FakeCall
from tests.router.live import LiveRouter
from tests.router.place import until
from tests.router.stub_worker import StubWorker
from tests.support.oip_server import ITEMS, OipServer

PATIENT = RoutingSettings(name="router-1", attempt_timeout_seconds=20, default_deadline_seconds=30)


def config(worker: str, *servers: str) -> str:
    """v1 is a worker, v3 a model of the servers; users say which they get."""
    targets = ", ".join(f'"{server}"' for server in servers)
    return f"""
version: 1
default: v1
models:
  v1: {{target: "{worker}"}}
  v3: {{target: [{targets}], protocol: oip, model: ranker, version: "3", log: {{items: item_ids, outputs: [x]}}}}
experiments:
  - name: ranking
    overrides: {{on-v1: control, on-v3: treatment}}
    groups: [{{name: control, model: v1, weight: 50}}, {{name: treatment, model: v3, weight: 50}}]
"""


@pytest.fixture
async def worker() -> AsyncIterator[StubWorker]:
    """Of v1."""
    one = await StubWorker("v1").start()
    yield one
    await one.stop()


@pytest.fixture
async def server() -> AsyncIterator[OipServer]:
    """Version 3 of the ranker."""
    one = await OipServer().start()
    yield one
    await one.stop()


def message(parameters: Mapping[str, str] | None = None, **fields: Any) -> bytes:
    """A request for the model of the router."""
    made = ModelInferRequest(**{"model_name": "recommender", "raw_input_contents": [b"\1\2\3\4"], **fields})
    made.inputs.add(name="x", datatype="INT32", shape=[1])
    for name, value in (parameters or {}).items():
        made.parameters[name].string_param = value
    encoded: bytes = made.SerializeToString()
    return encoded


async def ask(live: LiveRouter, payload: bytes, *, user: str = "on-v3", method: int = 1) -> FakeCall:
    """A call and its answer."""
    now = time.monotonic()
    call = FakeCall(payload, now, now + 30, (("x-user-id", user),), method=method)
    live.router.on_calls([call])
    async with asyncio.timeout(30):
        while not call.answers:
            await asyncio.sleep(0.001)
    return call


async def recommend(live: LiveRouter, **fields: Any) -> FakeCall:
    request = RecommendRequest(**fields)
    return await ask(live, request.SerializeToString(), method=0)


def line(live: LiveRouter) -> dict[str, Any]:
    """The newest of the log."""
    assert live.log.problems == []
    return live.log.exposures()[-1]


async def test_the_callers_bytes_and_the_servers_tensors_pass(worker: StubWorker, server: OipServer) -> None:
    """The request has the server's names at its end, the answer the caller's; nothing else differs."""
    payload = message(id="r-1", model_version="v3", raw_input_contents=[bytes(range(200))])
    async with LiveRouter(config=config(worker.address, server.address), settings=PATIENT) as live:
        call = await ask(live, payload)
        assert isinstance(call.only, bytes), call.only
        answer = ModelInferResponse.FromString(call.only)
        assert server.seen == [payload + b"\x0a\x06ranker\x12\x013"]
        assert (answer.model_name, answer.model_version, answer.id) == ("recommender", "v3", "r-1")
        assert answer.parameters["experiment"].string_param == ""
        assert list(answer.raw_output_contents) == [bytes(range(200))]
        await ask(live, message(id="r-2"))
        written = line(live)
        assert (written["served_version"], written["model_version"], written["fallback"]) == ("v3", "v3", None)
        assert (written["method"], written["group"], written["status"]) == ("infer", "treatment", "OK")
        assert written["outputs"] == {"x": [0x04030201]}


async def test_a_pool_without_a_version_takes_the_servers_choice(worker: StubWorker, server: OipServer) -> None:
    """An empty version counts against the one that the caller named, and any version may answer."""
    server.answers_as = "17"
    text = config(worker.address, server.address).replace(', version: "3"', "")
    async with LiveRouter(config=text, settings=PATIENT) as live:
        call = await ask(live, message(model_version="v3"))
        assert isinstance(call.only, bytes), call.only
        assert ModelInferRequest.FromString(server.seen[-1]).model_version == ""
        assert ModelInferResponse.FromString(call.only).model_version == "v3"


@pytest.mark.parametrize("code", [Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION, Code.UNIMPLEMENTED])
async def test_a_callers_fault_passes_unchanged(worker: StubWorker, server: OipServer, code: Code) -> None:
    """At once, as the server said it; nobody is blamed."""
    async with LiveRouter(config=config(worker.address, server.address), settings=PATIENT) as live:
        call = await ask(live, message({"fail": code.name}))
        assert (call.code, getattr(call.only, "message", "")) == (code, f"it was to fail with {code.name}")
        assert live.fleet.pools["v3"].replicas[0].record.failures_in_a_row == 0
        assert (line(live)["status"], line(live)["attempts"]) == (code.name, 1)


@pytest.mark.parametrize("code", [Code.INTERNAL, Code.UNKNOWN, Code.NOT_FOUND, Code.DATA_LOSS])
async def test_a_servers_fault_falls_back_or_passes(worker: StubWorker, server: OipServer, code: Code) -> None:
    """The default version answers; where the caller wants this one, the server's words reach it."""
    async with LiveRouter(config=config(worker.address, server.address), settings=PATIENT) as live:
        # A worker that knows no tensors says so: what matters is that it was asked.
        await ask(live, message({"fail": code.name}))
        assert (line(live)["fallback"], line(live)["status"]) == ("model_error", "UNIMPLEMENTED")
        call = await ask(live, message({"fail": code.name}, model_version="v3"))
        assert (call.code, getattr(call.only, "message", "")) == (code, f"it was to fail with {code.name}")
        assert (line(live)["status"], line(live)["fallback"]) == (code.name, None)
        assert live.fleet.pools["v3"].replicas[0].record.failures_in_a_row > 0


@pytest.mark.parametrize("named", ["2", "v3"])
async def test_an_answer_of_another_version_is_refused(worker: StubWorker, server: OipServer, named: str) -> None:
    """Even where it is named as the file names the pool: what the file says of the server counts."""
    async with LiveRouter(config=config(worker.address, server.address), settings=PATIENT) as live:
        await ask(live, message({"as_version": named}))
        assert line(live)["fallback"] == "model_error"
        assert not live.fleet.pools["v3"].available


async def test_recommend_becomes_tensors(worker: StubWorker, server: OipServer) -> None:
    """`history` INT64 [1, n] in, items and scores out, as many as the caller wants; asked once what the model takes."""
    async with LiveRouter(config=config(worker.address, server.address), settings=PATIENT) as live:
        for limit in (0, 1, 15, 100):
            call = await recommend(live, item_ids=[1, 2, 3], user_id="on-v3", request_id="r-1", limit=limit)
            sent = ModelInferRequest.FromString(server.seen[-1])
            assert (sent.model_name, sent.model_version, sent.id) == ("ranker", "3", "r-1")
            assert [(one.name, one.datatype, list(one.shape)) for one in sent.inputs] == [("history", "INT64", [1, 3])]
            count = min(limit or 10, ITEMS)
            assert list(call.response.item_ids) == list(range(7, 7 + count))
            assert list(call.response.scores) == [float(ITEMS - place) for place in range(count)]
            assert (call.response.model_version, call.response.group) == ("v3", "treatment")
            assert line(live)["items"] == list(call.response.item_ids)
            assert (line(live)["served_version"], line(live)["history_length"]) == ("v3", 3)
        assert (await recommend(live, user_id="on-v3")).response.item_ids[0] == 1
        assert server.asked.count("ModelMetadata") == 1


@pytest.mark.parametrize(
    ("signature", "why"),
    [
        ("features", "it takes `features` FP32[-1, 4], and Recommend has `history` INT64[1, n] alone"),
        ("unknown", "the model's answer has no numbers in an output `item_ids`, which Recommend needs"),
    ],
)
async def test_a_model_that_cannot_recommend_says_why(worker: StubWorker, signature: str, why: str) -> None:
    """FAILED_PRECONDITION, from its signature or, where it gives none, from its answer; ModelInfer goes on."""
    server = await OipServer(signature=signature).start()
    async with LiveRouter(config=config(worker.address, server.address), settings=PATIENT) as live:
        call = await recommend(live, item_ids=[1], user_id="on-v3")
        assert call.code is Code.FAILED_PRECONDITION
        assert why in str(call.only)
        assert live.fleet.pools["v3"].replicas[0].record.failures_in_a_row == 0
        assert (line(live)["status"], line(live)["fallback"]) == ("FAILED_PRECONDITION", None)
        assert (await ask(live, message())).code is Code.OK
    await server.stop()


async def test_a_server_that_says_nothing_of_its_model_is_tried(worker: StubWorker) -> None:
    """MLServer and KServe say nothing unless their models are made to."""
    server = await OipServer(signature="undeclared").start()
    async with LiveRouter(config=config(worker.address, server.address), settings=PATIENT) as live:
        assert list((await recommend(live, item_ids=[1], user_id="on-v3", limit=2)).response.item_ids) == [2, 3]
    await server.stop()


async def test_a_model_is_in_while_it_says_that_it_is_ready(worker: StubWorker, server: OipServer) -> None:
    """Not ready, ready, stopped, back: the pool follows, and calls go elsewhere meanwhile."""
    async with LiveRouter(config=config(worker.address, server.address), settings=PATIENT) as live:
        pool = live.fleet.pools["v3"]
        server.ready = False
        await until(pool, lambda: not pool.available)
        assert pool.replicas[0].health is ReplicaHealth.NOT_SERVING
        await ask(live, message())
        assert line(live)["fallback"] == "unavailable"
        server.ready = True
        await until(pool, lambda: len(pool.available) == 1)
        await server.stop()
        await until(pool, lambda: not pool.available)
        server.signature = "features"
        await server.start()
        await until(pool, lambda: len(pool.available) == 1)
        assert (await recommend(live, item_ids=[1], user_id="on-v3")).code is Code.FAILED_PRECONDITION


async def test_a_server_without_the_model_is_no_replica(worker: StubWorker, server: OipServer) -> None:
    """It says NOT_FOUND; the pool has nobody, and the log of operations says why."""
    server.version = "4"
    live = LiveRouter(config=config(worker.address, server.address))
    live.fleet.follow({"v3": ModelTarget((server.address,), oip=OipModel("ranker", "3"))})
    pool = live.fleet.pools["v3"]
    await until(pool, lambda: any(one.health is ReplicaHealth.WRONG_VERSION for one in pool.replicas))
    assert not pool.available
    await live.fleet.close()


async def test_a_version_changes_what_its_server_is_asked(worker: StubWorker, server: OipServer) -> None:
    """The old replica serves until the new one does, though the address is the same."""
    async with LiveRouter(config=config(worker.address, server.address), settings=PATIENT) as live:
        pool = live.fleet.pools["v3"]
        (old,) = pool.available
        live.fleet.follow({"v3": ModelTarget((server.address,), oip=OipModel("ranker"))})
        await until(pool, lambda: len(pool.available) == 1 and pool.available[0] is not old)
        assert (await ask(live, message(model_version="v3"))).code is Code.OK
        assert ModelInferRequest.FromString(server.seen[-1]).model_version == ""


async def test_many_calls_are_under_way_at_once(worker: StubWorker, server: OipServer) -> None:
    """Each by itself, and each caller gets its own answer."""
    payloads = [message(raw_input_contents=[number.to_bytes(4, "little")]) for number in range(300)]
    async with LiveRouter(config=config(worker.address, server.address), settings=PATIENT) as live:
        answers = await asyncio.gather(*(ask(live, payload) for payload in payloads))
        for number, call in enumerate(answers):
            assert isinstance(call.only, bytes), call.only
            assert list(ModelInferResponse.FromString(call.only).raw_output_contents) == [number.to_bytes(4, "little")]
        assert len(server.seen) == 300


@pytest.mark.parametrize(("signature", "status"), [("recommender", "OK"), ("features", "FAILED_PRECONDITION")])
async def test_a_server_in_the_shadow_of_a_worker(worker: StubWorker, signature: str, status: str) -> None:
    """It is asked with the tensors of a Recommend; what its model cannot be asked for is an error in its lines."""
    server = await OipServer(signature=signature).start()
    text = config(worker.address, server.address) + "shadow: [{model: v3, percent: 100}]\n"
    async with LiveRouter(config=text, settings=PATIENT) as live:
        call = await recommend(live, item_ids=[1, 2], user_id="on-v1", request_id="r-1", limit=4)
        assert call.code is Code.OK
        async with asyncio.timeout(30):
            while not (found := [one for one in live.log.lines if one["event"] == "shadow"]):
                await asyncio.sleep(0.002)
        (written,) = found
        assert (written["version"], written["primary"], written["status"]) == ("v3", "v1", status)
        assert (len(written["items"]) if status == "OK" else written["items"]) == (4 if status == "OK" else None)
        assert live.log.problems == []
        assert live.fleet.pools["v3"].replicas[0].record.failures_in_a_row == 0
    await server.stop()
