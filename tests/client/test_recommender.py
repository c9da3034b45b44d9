"""Calls of both clients against a server that answers as the test says: what goes over the wire, what is sent again."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from abfleet_client import (
    AsyncRecommender,
    CallFailed,
    ClientCredentials,
    InvalidArgument,
    OutcomesLost,
    Recommendation,
    Recommender,
    Tensor,
)

from tests.client.desk import Desk

PATIENCE_SECONDS = 60.0
Ask = Callable[..., Any]


@pytest.fixture
def desk() -> Iterator[Desk]:
    with Desk() as one:
        yield one


def by_thread(address: str, method: str, *arguments: Any, settings: Any = None, **named: Any) -> Any:
    with Recommender(address, **{"timeout": PATIENCE_SECONDS, **(settings or {})}) as recommender:
        return getattr(recommender, method)(*arguments, **named)


def by_loop(address: str, method: str, *arguments: Any, settings: Any = None, **named: Any) -> Any:
    async def call() -> Any:
        async with AsyncRecommender(address, **{"timeout": PATIENCE_SECONDS, **(settings or {})}) as recommender:
            return await getattr(recommender, method)(*arguments, **named)

    return asyncio.run(call())


both = pytest.mark.parametrize("ask", [by_thread, by_loop])


@both
def test_a_recommendation(desk: Desk, ask: Ask) -> None:
    """Request and answer as values; a request id is made; metadata has token, mark and trace."""
    settings = {"credentials": ClientCredentials(token="t"), "synthetic": True}
    answer = ask(
        desk.address,
        "recommend",
        user_id="u",
        items=[1, 2],
        limit=2,
        attributes={"country": "de"},
        traceparent="00-1-2-01",
        settings=settings,
    )
    (request,) = desk.requests
    assert (request.user_id, list(request.item_ids), request.limit) == ("u", [1, 2], 2)
    assert dict(request.attributes) == {"country": "de"}
    assert request.request_id
    assert answer == Recommendation(
        items=(7, 8),
        scores=(2.0, 1.0),
        request_id=request.request_id,
        model_version="v1",
        experiment="e",
        group="g",
    )
    sent = desk.metadata[0]
    assert (sent["authorization"], sent["x-synthetic"], sent["traceparent"]) == ("Bearer t", "1", "00-1-2-01")


@both
def test_an_inference(desk: Desk, ask: Ask) -> None:
    """Tensors and arrays there and back; the user's id travels beside them."""
    inputs = {"a": Tensor.of([[1.0, 2.0]], "FP32", (1, 2)), "b": np.array([[3]])}
    answer = ask(desk.address, "infer", inputs, user_id="ü", request_id="r")
    assert answer.outputs["a"].values() == [1.0, 2.0]
    assert answer.outputs["b"].numpy().tolist() == [[3]]
    assert (answer.request_id, answer.model_version) == ("r", "v1")
    assert desk.metadata[0]["x-user-id-bin"] == "ü".encode()


@both
@pytest.mark.parametrize("method", ["recommend", "infer"])
def test_a_call_that_meets_an_end_is_sent_again_under_one_id(desk: Desk, ask: Ask, method: str) -> None:
    """More often than gRPC itself would, until the deadline; a server that closes may also say CANCELLED."""
    desk.failures = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED] + [grpc.StatusCode.UNAVAILABLE] * 5
    arguments = ({"a": Tensor.of([1.0], "FP32", (1,))},) if method == "infer" else ()
    ask(desk.address, method, *arguments)
    assert len(desk.requests) == 8
    assert len({getattr(one, "request_id", "") or one.id for one in desk.requests}) == 1


@both
def test_a_large_message_is_sent_again_too(desk: Desk, ask: Ask) -> None:
    """gRPC by itself keeps 256 KiB."""
    desk.failures = [grpc.StatusCode.UNAVAILABLE] * 2
    ask(desk.address, "infer", {"a": np.zeros(200_000)})
    assert len(desk.requests) == 3


@both
@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_all_else_is_an_end(desk: Desk, ask: Ask, code: grpc.StatusCode) -> None:
    """The router's words reach the caller; an overload is not made worse."""
    desk.failures = [code]
    with pytest.raises(CallFailed, match=f"{code.name}: told to") as failed:
        ask(desk.address, "recommend", request_id="r-1")
    assert (failed.value.status, failed.value.request_id) == (code.name, "r-1")
    assert len(desk.requests) == 1


