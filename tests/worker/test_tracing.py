"""Spans of a worker: one for each traced request and its run, below the router's attempt, linked with those beside
it."""

import random

import numpy as np
from abfleet_process.tracing.spans import MAX_LINKS, Span, SpanKind
from abfleet_protos.worker_pb2 import InferBatchRequest, RecommendBatchRequest
from abfleet_transport.rpc_metrics import RpcMetrics
from abfleet_worker.metrics import WorkerMetrics
from abfleet_worker.service import INFER_BATCH, METHODS, MODEL_INFER, RECOMMEND_BATCH, ModelService
from abfleet_worker.tracing import InferenceTracer

from tests.worker.calls import POISON_RAISE, FakeCall, SumModel, batched, lone
from tests.worker.tensors.infer_calls import request


class Clock:
    """Moves on by a millisecond whenever it is asked."""

    now = 100.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


def service(spans: list[Span] | None) -> ModelService:
    clock = Clock()
    tracer = None
    if spans is not None:
        tracer = InferenceTracer(spans.append, random.Random(3).getrandbits, lambda: 1_790_000_000.0 + clock.now)
    return ModelService(
        SumModel(),
        rpc_metrics=RpcMetrics(METHODS),
        metrics=WorkerMetrics(lambda: ("v1", "")),
        max_batch=128,
        make_request_id=lambda: "made",
        tracer=tracer,
        clock=clock,
    )


def header(number: int, flags: str = "01") -> str:
    return f"00-{number:032x}-{number:016x}-{flags}"


def batch(histories: list[list[int]], traceparents: dict[int, str]) -> FakeCall:
    plain = batched([lone(history).payload for history in histories], arrived=99.9)
    message = RecommendBatchRequest.FromString(plain.payload)
    message.traceparents.update(traceparents)
    return FakeCall(METHODS.index(RECOMMEND_BATCH), message.SerializeToString(), arrived=99.9)


def test_each_traced_request_has_its_spans() -> None:
    """Two spans for each sampled context: one below the router's hop, and below it the run, linked with the others."""
    spans: list[Span] = []
    call = batch([[1], [2], [3], [4]], {0: header(1), 1: header(2, "00"), 3: header(4), 9: header(9)})
    service(spans).answer([call])
    assert len(call.batch().responses) == 4
    served = {span.context.trace_id: span for span in spans if span.kind is SpanKind.SERVER}
    runs = {span.context.trace_id: span for span in spans if span.kind is SpanKind.INTERNAL}
    assert served.keys() == runs.keys() == {f"{1:032x}", f"{4:032x}"}
    for number, other in ((1, 4), (4, 1)):
        above, run = served[f"{number:032x}"], runs[f"{number:032x}"]
        assert above.parent_id == f"{number:016x}"
        assert run.parent_id == above.context.span_id
        assert above.begun < run.begun < run.ended < above.ended
        assert [link.span_id for link in run.links] == [f"{other:016x}"]
        assert (run.name, run.attributes["abfleet.run_size"]) == ("inference", 4)
        assert above.attributes["rpc.method"] == "abfleet.worker.v1.Worker/RecommendBatch"
        assert (above.failed, run.failed) == (None, None)


def test_links_are_bounded() -> None:
    """Of a large batch a span links some of the others, and says how many more there were."""
    spans: list[Span] = []
    service(spans).answer([batch([[n] for n in range(1, 61)], {n: header(n + 1) for n in range(60)})])
    runs = [span for span in spans if span.kind is SpanKind.INTERNAL]
    assert len(runs) == 60
    assert {(len(run.links), run.dropped_links) for run in runs} == {(MAX_LINKS, 59 - MAX_LINKS)}


def test_a_request_that_fails_is_an_error() -> None:
    """The poisoned request's spans say so; those of its neighbours do not."""
    spans: list[Span] = []
    service(spans).answer([batch([[POISON_RAISE], [1]], {0: header(1), 1: header(2)})])
    failed = {span.context.trace_id: span.failed for span in spans if span.kind is SpanKind.SERVER}
    assert failed == {f"{1:032x}": "INTERNAL", f"{2:032x}": None}


def test_a_worker_alone_joins_its_callers_trace() -> None:
    """A call without a router is traced by its own metadata, and only if its caller samples."""
    spans: list[Span] = []
    serving = service(spans)
    for metadata in ((("traceparent", header(7)),), (("traceparent", header(8, "00")),), ()):
        call = lone([1])
        call.metadata = metadata
        serving.answer([call])
    assert [span.context.trace_id for span in spans if span.kind is SpanKind.SERVER] == [f"{7:032x}"]
    assert spans[0].attributes["rpc.method"] == "Recommender/Recommend"


def test_requests_of_tensors_are_traced_too() -> None:
    """A batch of them, and one that comes alone, under the names of their methods."""
    spans: list[Span] = []
    serving = service(spans)
    message = request({"history": np.array([[1, 2]], np.int64)}, model_name="recommender")
    batched = InferBatchRequest(requests=[message.SerializeToString()] * 2, traceparents={1: header(5)})
    alone = FakeCall(METHODS.index(MODEL_INFER), message.SerializeToString(), metadata=(("traceparent", header(6)),))
    serving.answer([FakeCall(METHODS.index(INFER_BATCH), batched.SerializeToString()), alone])
    served = {span.context.trace_id: span.attributes["rpc.method"] for span in spans if span.kind is SpanKind.SERVER}
    assert served == {f"{5:032x}": INFER_BATCH.lstrip("/"), f"{6:032x}": MODEL_INFER.lstrip("/")}
    assert {span.attributes["abfleet.run_size"] for span in spans if span.kind is SpanKind.INTERNAL} == {3}


def test_contexts_change_no_answer() -> None:
    """A worker that traces, and one that does not, answer a batch with contexts as one without."""
    answers = []
    for spans, contexts in (([], {0: header(1), 1: "garbage"}), (None, {0: header(1)}), (None, {})):
        call = batch([[1], [2]], contexts)
        service(spans).answer([call])
        answers.append(list(call.batch().responses))
    assert answers[0] == answers[1] == answers[2]
