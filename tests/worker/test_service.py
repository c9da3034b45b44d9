"""The service: each item gets its own answer, whatever it shares a run with."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from abfleet_protos.recommender_pb2 import RecommendRequest, RecommendResponse
from abfleet_transport.call import Code
from abfleet_transport.rpc_metrics import RpcMetrics
from abfleet_worker.metrics import WorkerMetrics
from abfleet_worker.recommending import Recommending
from abfleet_worker.request import Item
from abfleet_worker.service import METHODS, RECOMMEND, RECOMMEND_BATCH, Model, ModelService
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from tests.worker.calls import POISON_NAN, POISON_RAISE, FakeCall, SumModel, batched, lone

NOW = 1000.0


@dataclass
class Bench:
    """A service with a clock that stands still, and its metrics."""

    model: Model = field(default_factory=SumModel)
    max_batch: int = 8
    now: float = NOW

    def __post_init__(self) -> None:
        self.rpcs = RpcMetrics(METHODS)
        self.metrics = WorkerMetrics(lambda: (self.service.model.version, self.service.model.sha256))
        self.service = ModelService(
            self.model,
            rpc_metrics=self.rpcs,
            metrics=self.metrics,
            max_batch=self.max_batch,
            make_request_id=lambda: "made",
            clock=lambda: self.now,
        )


@dataclass(frozen=True)
class Wanted:
    """A request of a batch, the time it has left, and the status it must get."""

    payload: bytes
    timeout_ms: int
    code: Code
    total: int = 0
    limit: int = 10


def _good(history: list[int], limit: int) -> Wanted:
    payload = RecommendRequest(item_ids=history, limit=limit, user_id="u").SerializeToString()
    total = sum(history)
    code = Code.INTERNAL if total in (POISON_NAN, POISON_RAISE) else Code.OK
    return Wanted(payload, 500, code, total, limit or 10)


HISTORIES = st.lists(st.integers(1, 100_000), max_size=30)
REQUESTS = st.one_of(
    st.builds(_good, HISTORIES, st.integers(0, 20)),
    st.builds(_good, HISTORIES, st.integers(0, 20)),
    st.just(Wanted(RecommendRequest(item_ids=[POISON_NAN]).SerializeToString(), 500, Code.INTERNAL)),
    st.just(Wanted(RecommendRequest(item_ids=[700, 77]).SerializeToString(), 500, Code.INTERNAL)),
    st.just(Wanted(RecommendRequest(item_ids=[1]).SerializeToString(), 0, Code.DEADLINE_EXCEEDED)),
    st.just(Wanted(RecommendRequest(item_ids=[1]).SerializeToString(), 100, Code.DEADLINE_EXCEEDED)),
    st.just(Wanted(RecommendRequest(limit=101).SerializeToString(), 500, Code.INVALID_ARGUMENT)),
    st.just(Wanted(b"\xff\xff", 500, Code.INVALID_ARGUMENT)),
    st.builds(
        lambda n: Wanted(RecommendRequest(item_ids=[n] * 600).SerializeToString(), 500, Code.OK, 600 * n),
        st.integers(2, 50),
    ),
)


@given(st.lists(st.lists(REQUESTS, max_size=12), min_size=1, max_size=5), st.integers(1, 16))
def test_each_item_gets_its_own_answer(batches: list[list[Wanted]], max_batch: int) -> None:
    """Whatever mixture of good, expired, poisoned and unreadable requests arrives together, in whatever batches: each
    RPC is answered once, and each item has the answer or the status that it would have alone."""
    bench = Bench(max_batch=max_batch)
    arrived = NOW - 0.1  # 100 ms have gone by
    calls = [batched([w.payload for w in b], [w.timeout_ms for w in b], arrived=arrived) for b in batches]
    bench.service.answer(calls)
    for call, wanted in zip(calls, batches, strict=True):
        answer = call.batch()
        assert answer.model_version == "v1"
        assert len(answer.responses) == len(wanted)
        for index, want in enumerate(wanted):
            failure = answer.failures[index].code if index in answer.failures else 0
            assert failure == want.code
            response = RecommendResponse.FromString(answer.responses[index])
            expected = range(want.total + 1, want.total + want.limit + 1) if want.code == Code.OK else ()
            assert list(response.item_ids) == list(expected)
            assert len(response.scores) == len(response.item_ids)
    for code in (Code.OK, Code.INTERNAL, Code.DEADLINE_EXCEEDED, Code.INVALID_ARGUMENT):
        assert bench.metrics.items[code] == sum(want.code == code for b in batches for want in b)
    assert bench.rpcs.handled(METHODS.index(RECOMMEND_BATCH)) == {"OK": len(batches)}


def test_calls_that_arrive_together_share_a_run() -> None:
    """Two batches and a lone call that arrived together are one run of the model."""
    model = SumModel()
    bench = Bench(model)
    calls = [batched([b"", b""]), lone([4]), batched([b""])]
    bench.service.answer(calls)
    assert model.shapes == [(4, 1)]
    assert [len(call.answers) for call in calls] == [1, 1, 1]


def test_a_failing_run_is_tried_item_by_item() -> None:
    """A request that makes the runtime raise fails alone with INTERNAL; its neighbours are answered."""
    model = SumModel()
    call = batched([RecommendRequest(item_ids=[n]).SerializeToString() for n in (1, POISON_RAISE, 2)])
    Bench(model).service.answer([call])
    answer = call.batch()
    assert model.shapes == [(3, 1), (1, 1), (1, 1), (1, 1)]
    assert list(answer.failures) == [1]
    assert "poisoned" not in answer.failures[1].message  # what a runtime says is for the log
    assert RecommendResponse.FromString(answer.responses[2]).item_ids[0] == 3


def test_a_model_that_answers_in_another_shape_is_never_believed() -> None:
    """Too few rows are INTERNAL for every item, not somebody else's recommendations."""

    class Short(SumModel):
        def infer(self, history: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
            item_ids, scores = super().infer(history)
            return item_ids[:-1], scores[:-1]

    call = batched([b"", b"", b""])
    Bench(Short()).service.answer([call])
    assert {index: failure.code for index, failure in call.batch().failures.items()} == {
        0: Code.INTERNAL,
        1: Code.INTERNAL,
        2: Code.INTERNAL,
    }


def test_an_expired_item_is_not_inferred() -> None:
    """Items without time left never reach the model, and a batch of nothing else runs nothing."""
    model = SumModel()
    bench = Bench(model)
    call = batched([b"", b""], [50, 100], arrived=NOW - 0.1)
    bench.service.answer([call])
    assert model.shapes == []
    assert [call.batch().failures[index].code for index in (0, 1)] == [Code.DEADLINE_EXCEEDED] * 2
    assert bench.metrics.items[Code.DEADLINE_EXCEEDED] == 2


def test_the_rpcs_deadline_bounds_its_items() -> None:
    """An item has no more time than the RPC that carries it."""
    call = batched([b""], [5000], arrived=NOW - 0.1)
    call.deadline = NOW - 0.01
    Bench().service.answer([call])
    assert call.batch().failures[0].code == Code.DEADLINE_EXCEEDED


def test_an_item_without_a_limit_never_expires() -> None:
    """Without timeout_ms and without a deadline a batch is answered however late it is."""
    call = batched([b""], arrived=NOW - 3600)
    Bench().service.answer([call])
    assert not call.batch().failures


def test_a_lone_call_gets_the_request_id_and_the_version() -> None:
    """Recommend on a worker is complete: the client's request id or a made one, the version, no experiment."""
    named, unnamed = lone([1, 2, 3, 10, 15], request_id="mine"), lone([1], limit=3)
    Bench(SumModel("v9")).service.answer([named, unnamed])
    assert isinstance(named.only, bytes)
    assert isinstance(unnamed.only, bytes)
    first, second = RecommendResponse.FromString(named.only), RecommendResponse.FromString(unnamed.only)
    assert (first.request_id, first.model_version, first.experiment, first.group) == ("mine", "v9", "", "")
    assert list(first.item_ids) == list(range(32, 42))
    assert (second.request_id, list(second.item_ids)) == ("made", [2, 3, 4])


def test_a_lone_call_that_is_wrong_fails_with_its_own_status() -> None:
    """INVALID_ARGUMENT and INTERNAL are the RPC's status, counted under its method."""
    bench = Bench()
    wrong, poisoned = lone([1], user_id="a\tb"), lone([POISON_RAISE])
    bench.service.answer([wrong, poisoned])
    assert isinstance(wrong.only, tuple)
    assert wrong.only[0] == Code.INVALID_ARGUMENT
    assert isinstance(poisoned.only, tuple)
    assert poisoned.only[0] == Code.INTERNAL
    assert bench.rpcs.handled(METHODS.index(RECOMMEND)) == {"INVALID_ARGUMENT": 1, "INTERNAL": 1}


def test_a_batch_that_cannot_be_read_fails_as_a_whole() -> None:
    """The RPC fails, and its neighbours are answered."""
    broken, good = FakeCall(METHODS.index(RECOMMEND_BATCH), b"\xff"), batched([b""])
    Bench().service.answer([broken, good])
    assert isinstance(broken.only, tuple)
    assert broken.only[0] == Code.INVALID_ARGUMENT
    assert len(good.batch().responses) == 1


def test_an_empty_batch_is_answered() -> None:
    """No requests, no responses, but the version."""
    call = batched([])
    Bench().service.answer([call])
    assert call.batch().model_version == "v1"
    assert not call.batch().responses


def test_a_model_is_replaced_between_groups() -> None:
    """What has begun ends with the model it began with; the next calls get the new one, version and items alike."""
    bench = Bench()
    new = SumModel("v2", k=3)

    class Swapping(SumModel):
        def infer(self, history: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
            bench.service.use(new)
            return super().infer(history)

    bench.service.use(Swapping("v1"))
    before, after = batched([b""]), batched([b""])
    bench.service.answer([before])
    bench.service.answer([after])
    assert (before.batch().model_version, after.batch().model_version) == ("v1", "v2")
    assert len(RecommendResponse.FromString(before.batch().responses[0]).item_ids) == 10
    assert len(RecommendResponse.FromString(after.batch().responses[0]).item_ids) == 3


def test_the_metrics_say_what_was_done() -> None:
    """Batch sizes, items by status, expired items and the model are on the scrape."""
    bench = Bench(max_batch=4)
    bench.service.answer([batched([b""] * 4), batched([b"", b""], [0, 500], arrived=NOW)])
    registry = CollectorRegistry()
    registry.register(bench.metrics)
    value = registry.get_sample_value
    assert value("abfleet_worker_items_total", {"status": "OK"}) == 5
    assert value("abfleet_worker_expired_items_total") == 1
    assert value("abfleet_worker_batch_size_count") == 2
    assert value("abfleet_worker_batch_size_sum") == 5
    assert value("abfleet_worker_inference_seconds_count") == 2
    assert value("abfleet_worker_model_info", {"version": "v1", "sha256": "0" * 64}) == 1


@pytest.mark.parametrize("method", [0, 1])
def test_a_caller_that_left_early_is_counted_as_cancelled(method: int) -> None:
    """A call that was withdrawn before it was looked at is CANCELLED and not in progress."""
    bench = Bench()
    bench.service.gone(FakeCall(method, b""))
    assert bench.rpcs.handled(method) == {"CANCELLED": 1}


def test_a_failing_model_is_reported_once_a_second() -> None:
    """However many runs fail, the log gets one line a second, with how many have failed; each caller is answered."""
    bench = Bench()
    with capture_logs() as lines:
        for second in (0.0, 0.5, 1.0):
            bench.now = NOW + second
            calls = [lone([POISON_RAISE]) for _ in range(3)]
            for call in calls:
                bench.service.answer([call])
            assert [len(call.answers) for call in calls] == [1, 1, 1]
    assert [(line["event"], line["failed_runs"]) for line in lines] == [
        ("inference failed", 1),
        ("inference failed", 7),
    ]


def test_a_mistake_of_the_worker_fails_its_calls_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever raises inside, the calls of that group get INTERNAL and the next ones are answered."""
    bench = Bench(max_batch=1)
    real, broken = Recommending.plan, [True]

    def plan(self: Recommending, items: Sequence[Item], max_batch: int) -> list[Sequence[int]]:
        if broken:
            broken.pop()
            raise MemoryError
        return real(self, items, max_batch)

    monkeypatch.setattr(Recommending, "plan", plan)
    first, second = lone([1]), lone([1])
    bench.service.answer([first, second])
    assert isinstance(first.only, tuple)
    assert first.only[0] == Code.INTERNAL
    assert isinstance(second.only, bytes)
