"""What a server of the Open Inference Protocol says of itself, and what is made of it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from abfleet_experiments.config import OipModel
from abfleet_protos.inference_pb2 import (
    ModelInferRequest,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
)
from abfleet_router.fleet import oip_server
from abfleet_router.fleet.health_watch import ReplicaHealth
from abfleet_router.fleet.http2_client_stream import RpcFailed
from abfleet_router.fleet.oip_server import OipServer, ReadyWatch, misfit
from abfleet_transport.call import Code
from abfleet_transport.oip import MODEL_METADATA, MODEL_READY

from tests.router.fakes import Hasty, turns

READY = ModelReadyResponse(ready=True).SerializeToString()
UNREADY = ModelReadyResponse().SerializeToString()
SERVING, NOT_SERVING = ReplicaHealth.SERVING, ReplicaHealth.NOT_SERVING
Tensor = tuple[str, str, Sequence[int]]
HISTORY: Tensor = ("history", "INT64", [-1, -1])
ITEMS: Tensor = ("item_ids", "INT64", [-1, 10])
SCORES: Tensor = ("scores", "FP32", [-1, 10])


class ScriptedLink:
    """Answers ModelReady from a list, and stays silent after it; ModelMetadata always alike."""

    may_watch = True

    def __init__(self, answers: Sequence[bytes | Exception], metadata: bytes | Exception) -> None:
        self.answers = list(answers)
        self.metadata = metadata
        self.asked: list[tuple[str, bytes]] = []

    async def watch(self, path: str, message: bytes, on_message: Any) -> None:
        raise AssertionError("such a server has no health service")

    async def ask(self, path: str, message: bytes, timeout_seconds: float) -> bytes:
        self.asked.append((path, message))
        if path == MODEL_READY and not self.answers:
            await asyncio.get_running_loop().create_future()
        answer = self.answers.pop(0) if path == MODEL_READY else self.metadata
        if isinstance(answer, Exception):
            raise answer
        return answer


def signature(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> ModelMetadataResponse:
    made = ModelMetadataResponse()
    for place, tensors in ((made.inputs, inputs), (made.outputs, outputs)):
        for name, datatype, shape in tensors:
            place.add(name=name, datatype=datatype, shape=shape)
    return made


async def heard(
    monkeypatch: pytest.MonkeyPatch, answers: Sequence[bytes | Exception], metadata: bytes | Exception = b""
) -> tuple[list[ReplicaHealth], ScriptedLink, OipServer]:
    """What is made of these answers, one a poll."""
    monkeypatch.setattr(oip_server, "asyncio", Hasty())
    link, server = ScriptedLink(answers, metadata), OipServer(OipModel("ranker", "3"))
    found: list[ReplicaHealth] = []
    following = asyncio.create_task(ReadyWatch(link, server, found.append).follow())
    await turns(8 + 4 * len(answers))
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    return found, link, server


@pytest.mark.parametrize(
    ("answer", "health"),
    [
        (READY, [SERVING]),
        (UNREADY, [NOT_SERVING]),
        (b"\x0a\xff", [NOT_SERVING]),
        (RpcFailed(Code.NOT_FOUND, "no such model"), [ReplicaHealth.WRONG_VERSION]),
        (RpcFailed(Code.UNIMPLEMENTED, "no such method"), [NOT_SERVING]),
        (RpcFailed(Code.INTERNAL, "broken"), [NOT_SERVING]),
        # Nothing is said where nothing was heard: whether the server lives is known otherwise.
        (RpcFailed(Code.DEADLINE_EXCEEDED, "late"), []),
        (RpcFailed(Code.UNAVAILABLE, "no stream", unsent=True), []),
        (TimeoutError(), []),
    ],
)
async def test_each_answer_says_what_it_says(
    monkeypatch: pytest.MonkeyPatch, answer: bytes | Exception, health: list[ReplicaHealth]
) -> None:
    """And the question names model and version."""
    found, link, _ = await heard(monkeypatch, [answer])
    assert found == health
    assert link.asked[0] == (MODEL_READY, ModelReadyRequest(name="ranker", version="3").SerializeToString())


async def test_the_signature_is_asked_for_when_a_model_becomes_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, and before any call goes there; again after it was not ready, because it may be another one."""
    other = signature([("x", "FP32", [-1])], []).SerializeToString()
    answers = [READY, READY, TimeoutError(), READY, UNREADY, READY]
    found, link, server = await heard(monkeypatch, answers, other)
    assert found == [SERVING, SERVING, SERVING, NOT_SERVING, SERVING]
    question = (MODEL_METADATA, ModelMetadataRequest(name="ranker", version="3").SerializeToString())
    assert link.asked.count(question) == 2
    assert link.asked[1] == question
    assert "`x` FP32[-1]" in server.misfit


@pytest.mark.parametrize("problem", [RpcFailed(Code.UNIMPLEMENTED, "x"), TimeoutError(), b"\x0a\xff"])
async def test_a_server_may_say_nothing_of_its_model(
    monkeypatch: pytest.MonkeyPatch, problem: bytes | Exception
) -> None:
    """It is ready all the same."""
    found, _, server = await heard(monkeypatch, [READY], problem)
    assert (found, server.misfit) == ([SERVING], "")


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        ([HISTORY], [ITEMS, SCORES], ""),
        ([("history", "INT64", [1, -1])], [("item_ids", "INT32", [1, 5]), ("scores", "FP64", [1, 5])], ""),
        ([], [], ""),
        ([HISTORY], [], ""),
        ([HISTORY], [ITEMS, SCORES, ("more", "BYTES", [1])], ""),
        ([("history", "BYTES", [-1, -1])], [("item_ids", "BYTES", [-1, 10]), SCORES], ""),
        ([("history", "BYTES", [-1, -1])], [ITEMS, SCORES], "it gives `item_ids` INT64[-1, 10]"),
        ([("history", "INT32", [-1, -1])], [ITEMS, SCORES], "it takes `history` INT32[-1, -1], and Recommend has"),
        ([("history", "INT64", [-1])], [ITEMS, SCORES], "it takes `history` INT64[-1], and Recommend has"),
        ([("history", "INT64", [8, -1])], [ITEMS, SCORES], "it takes `history` INT64[8, -1]"),
        ([HISTORY, ("user", "INT64", [-1])], [ITEMS, SCORES], "it takes `history` INT64[-1, -1], `user` INT64[-1]"),
        ([HISTORY], [ITEMS], "it gives `item_ids` INT64[-1, 10], and Recommend needs"),
        ([HISTORY], [("item_ids", "BYTES", [-1, 10]), SCORES], "it gives `item_ids` BYTES[-1, 10]"),
    ],
)
def test_a_signature_fits_or_says_why(inputs: Sequence[Tensor], outputs: Sequence[Tensor], words: str) -> None:
    """Where no tensors are named, nothing speaks against it."""
    found = misfit(signature(inputs, outputs))
    assert words in found
    assert bool(found) == bool(words)


@pytest.mark.parametrize(("model", "version"), [("ranker", "3"), ("a" * 200, ""), ("имя", "x" * 200)])
def test_what_is_appended_counts(model: str, version: str) -> None:
    """Whatever names a caller gave, also against an empty version."""
    caller = ModelInferRequest(model_name="recommender", model_version="v3", id="r").SerializeToString()
    sent = ModelInferRequest.FromString(caller + OipServer(OipModel(model, version)).ending)
    assert (sent.model_name, sent.model_version, sent.id) == (model, version, "r")