@both
def test_nobody_answers(ask: Ask) -> None:
    """Until the deadline it is tried; the error says that nobody listened."""
    with pytest.raises(CallFailed, match=r"UNAVAILABLE: .*[Cc]onnect") as failed:
        ask("127.0.0.1:1", "recommend", timeout=1.0)
    assert failed.value.status in ("UNAVAILABLE", "DEADLINE_EXCEEDED")


@both
def test_outcomes(desk: Desk, ask: Ask) -> None:
    """Both clients send them, with the same metadata."""
    settings = {"credentials": ClientCredentials(token="t"), "synthetic": True}
    outcome_id = ask(desk.address, "record", "click", user_id="u", item=3, settings=settings)
    ((outcome,),) = [batch.outcomes for batch in desk.batches]
    assert (outcome.outcome_id, outcome.item_id, outcome.type) == (outcome_id, 3, "click")
    assert (desk.metadata[0]["authorization"], desk.metadata[0]["x-synthetic"]) == ("Bearer t", "1")


@both
def test_lost_outcomes_are_raised_at_the_end(desk: Desk, ask: Ask) -> None:
    """Whoever leaves the block is told."""
    desk.failures = [grpc.StatusCode.PERMISSION_DENIED]
    with pytest.raises(OutcomesLost):
        ask(desk.address, "record", "click", user_id="u")


@both
@pytest.mark.parametrize("settings", [{"credentials": ClientCredentials(token_file="missing")}, {"timeout": 0}])
def test_wrong_settings_are_said(desk: Desk, ask: Ask, settings: dict[str, Any]) -> None:
    """At the latest when they are needed, to the caller."""
    with pytest.raises(InvalidArgument):
        ask(desk.address, "recommend", settings=settings)


def test_wrong_credentials_reach_who_records() -> None:
    """Not the thread that sends, where nobody would hear."""
    recommender = Recommender("127.0.0.1:1", credentials=ClientCredentials(token_file="missing"))
    with pytest.raises(InvalidArgument, match="token_file: missing"):
        recommender.record("click", user_id="u")
    recommender.close()


async def test_listeners_are_called_on_the_loop(desk: Desk) -> None:
    """So that they may touch what belongs to it."""
    told: list[asyncio.AbstractEventLoop] = []
    recommender = AsyncRecommender(desk.address, on_rejected=lambda *_: told.append(asyncio.get_running_loop()))
    async with recommender:
        await recommender.record("wrong", user_id="u")
        await recommender.flush()
    assert told == [asyncio.get_running_loop()]


async def test_an_async_client_is_entered_first(desk: Desk) -> None:
    """Else it says so."""
    with pytest.raises(RuntimeError, match="async with"):
        await AsyncRecommender(desk.address).recommend()


def test_it_needs_no_numpy_and_nothing_of_the_product(tmp_path: Path) -> None:
    """Importing all of it, and calling, loads gRPC, protobuf and the contracts."""
    code = (
        "import sys; from abfleet_client import *\n"
        "Tensor.of([1], 'FP32', (1,)).values()\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    loaded = set(done.stdout.split()) - set(sys.stdlib_module_names)
    ours = {name for name in loaded if name.startswith("abfleet")}
    assert ours == {"abfleet_client", "abfleet_protos"}
    assert loaded.isdisjoint({"numpy", "structlog", "prometheus_client", "orjson", "uvloop", "typer", "yaml"})


@both
def test_another_router_takes_over_at_once(ask: Ask) -> None:
    """Of two addresses one is enough."""
    with Desk() as gone:
        pass
    with Desk() as here:
        ask(f"ipv4:{gone.address},{here.address}", "recommend")
    assert len(here.requests) == 1


def test_a_service_may_have_messages_of_the_same_names(tmp_path: Path) -> None:
    """Such as code that it has generated from the same contract itself; whichever is imported first."""
    theirs = (
        "from google.protobuf import descriptor_pb2, descriptor_pool\n"
        "file = descriptor_pb2.FileDescriptorProto(name='recommender.proto', syntax='proto3')\n"
        "for name in ('Outcome', 'RecommendRequest', 'ModelInferRequest'): file.message_type.add(name=name)\n"
        "descriptor_pool.Default().AddSerializedFile(file.SerializeToString())\n"
    )
    ours = "from abfleet_client import Recommender, Tensor\nfrom abfleet_protos import inference_pb2, recommender_pb2\n"
    for code in (theirs + ours, ours + theirs):
        subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=PATIENCE_SECONDS)
