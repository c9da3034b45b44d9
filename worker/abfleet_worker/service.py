"""The gRPC edge: calls in, merged into as few runs of the model as possible, answers out.

Batching is natural: `answer` takes whatever calls have arrived, and while it works the next ones gather where they
come from. No timer, so a lone call waits for nothing.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import structlog
from abfleet_transport.call import Call, Code
from abfleet_transport.rpc_metrics import RpcMetrics
from numpy.typing import NDArray

from abfleet_worker import batch
from abfleet_worker.catalogue import Catalogue
from abfleet_worker.metrics import WorkerMetrics
from abfleet_worker.request import Item, Refusal, read_alone, read_items
from abfleet_worker.tracing import InferenceTracer, Traced

RECOMMEND = "/Recommender/Recommend"
RECOMMEND_BATCH = "/abfleet.worker.v1.Worker/RecommendBatch"
METHODS = (RECOMMEND, RECOMMEND_BATCH)
_BATCH_METHOD = METHODS.index(RECOMMEND_BATCH)

EXPIRED = Refusal(Code.DEADLINE_EXCEEDED, "the request's deadline passed before the model ran")
MODEL_FAILED = Refusal(Code.INTERNAL, "the model failed on this request; see the worker's log")
WORKER_FAILED = Refusal(Code.INTERNAL, "the worker failed on this request; see the worker's log")
REPORT_EVERY_SECONDS = 1.0

Answer = bytes | Refusal


class Model(Protocol):
    """What the service needs of a model."""

    version: str
    sha256: str
    max_history: int
    run_cells: float
    """What one more run costs, in padded places of a history."""
    catalogue: Catalogue | None
    """The items that it knows, None where the model has no table of them."""

    def infer(self, history: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """history: int64[batch, length] to item_ids: int64[batch, k] and scores: float32[batch, k]."""


class _Ready:
    """A model with what is derived from it; replaced as a whole, so that no answer mixes two versions."""

    __slots__ = ("model", "varints", "version_field")

    def __init__(self, model: Model) -> None:
        self.model = model
        self.varints = batch.Varints()
        self.version_field = batch.text_field(5, model.version)


class _Rpc(NamedTuple):
    """A call and the slice of the gathered items that is its own."""

    call: Call
    start: int
    stop: int
    request_id: str
    """Of a call of Recommend; unused for a batch."""


class RecommenderService:
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
        tracer: InferenceTracer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`alias`: the name under which it serves one version after the other, empty where it serves one for good;
        `tracer`: None where no spans are made."""
        self._ready = _Ready(model)  # changed only by `use`
        self._rpcs = rpc_metrics
        self._metrics = metrics
        self._max_batch = max_batch
        self._make_request_id = make_request_id
        self._alias = alias
        self._tracer = tracer
        self._clock = clock
        self._next_report = 0.0  # changed only by `_report`
        self._log = structlog.get_logger("abfleet.worker")

    @property
    def model(self) -> Model:
        """The model that answers the next calls."""
        return self._ready.model

    def use(self, model: Model) -> None:
        """Answers from now on with this model; what has begun ends with the one it began with."""
        self._ready = _Ready(model)

    def answer(self, calls: Sequence[Call]) -> None:
        """Answers every call once, merging them up to `max_batch` requests at a time. Never raises."""
        for call in calls:
            self._rpcs.started(call.method)
        waiting = list(reversed(calls))
        while waiting:
            ready = self._ready
            items: list[Item | Refusal] = []
            rpcs: list[_Rpc] = []
            traced = None if self._tracer is None else Traced()
            while waiting and len(items) < self._max_batch:
                call = waiting.pop()
                try:
                    self._gather(call, ready, items, rpcs, traced)
                except Exception:  # noqa: BLE001 - as below
                    self._log.exception("a request could not be read", bytes=len(call.payload))
                    self._fail(call, WORKER_FAILED)
            try:
                answers = self._infer(items, ready, traced)
            except Exception:  # noqa: BLE001 - the thread that receives must outlive any mistake
                self._log.exception("calls could not be answered", calls=len(rpcs), items=len(items))
                answers = [WORKER_FAILED] * len(items)
            self._send(rpcs, answers, ready)
            if traced is not None and traced.parents:
                self._trace(traced, rpcs, answers, ready.model.version)

    def gone(self, call: Call) -> None:
        """The caller went away before its call was read; on the thread of `answer`."""
        self._rpcs.started(call.method)
        self._rpcs.finished(call.method, Code.CANCELLED, self._clock() - call.arrived)

    def _gather(
        self, call: Call, ready: _Ready, items: list[Item | Refusal], rpcs: list[_Rpc], traced: Traced | None
    ) -> None:
        start, deadline, max_history = len(items), call.deadline, ready.model.max_history
        if call.method != _BATCH_METHOD:
            if self._tracer is not None and traced is not None:
                self._tracer.arrived_alone(traced, start, call)
            read = read_alone(call.payload, max_history, deadline)
            if isinstance(read, Refusal):
                items.append(read)
                rpcs.append(_Rpc(call, start, start + 1, ""))
            else:
                items.append(read[0])
                rpcs.append(_Rpc(call, start, start + 1, read[1] or self._make_request_id()))
            return
        parsed = batch.parse_batch(call.payload)
        if isinstance(parsed, Refusal):
            self._fail(call, parsed)  # the batch could not be read: the RPC itself fails
            return
        requests, timeouts, traceparents = parsed
        if self._tracer is not None and traced is not None:
            self._tracer.arrived(traced, start, traceparents, len(requests))
        items += read_items(requests, _expiries(timeouts, call, len(requests)), max_history)
        rpcs.append(_Rpc(call, start, len(items), ""))

    def _infer(self, items: list[Item | Refusal], ready: _Ready, traced: Traced | None) -> list[Answer]:
        answers: list[Answer] = [EXPIRED] * len(items)
        now = self._clock()
        wanted: list[int] = []
        for index, item in enumerate(items):
            if isinstance(item, Refusal):
                answers[index] = item
            elif item.expires is None or item.expires > now:
                wanted.append(index)
        live = [items[index] for index in wanted]
        lengths = [len(item.history) for item in live]  # type: ignore[union-attr]
        for run in batch.plan_runs(lengths, self._max_batch, ready.model.run_cells):
            begun = self._clock()
            for place, answer in zip(run, self._run([live[place] for place in run], ready), strict=True):  # type: ignore[misc]
                answers[wanted[place]] = answer
            if traced is not None and traced.parents:
                traced.ran([wanted[place] for place in run], begun, self._clock())
        return answers

    def _run(self, items: list[Item], ready: _Ready) -> list[Answer]:
        """One run of the model. If it fails, each item is tried alone, so that a bad one fails alone."""
        try:
            return self._try(items, ready)
        except Exception as error:  # noqa: BLE001 - whatever the runtime raises is the model's failure
            self._metrics.failed_runs += 1
            self._report(error, ready.model.version, len(items))
        answers: list[Answer] = []
        for item in items:
            if len(items) == 1 or (item.expires is not None and item.expires <= self._clock()):
                answers.append(MODEL_FAILED)
                continue
            try:
                answers += self._try([item], ready)
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

    def _try(self, items: list[Item], ready: _Ready) -> list[Answer]:
        history = batch.pad([item.history for item in items])
        begun = self._clock()
        item_ids, scores = ready.model.infer(history)
        self._metrics.ran(len(items), self._clock() - begun)
        if ready.model.catalogue is not None:
            self._metrics.asked(*ready.model.catalogue.count(history))
        return batch.encode(item_ids, scores, [item.limit for item in items], ready.varints)

    def _send(self, rpcs: list[_Rpc], answers: list[Answer], ready: _Ready) -> None:
        counts = self._metrics.items
        for answer in answers:
            counts[answer.code if isinstance(answer, Refusal) else 0] += 1
        for rpc in rpcs:
            mine = answers[rpc.start : rpc.stop]
            try:
                if rpc.call.method == _BATCH_METHOD:
                    elapsed_us = int((self._clock() - rpc.call.arrived) * 1e6)
                    payload = batch.join_batch(ready.model.version, mine, elapsed_us, self._alias)
                elif isinstance(mine[0], Refusal):
                    self._fail(rpc.call, mine[0])
                    continue
                else:
                    payload = batch.join_alone(mine[0], request_id=rpc.request_id, version_field=ready.version_field)
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
