"""Requests of tensors in one run: nobody's answer depends on who else asks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from abfleet_models.errors import IntegrityError
from abfleet_models.registry import Registry
from abfleet_protos.inference_pb2 import ModelInferRequest, ModelInferResponse
from abfleet_protos.recommender_pb2 import RecommendRequest, RecommendResponse
from abfleet_protos.worker_pb2 import RecommendBatchRequest, RecommendBatchResponse
from abfleet_transport.call import Code
from abfleet_worker.model import load
from abfleet_worker.service import METHODS, RECOMMEND, RECOMMEND_BATCH, ModelService
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.models.forge import edit_json
from tests.support import small_graphs
from tests.support.small_graphs import RAISING, add_model
from tests.support.tiny_model import POISON_NAN, add_version
from tests.worker.calls import FakeCall
from tests.worker.tensors.infer_calls import answered, arrays, batch_answer, batched, loaded, lone, request, service

MODELS = {
    "ranker": (small_graphs.ranker(), "features", 4),
    "softmax": (small_graphs.softmax_over_rows(), "features", 4),
    "listwise": (small_graphs.listwise(), "candidates", 3),
}


@pytest.fixture(scope="module", params=sorted(MODELS))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelService, str, int]:
    """A service, its input's name and columns."""
    content, name, columns = MODELS[request.param]
    return service(loaded(tmp_path_factory.mktemp(request.param), content)), name, columns


def features(rows: int, columns: int, seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.integers(0, 7), min_size=1, max_size=40), seed=st.integers(0, 2**32 - 1))
def test_answers_in_a_crowd_are_those_alone(model: tuple[ModelService, str, int], rows: list[int], seed: int) -> None:
    """Whoever asks together, of whatever numbers of rows, gets bit for bit what each would get alone: a model that
    looks across rows is asked one by one."""
    asked, name, columns = model
    requests = [request({name: features(count, columns, seed + place)}) for place, count in enumerate(rows)]
    alone = []
    for one in requests:
        call = batched([one])
        asked.answer([call])
        alone.append(batch_answer(call))
    crowd = batched(requests)
    asked.answer([crowd])
    answer = batch_answer(crowd)
    assert answer.model_version == "v2"
    assert list(answer.responses) == [one.responses[0] for one in alone]
    assert not answer.failures


def runs(asked: ModelService) -> list[int]:
    """How many requests each run of the model had."""
    seen: list[int] = []
    asked._metrics.ran = lambda size, seconds: seen.append(size)  # type: ignore[method-assign]
    return seen


def test_requests_are_joined_where_the_metadata_allows_it(tmp_path: Path) -> None:
    """One run for requests that agree in all dimensions but the first, another one for those that do not; one without
    rows, and one whose bytes come to much, are alone. Calls that arrive together count as one crowd."""
    asked = service(loaded(tmp_path, small_graphs.echo(["FP32"], ["rows", "columns"])), max_batch=64)
    seen = runs(asked)
    narrow, wide, none, huge = (
        request({"in_FP32": np.ones(shape, np.float32)}) for shape in ((2, 3), (1, 4), (0, 3), (100_000, 3))
    )
    calls = [batched([narrow, wide, narrow, none, wide, huge]), lone(narrow)]
    asked.answer(calls)
    assert sorted(seen) == [1, 1, 2, 3]
    shapes = [list(_arrays(one)["out_FP32"].shape) for one in batch_answer(calls[0]).responses]
    assert shapes == [[2, 3], [1, 4], [2, 3], [0, 3], [1, 4], [100_000, 3]]


def _arrays(payload: bytes) -> dict[str, Any]:
    return arrays(ModelInferResponse.FromString(payload))


def test_a_run_has_at_most_so_many_requests(tmp_path: Path) -> None:
    """As for recommendations, `max_batch` bounds them."""
    asked = service(loaded(tmp_path, small_graphs.ranker()), max_batch=3)
    seen = runs(asked)
    asked.answer([batched([request({"features": features(1, 4, 0)})] * 8)])
    assert seen == [3, 3, 2]


