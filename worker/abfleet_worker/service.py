"""The gRPC edge: calls in, merged into as few runs of the model as possible, answers out.

Batching is natural: `answer` takes whatever calls have arrived, and while it works the next ones gather where they
come from. No timer, so a lone call waits for nothing.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import structlog
from abfleet_models.signature import RECOMMENDER
from abfleet_transport.call import Call, Code
from abfleet_transport.rpc_metrics import RpcMetrics

from abfleet_worker import batch
from abfleet_worker.metrics import WorkerMetrics
from abfleet_worker.recommending import NamedRecommending, NotRecommending, Recommending, RecommendingModel
from abfleet_worker.request import Refusal
from abfleet_worker.tensors.inferring import Inferring, TensorModel
from abfleet_worker.tracing import InferenceTracer, Traced

RECOMMEND = "/Recommender/Recommend"
RECOMMEND_BATCH = "/abfleet.worker.v1.Worker/RecommendBatch"
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
INFER_BATCH = "/abfleet.worker.v1.Worker/InferBatch"
METHODS = (RECOMMEND, RECOMMEND_BATCH, MODEL_INFER, INFER_BATCH)
_FIRST_OF_TENSORS = METHODS.index(MODEL_INFER)
_BATCHED = (False, True, False, True)
"""Of each method, whether one call brings many requests."""
DEFAULT_NAME = "recommender"
"""What the model is called over the Open Inference Protocol."""
MOST_ANSWER_BYTES = 64 * 1024 * 1024
"""Of the answer to a batch of tensors; a router takes no larger message."""

EXPIRED = Refusal(Code.DEADLINE_EXCEEDED, "the request's deadline passed before the model ran")
MODEL_FAILED = Refusal(Code.INTERNAL, "the model failed on this request; see the worker's log")
WORKER_FAILED = Refusal(Code.INTERNAL, "the worker failed on this request; see the worker's log")
REPORT_EVERY_SECONDS = 1.0

Answer = bytes | Refusal


class Model(RecommendingModel, TensorModel, Protocol):
    """What the service needs of a model; what is a recommender's alone means nothing for another one."""

    sha256: str


class ReadRequest(Protocol):
    """One request, read and not answered yet."""

    @property
    def expires(self) -> float | None: ...


class Answering(Protocol):
    """How requests of one kind are read, run and answered. Items are whatever its own `read_` methods give."""

    batch_type: Any
    """The message of a batch: `requests`, `timeout_ms`, `traceparents`."""

    def read_alone(self, payload: bytes, expires: float | None) -> tuple[Any, str] | Refusal: ...

    def read_batch(self, payloads: Sequence[bytes], expiries: Sequence[float | None]) -> Sequence[Any]: ...

    def plan(self, items: Sequence[Any], max_batch: int) -> list[Sequence[int]]: ...

    def run(self, items: Sequence[Any]) -> list[Answer]: ...

    def join_alone(self, answer: bytes, request_id: str) -> bytes: ...

    def join_batch(self, answers: Sequence[Answer], elapsed_us: int) -> bytes: ...


class _Ready(NamedTuple):
    """A model with what is derived from it; replaced as a whole, so that no answer mixes two versions."""

    model: Model
    recommending: Answering
    inferring: Answering


class _Rpc(NamedTuple):
    """A call and the slice of the gathered items that is its own."""

    call: Call
    start: int
    stop: int
    request_id: str
    """Of a call that is one request; unused for a batch."""


