"""A worker of a version whose items have names: they come in and go out; what nobody knows is left out and counted."""

from pathlib import Path

import numpy as np
import pytest
from abfleet_models.item_names import written
from abfleet_protos.recommender_pb2 import RecommendRequest, RecommendResponse
from abfleet_transport.call import Code
from abfleet_transport.rpc_metrics import RpcMetrics
from abfleet_worker import batch
from abfleet_worker.catalogue import Catalogue
from abfleet_worker.errors import ModelLoadError
from abfleet_worker.item_names import ItemNames
from abfleet_worker.metrics import WorkerMetrics
from abfleet_worker.model import load
from abfleet_worker.request import Refusal
from abfleet_worker.service import METHODS, RECOMMEND, ModelService
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from tests.support import small_graphs
from tests.support.small_graphs import add_model
from tests.worker.calls import FakeCall, SumModel, batched

NAMES = [f"item {number}, größe" for number in range(1, 401)]


class NamedSumModel(SumModel):
    """As SumModel, with names for its items."""

    def __init__(self, **options: int) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.names = ItemNames(NAMES, None)


def made(model: SumModel) -> tuple[ModelService, WorkerMetrics]:
    metrics = WorkerMetrics(lambda: (model.version, model.sha256))
    service = ModelService(
        model,
        rpc_metrics=RpcMetrics(METHODS),
        metrics=metrics,
        max_batch=128,
        make_request_id=lambda: "made",
        clock=lambda: 0.0,
    )
    return service, metrics


def asked(*items: str, **fields: object) -> bytes:
    return RecommendRequest(items=items, **fields).SerializeToString()  # type: ignore[arg-type]


def alone(service: ModelService, payload: bytes) -> bytes | tuple[Code, str]:
    call = FakeCall(METHODS.index(RECOMMEND), payload)
    service.answer([call])
    return call.only


def test_names_become_numbers_and_numbers_names() -> None:
    """In a batch and alone; names that nobody knows weigh nothing, and are counted with the others."""
    service, metrics = made(NamedSumModel())
    call = batched([asked(NAMES[1], "nobody", NAMES[4], limit=3), asked(limit=2), asked("x", "y")])
    service.answer([call])
    answer = call.batch()
    found = [RecommendResponse.FromString(one) for one in answer.responses]
    assert not answer.failures
    assert [list(one.items) for one in found] == [NAMES[7:10], NAMES[0:2], NAMES[0:10]]
    assert [len(one.scores) for one in found] == [3, 2, 10]
    assert all(not one.item_ids for one in found)
    assert (metrics.history_items, metrics.unknown_items) == (5, 3)
    raw = alone(service, asked(NAMES[1], limit=1, request_id="r"))
    assert isinstance(raw, bytes)
    lone = RecommendResponse.FromString(raw)
    assert (list(lone.items), lone.request_id, lone.model_version) == ([NAMES[2]], "r", "v1")


def test_the_newest_known_items_count() -> None:
    """Names that nobody knows take no place of a history that the model cuts."""
    service, _ = made(NamedSumModel(max_history=2))
    raw = alone(service, asked(NAMES[99], NAMES[1], NAMES[2], "nobody", "nobody else", limit=1))
    assert isinstance(raw, bytes)
    assert list(RecommendResponse.FromString(raw).items) == [NAMES[5]]


@pytest.mark.parametrize("in_batch", [True, False])
def test_the_other_kind_is_refused_by_name(*, in_batch: bool) -> None:
    """One item of a batch alone: its neighbours are answered."""
    numbers = RecommendRequest(item_ids=[1]).SerializeToString()
    for model, payload, good, words in (
        (NamedSumModel(), numbers, asked(NAMES[0]), "item_ids: numbers are not allowed"),
        (SumModel(), asked("a"), numbers, "items: names are not allowed"),
    ):
        service, _ = made(model)
        if in_batch:
            call = batched([payload, good])
            service.answer([call])
            (failure,) = call.batch().failures.values()
            assert (failure.code, call.batch().responses[1] != b"") == (Code.INVALID_ARGUMENT, True)
            assert words in failure.message
        else:
            refused = alone(service, payload)
            assert isinstance(refused, tuple)
            assert (refused[0], words in refused[1]) == (Code.INVALID_ARGUMENT, True)


def test_both_kinds_in_one_request_are_refused() -> None:
    """By a worker that stands alone; behind a router, that does it."""
    for model in (NamedSumModel(), SumModel()):
        refused = alone(made(model)[0], RecommendRequest(item_ids=[1], items=["a"]).SerializeToString())
        assert isinstance(refused, tuple)
        assert "items: names beside item_ids are not allowed" in refused[1]


@given(
    arrays_of.arrays(np.int64, (3, 4), elements=st.integers(-1, 6)),
    arrays_of.arrays(np.float32, (3, 4), elements=st.sampled_from([np.nan, np.inf, -np.inf, 0.5, 2.0])),
    st.lists(st.integers(1, 6), min_size=3, max_size=3),
)
def test_answers_are_those_of_numbers(ids: np.ndarray, scores: np.ndarray, limits: list[int]) -> None:  # type: ignore[type-arg]
    """Row by row the same items, scores, ends and refusals; beside it a number without a name is refused."""
    names = ItemNames(NAMES[:5], None)
    numbered = batch.encode(ids, scores, limits, batch.Varints())
    for row, (plain, named) in enumerate(zip(numbered, names.encode(ids, scores, limits), strict=True)):
        if isinstance(plain, Refusal):
            assert named == plain
            continue
        wanted = RecommendResponse.FromString(plain)
        if any(number > 5 for number in wanted.item_ids):
            assert isinstance(named, Refusal), row
            continue
        assert isinstance(named, bytes)
        found = RecommendResponse.FromString(named)
        assert list(found.items) == [NAMES[number - 1] for number in wanted.item_ids]
        assert list(found.scores) == list(wanted.scores)


def test_what_the_model_does_not_know_is_unknown() -> None:
    """A name of items.txt that the model's catalogue lacks is counted as any other unknown one."""
    names = ItemNames(["a", "b", "c"], Catalogue(np.array([1, 3])))
    assert names.known(["a", "b", "c", "d"]) == [1, 3]
    texts = np.array([["", "a"], ["b", "c"]], dtype=object)
    assert names.numbers(texts).tolist() == [[0, 1], [-1, 3]]
    assert names.names(np.array([[0, 2]])).tolist() == [["", "b"]]


def test_a_version_is_loaded_with_its_names(tmp_path: Path) -> None:
    """Its tensors of items are texts to callers; changed names are another version, which is not served."""
    (tmp_path / "items.txt").write_bytes(written(NAMES))
    folder = add_model(tmp_path / "models", "v2", small_graphs.recommender())
    model = load(tmp_path / "models", "v2")
    assert [spec.datatype for spec in (*model.signature.inputs, *model.signature.outputs)] == ["BYTES", "BYTES", "FP32"]
    items, scores = model.run(["item_ids", "scores"], {"history": np.array([[NAMES[1], "nobody"]], dtype=object)})
    assert items[0, :2].tolist() == [NAMES[0], NAMES[2]]
    assert scores.dtype == np.float32
    (folder / "items.txt").write_text("other\n")
    with pytest.raises(ModelLoadError, match=r"items\.txt has a different sha256"):
        load(tmp_path / "models", "v2")