def test_no_batch_means_one_by_one(tmp_path: Path) -> None:
    """What `--no-batch` wrote into the metadata is kept to."""
    asked = service(loaded(tmp_path, small_graphs.ranker(), batch=False))
    seen = runs(asked)
    asked.answer([batched([request({"features": features(1, 4, 0)})] * 5)])
    assert seen == [1] * 5


def test_requests_that_ask_for_other_outputs_share_a_run(tmp_path: Path) -> None:
    """Each gets those that it asked for, in its order."""
    asked = service(loaded(tmp_path, small_graphs.user_and_items()))
    seen = runs(asked)
    inputs = {
        "user": np.array([[1]], np.int64),
        "items": np.array([[1, 2, 3]], np.int64),
        "context": np.array(["x"], dtype=object),
    }
    call = batched([request(inputs, ["best"]), request(inputs, ["echoed", "best"]), request(inputs)])
    asked.answer([call])
    assert seen == [3]
    found = [_arrays(one) for one in batch_answer(call).responses]
    assert [list(one) for one in found] == [["best"], ["echoed", "best"], ["score", "best", "echoed"]]
    assert len({one["best"].tobytes() for one in found}) == 1


def test_one_bad_request_fails_alone(tmp_path: Path) -> None:
    """Bytes that are no request, a wrong tensor, one that makes the runtime raise and one without time left: each has
    its own status, and those beside it are answered."""
    asked = service(loaded(tmp_path, small_graphs.fragile()), clock=lambda: 1000.0)
    good = request({"features": features(2, 4, 1)})
    raising = features(2, 4, 2)
    raising[1, 0] = RAISING
    wrong = request({"features": features(2, 4, 3)})
    wrong.inputs[0].datatype = "FP64"
    messages: list[ModelInferRequest | bytes] = [good, b"\xff", wrong, request({"features": raising}), good, good]
    call = batched(messages, [500, 500, 500, 500, 0, 500], arrived=999.9)
    with capture_logs():
        asked.answer([call])
    answer = batch_answer(call)
    assert {index: failure.code for index, failure in answer.failures.items()} == {
        1: Code.INVALID_ARGUMENT,
        2: Code.INVALID_ARGUMENT,
        3: Code.INTERNAL,
        4: Code.DEADLINE_EXCEEDED,
    }
    assert "input 'features': datatype" in answer.failures[2].message
    assert answer.responses[0] == answer.responses[5] != b""


def test_a_batch_is_bounded_in_bytes(tmp_path: Path) -> None:
    """Answers for which the message has no room are to be asked for again, one that no message holds is refused; what
    is sent is never larger."""
    asked = service(loaded(tmp_path, small_graphs.echo(["FP32"])), most_answer_bytes=10_000)
    small, large = (request({"in_FP32": np.ones(count, np.float32)}) for count in (1_000, 3_000))
    call = batched([small, small, large, small])
    asked.answer([call])
    assert isinstance(call.only, bytes)
    assert len(call.only) <= 10_000
    answer = batch_answer(call)
    assert {index: failure.code for index, failure in answer.failures.items()} == {
        2: Code.RESOURCE_EXHAUSTED,
        3: Code.UNAVAILABLE,
    }
    again = batched([small])
    asked.answer([again])
    assert batch_answer(again).responses[0] == answer.responses[0]


