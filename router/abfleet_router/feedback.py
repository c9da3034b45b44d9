"""Feedback/Record: checks outcomes, logs them, and acknowledges what is logged. Knows the message and the log.

Outcomes come in batches and seldom, so they are served by grpc.aio beside the hot method, on the same loop: a batch is
checked in slices, so that no call waits for more than a few milliseconds of it.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import grpc
import orjson
from abfleet_experiments.outcome import Currencies, OutcomeLike, known_types, line, problem
from abfleet_protos import recommender_pb2, recommender_pb2_grpc
from abfleet_transport.call import Code, Metadata
from abfleet_transport.rpc_metrics import RpcMetrics
from prometheus_client.core import CounterMetricFamily, Metric

from abfleet_router.seen_ids import SeenIds
from abfleet_router.snapshot import Snapshot

if TYPE_CHECKING:  # the stubs are generic, the class itself is not
    Context = grpc.aio.ServicerContext[recommender_pb2.RecordRequest, recommender_pb2.RecordResponse]
else:
    Context = grpc.aio.ServicerContext

METHOD_INDEX = 1
"""Of /Feedback/Record among the methods that are counted."""
MAX_OUTCOMES = 10_000
SLICE = 250
"""Outcomes checked in one turn of the loop: about a millisecond."""
MAX_WAIT_SECONDS = 5.0
"""For the log, where the caller gives more time: a caller who is told UNAVAILABLE can come again."""


class OutcomeLog(Protocol):
    """The decision log, as far as it is needed here."""

    def append_all(self, lines: Sequence[bytes], written: Callable[[bool], None], /) -> None:
        """Adds lines and calls back on the loop once they and all before them are written, or are known not to be."""


@dataclass(slots=True)
class OutcomeCounts:
    """Outcomes by (type, result); types that no metric knows are `other`. Changed only by Feedback."""

    by_type: Counter[tuple[str, str]]

    def families(self) -> Iterable[Metric]:
        """For /metrics."""
        outcomes = CounterMetricFamily(
            "abfleet_outcomes", "Outcomes that were told, by what became of them.", labels=["type", "result"]
        )
        for (kind, result), count in sorted(self.by_type.items()):
            outcomes.add_metric([kind, result], count)
        yield outcomes


class Feedback(recommender_pb2_grpc.FeedbackServicer):
    """Changed only on the event loop."""

    def __init__(
        self,
        log: OutcomeLog,
        snapshot: Callable[[], Snapshot | None],
        rpc_metrics: RpcMetrics,
        *,
        router: str,
        window: int,
        allowed: Callable[[Metadata], bool],
        user_id_hmac: Callable[[str], str] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`window`: how many outcome ids are remembered; `allowed`: whether a caller may record."""
        self._log = log
        self._snapshot = snapshot
        self._rpc = rpc_metrics
        self._router = router
        self._seen = SeenIds(window)
        self._currencies = Currencies()
        self._allowed = allowed
        self._user_id_hmac = user_id_hmac
        self._wall = wall
        self.counts = OutcomeCounts(Counter())

    async def Record(self, request: recommender_pb2.RecordRequest, context: Context) -> recommender_pb2.RecordResponse:
        """One batch. What is accepted is in the log when the answer is sent."""
        self._rpc.started(METHOD_INDEX)
        begun, code = time.monotonic(), Code.CANCELLED
        try:
            answer = await self._record(request, tuple(context.invocation_metadata() or ()), context.time_remaining())
            code = Code.OK
            return answer
        except Refused as refused:
            code = refused.code
            await context.abort(grpc_status(code), str(refused))
            raise AssertionError("abort raises") from None
        except Exception:
            code = Code.INTERNAL
            raise
        finally:
            self._rpc.finished(METHOD_INDEX, code, time.monotonic() - begun)

    async def _record(
        self, request: recommender_pb2.RecordRequest, metadata: Metadata, remaining_seconds: float | None
    ) -> recommender_pb2.RecordResponse:
        snapshot = self._snapshot()
        if not self._allowed(metadata):
            raise Refused(Code.UNAUTHENTICATED, "outcomes are taken on loopback only, unless --open-feedback is set")
        if snapshot is None:
            raise Refused(Code.UNAVAILABLE, "the router is starting: no configuration is in force yet")
        if len(request.outcomes) > MAX_OUTCOMES:
            raise Refused(
                Code.INVALID_ARGUMENT, f"outcomes: {len(request.outcomes)} of them; allowed: at most {MAX_OUTCOMES}"
            )
        types = known_types(snapshot.config)
        checked = await self._check(request.outcomes, types, synthetic=("x-synthetic", "1") in metadata)
        # From here to the log nothing else runs: of two callers with the same outcome one is the first.
        answer = recommender_pb2.RecordResponse()
        results: Counter[tuple[str, str]] = Counter()
        lines, new = [], []
        for index, (outcome, reason, encoded) in enumerate(checked):
            reason = reason or self._currencies.problem(outcome)
            if reason is not None:
                result = "rejected"
                answer.rejections.add(index=index, outcome_id=outcome.outcome_id[:128], reason=reason)
            elif outcome.outcome_id in self._seen:
                result = "duplicate"
            else:
                result = "accepted"
                self._seen.add(outcome.outcome_id)
                new.append(outcome.outcome_id)
                lines.append(encoded)
            results[outcome.type if outcome.type in types else "other", result] += 1
        # A duplicate waits too: its first may be on its way into the log.
        if len(answer.rejections) < len(checked) and not await self._logged(lines, remaining_seconds):
            for outcome_id in new:
                self._seen.discard(outcome_id)
            raise Refused(Code.UNAVAILABLE, "the log cannot be written now; send the batch again, a repeat is harmless")
        self.counts.by_type.update(results)
        total: Counter[str] = Counter()
        for (_, result), count in results.items():
            total[result] += count
        answer.accepted, answer.duplicate, answer.rejected = total["accepted"], total["duplicate"], total["rejected"]
        return answer

    async def _check(
        self, outcomes: Sequence[OutcomeLike], types: Collection[str], *, synthetic: bool
    ) -> list[tuple[OutcomeLike, str | None, bytes]]:
        """Each outcome with what is wrong with it, or its line."""
        checked = []
        now = int(self._wall() * 1e6)
        for index, outcome in enumerate(outcomes, 1):
            reason = problem(outcome, types, now)
            encoded = b"" if reason is not None else self._encode(outcome, now, synthetic=synthetic)
            checked.append((outcome, reason, encoded))
            if index % SLICE == 0:
                await asyncio.sleep(0)
        return checked

    def _encode(self, outcome: OutcomeLike, now: int, *, synthetic: bool) -> bytes:
        hashed = self._user_id_hmac(outcome.user_id) if self._user_id_hmac and outcome.user_id else None
        return orjson.dumps(line(outcome, now, synthetic=synthetic, router=self._router, user_id_hmac=hashed))

    async def _logged(self, lines: Sequence[bytes], remaining_seconds: float | None) -> bool:
        """Appends the lines and waits for them; False when they are not, or not yet, in the log."""
        written: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._log.append_all(lines, lambda ok: None if written.done() else written.set_result(ok))
        wait_seconds = MAX_WAIT_SECONDS if remaining_seconds is None else min(MAX_WAIT_SECONDS, remaining_seconds)
        try:
            return await asyncio.wait_for(written, wait_seconds)
        except TimeoutError:
            return False


class Refused(Exception):
    """A whole batch is not taken."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


def grpc_status(code: Code) -> grpc.StatusCode:
    """The library's name for a status code."""
    return grpc.StatusCode[code.name]