class ModelService:
    """Answers calls with one model. `answer` must never run twice at a time; `use` may be called at any."""

    def __init__(
        self,
        model: Model,
        *,
        rpc_metrics: RpcMetrics,
        metrics: WorkerMetrics,
        max_batch: int,
        make_request_id: Callable[[], str],
        alias: str = "",
        name: str = DEFAULT_NAME,
        most_answer_bytes: int = MOST_ANSWER_BYTES,
        tracer: InferenceTracer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`alias`: the name under which it serves one version after the other, empty where it serves one for good;
        `name`: the model's over the Open Inference Protocol; `most_answer_bytes`: of the answer to a batch of tensors;
        `tracer`: None where no spans are made."""
        self._rpcs = rpc_metrics
        self._metrics = metrics
        self._max_batch = max_batch
        self._make_request_id = make_request_id
        self._alias = alias
        self._name = name
        self._most_answer_bytes = most_answer_bytes
        self._tracer = tracer
        self._clock = clock
        self._ready = self._made_ready(model)  # changed only by `use`
        self._next_report = 0.0  # changed only by `_report`
        self._log = structlog.get_logger("abfleet.worker")

    @property
    def model(self) -> Model:
        """The model that answers the next calls."""
        return self._ready.model

    def use(self, model: Model) -> None:
        """Answers from now on with this model; what has begun ends with the one it began with."""
        self._ready = self._made_ready(model)

    def _made_ready(self, model: Model) -> _Ready:
        shared: dict[str, Any] = {"alias": self._alias, "metrics": self._metrics, "clock": self._clock}
        inferring = Inferring(model, name=self._name, most_bytes=self._most_answer_bytes, **shared)
        if model.signature.kind != RECOMMENDER:
            names = ", ".join(spec.name for spec in model.signature.inputs)
            refusal = Refusal(
                Code.FAILED_PRECONDITION, f"version {model.version} takes {names}, not a history; call ModelInfer"
            )
            return _Ready(model, NotRecommending(model.version, self._alias, refusal), inferring)
        shared["make_request_id"] = self._make_request_id
        recommending = Recommending(model, **shared)
        if model.names is not None:
            recommending = NamedRecommending(model, model.names, **shared)
        return _Ready(model, recommending, inferring)

    def answer(self, calls: Sequence[Call]) -> None:
        """Answers every call once, merging them up to `max_batch` requests at a time. Never raises."""
        waiting: list[Call] = []
        of_tensors: list[Call] = []
        for call in reversed(calls):
            self._rpcs.started(call.method)
            (waiting if call.method < _FIRST_OF_TENSORS else of_tensors).append(call)
        self._answer_all(waiting, of_tensors=False)
        if of_tensors:
            self._answer_all(of_tensors, of_tensors=True)

    def _answer_all(self, waiting: list[Call], *, of_tensors: bool) -> None:
        """Empties `waiting`, whose last call came first."""
        while waiting:
            ready = self._ready
            answering = ready.inferring if of_tensors else ready.recommending
            items: list[ReadRequest | Refusal] = []
            rpcs: list[_Rpc] = []
            traced = None if self._tracer is None else Traced()
            while waiting and len(items) < self._max_batch:
                call = waiting.pop()
                try:
                    self._gather(call, answering, items, rpcs, traced)
                except Exception:  # noqa: BLE001 - as below
                    self._log.exception("a request could not be read", bytes=len(call.payload))
                    self._fail(call, WORKER_FAILED)
            try:
                answers = self._infer(items, answering, ready.model.version, traced)
            except Exception:  # noqa: BLE001 - the thread that receives must outlive any mistake
                self._log.exception("calls could not be answered", calls=len(rpcs), items=len(items))
                answers = [WORKER_FAILED] * len(items)
            self._send(rpcs, answers, answering)
            if traced is not None and traced.parents:
                self._trace(traced, rpcs, answers, ready.model.version)

    def gone(self, call: Call) -> None:
        """The caller went away before its call was read; on the thread of `answer`."""
        self._rpcs.started(call.method)
        self._rpcs.finished(call.method, Code.CANCELLED, self._clock() - call.arrived)

    def _gather(
        self,
        call: Call,
        answering: Answering,
        items: list[ReadRequest | Refusal],
        rpcs: list[_Rpc],
        traced: Traced | None,
    ) -> None:
        start = len(items)
        if not _BATCHED[call.method]:
            if self._tracer is not None and traced is not None:
                self._tracer.arrived_alone(traced, start, call)
            read = answering.read_alone(call.payload, call.deadline)
            item: Any = read
            request_id = ""
            if not isinstance(read, Refusal):
                item, request_id = read
            items.append(item)
            rpcs.append(_Rpc(call, start, start + 1, request_id))
            return
        parsed = batch.parse_batch(call.payload, answering.batch_type)
        if isinstance(parsed, Refusal):
            self._fail(call, parsed)  # the batch could not be read: the RPC itself fails
            return
        requests, timeouts, traceparents = parsed
        if self._tracer is not None and traced is not None:
            self._tracer.arrived(traced, start, traceparents, len(requests))
        items += answering.read_batch(requests, _expiries(timeouts, call, len(requests)))
        rpcs.append(_Rpc(call, start, len(items), ""))

    def _infer(
        self, items: list[ReadRequest | Refusal], answering: Answering, version: str, traced: Traced | None
    ) -> list[Answer]:
        answers: list[Answer] = [EXPIRED] * len(items)
        now = self._clock()
        wanted: list[int] = []
        for index, item in enumerate(items):
            if isinstance(item, Refusal):
                answers[index] = item
            elif item.expires is None or item.expires > now:
                wanted.append(index)
        live = [items[index] for index in wanted]
        for run in answering.plan(live, self._max_batch):
            begun = self._clock()
            for place, answer in zip(run, self._run([live[place] for place in run], answering, version), strict=True):
                answers[wanted[place]] = answer
            if traced is not None and traced.parents:
                traced.ran([wanted[place] for place in run], begun, self._clock())
        return answers

    def _run(self, items: list[Any], answering: Answering, version: str) -> list[Answer]:
        """One run of the model. If it fails, each item is tried alone, so that a bad one fails alone."""
        try:
            return answering.run(items)
        except Exception as error:  # noqa: BLE001 - whatever the runtime raises is the model's failure
            self._metrics.failed_runs += 1
            self._report(error, version, len(items))
        answers: list[Answer] = []
        for item in items:
            if len(items) == 1 or (item.expires is not None and item.expires <= self._clock()):
                answers.append(MODEL_FAILED)
                continue
            try:
                answers += answering.run([item])
            except Exception:  # noqa: BLE001 - its cause is that of the run, which is in the log
                self._metrics.failed_runs += 1
                answers.append(MODEL_FAILED)
        return answers

    def _report(self, error: Exception, version: str, items: int) -> None:
        """Logs a failed run, at most one a second: a broken model fails as often as it is asked."""
        now = self._clock()
        if now >= self._next_report:
            self._next_report = now + REPORT_EVERY_SECONDS
            runs = self._metrics.failed_runs
            self._log.error("inference failed", version=version, items=items, failed_runs=runs, error=str(error)[:500])

    def _send(self, rpcs: list[_Rpc], answers: list[Answer], answering: Answering) -> None:
        counts = self._metrics.items
        for answer in answers:
            counts[answer.code if isinstance(answer, Refusal) else 0] += 1
        for rpc in rpcs:
            mine = answers[rpc.start : rpc.stop]
            try:
                if _BATCHED[rpc.call.method]:
                    payload = answering.join_batch(mine, int((self._clock() - rpc.call.arrived) * 1e6))
                elif isinstance(mine[0], Refusal):
                    self._fail(rpc.call, mine[0])
                    continue
                else:
                    payload = answering.join_alone(mine[0], rpc.request_id)
            except Exception:  # noqa: BLE001 - the other calls of the group still get their answers
                self._log.exception("answers could not be encoded", items=len(mine))
                self._fail(rpc.call, WORKER_FAILED)
                continue
            rpc.call.reply(payload)
            self._rpcs.finished(rpc.call.method, Code.OK, self._clock() - rpc.call.arrived)

    def _trace(self, traced: Traced, rpcs: list[_Rpc], answers: list[Answer], version: str) -> None:
        """Makes the spans of what is answered: nobody waits for them, and a fault in them is no fault of a call."""
        assert self._tracer is not None
        now = self._clock()
        try:
            for rpc in rpcs:
                for index in range(rpc.start, rpc.stop):
                    if index in traced.parents:
                        answer = answers[index]
                        code = answer.code if isinstance(answer, Refusal) else Code.OK
                        method = METHODS[rpc.call.method]
                        self._tracer.answered(
                            traced, index, call=rpc.call, method=method, code=code, version=version, now=now
                        )
        except Exception:  # noqa: BLE001 - as above: this thread must outlive any mistake
            self._log.exception("spans could not be made", calls=len(rpcs))

    def _fail(self, call: Call, refusal: Refusal) -> None:
        call.fail(refusal.code, refusal.message)
        self._rpcs.finished(call.method, refusal.code, self._clock() - call.arrived)


def _expiries(timeouts: Sequence[int], call: Call, count: int) -> list[float] | list[float | None]:
    """When each item of a batch expires: no item has more time than the RPC that carries it."""
    arrived, deadline = call.arrived, call.deadline
    if not timeouts:
        return [deadline] * count
    if deadline is None:
        return [arrived + timeout_ms / 1000 for timeout_ms in timeouts]
    left_ms = (deadline - arrived) * 1000
    return [arrived + timeout_ms / 1000 if timeout_ms < left_ms else deadline for timeout_ms in timeouts]