def test_recommend_of_a_model_of_tensors_says_what_to_call(tmp_path: Path) -> None:
    """FAILED_PRECONDITION, alone and in a batch, and nothing is run."""
    asked = service(loaded(tmp_path, small_graphs.ranker()))
    alone = FakeCall(METHODS.index(RECOMMEND), RecommendRequest(item_ids=[1]).SerializeToString())
    payload = RecommendBatchRequest(requests=[b"", b""]).SerializeToString()
    together = FakeCall(METHODS.index(RECOMMEND_BATCH), payload)
    asked.answer([alone, together])
    words = "version v2 takes features, not a history; call ModelInfer"
    assert alone.only == (Code.FAILED_PRECONDITION, words)
    assert isinstance(together.only, bytes)
    answer = RecommendBatchResponse.FromString(together.only)
    assert [(one.code, one.message) for one in answer.failures.values()] == [(Code.FAILED_PRECONDITION, words)] * 2
    assert answer.model_version == "v2"


def test_a_recommender_answers_both_ways_alike(tmp_path: Path) -> None:
    """ModelInfer of a history gives the items and scores of Recommend, the newest items of one that is too long too; a
    score that is not a number reaches nobody."""
    add_version(tmp_path, "v1", max_history=4)
    asked = service(load(tmp_path, "v1"))
    history = [9, 9, 1, 2, 3, 10]
    recommend = FakeCall(METHODS.index(RECOMMEND), RecommendRequest(item_ids=history, limit=100).SerializeToString())
    infer, poisoned = (lone(request({"history": np.array([row], np.int64)})) for row in (history, [POISON_NAN]))
    asked.answer([recommend, infer, poisoned])
    assert isinstance(recommend.only, bytes)
    wanted = RecommendResponse.FromString(recommend.only)
    found = arrays(answered(infer))
    assert found["item_ids"].tolist() == [list(wanted.item_ids)]
    assert found["scores"].tolist() == [list(wanted.scores)]
    assert isinstance(poisoned.only, tuple)
    assert poisoned.only[0] == Code.INTERNAL


def test_an_alias_may_lead_to_a_model_of_another_kind(tmp_path: Path) -> None:
    """What is asked next is read and run as the new model has it; from then on Recommend says what to call."""
    add_version(tmp_path / "models", "v1")
    asked = service(load(tmp_path / "models", "v1"))
    recommend = RecommendRequest(item_ids=[1]).SerializeToString()
    before = FakeCall(METHODS.index(RECOMMEND), recommend)
    asked.answer([before])
    asked.use(loaded(tmp_path, small_graphs.ranker()))
    after, ranked = FakeCall(METHODS.index(RECOMMEND), recommend), lone(request({"features": features(2, 4, 1)}))
    asked.answer([after, ranked])
    assert isinstance(before.only, bytes)
    assert isinstance(after.only, tuple)
    assert after.only[0] == Code.FAILED_PRECONDITION
    assert answered(ranked).model_version == "v2"


def test_a_worker_tries_again_whether_requests_may_be_joined(tmp_path: Path) -> None:
    """Metadata that promise what is not so, on this machine or at all, are not believed: the worker says why, and asks
    the model one by one."""
    folder = add_model(tmp_path / "models", "v2", small_graphs.softmax_over_rows())
    edit_json(folder / "metadata.json", lambda data: data["signature"].update(batch=True))
    with capture_logs() as lines:
        model = load(tmp_path / "models", "v2")
    assert not model.joins
    (line,) = lines
    assert (line["event"], line["version"]) == ("requests are not joined", "v2")
    assert "differs from the single answer" in line["reason"]


def test_a_graph_that_is_not_its_signature_is_not_served(tmp_path: Path) -> None:
    """Each tensor that differs is named, with what either says."""
    folder = add_model(tmp_path / "models", "v2", small_graphs.ranker())

    def widen(data: dict[str, Any]) -> None:
        data["signature"]["inputs"][0].update(shape=[-1, 5])
        data["golden"]["cases"] = [{"inputs": {"features": {"shape": [1, 5], "data": [0]}}, "outputs": {}}]

    edit_json(folder / "metadata.json", widen)
    words = r"input features: the graph's shape is \[-1, 4\], the signature's is \[-1, 5\]"
    with pytest.raises(IntegrityError, match=words):
        Registry(tmp_path / "models").resolve("v2").verify_file()
