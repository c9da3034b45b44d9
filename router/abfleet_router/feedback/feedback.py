"""Feedback/Record: checks outcomes, logs them, and acknowledges what is logged. Knows the message and the log.

Outcomes come in batches and seldom, so they are served by grpc.aio beside the hot method, on the same loop: a batch is
checked in slices, so that no call waits for more than a few milliseconds of it.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import grpc
import orjson
from abfleet_log.outcome import OutcomeLike, conflict, content, known_types, line, problem
from abfleet_process.security.tls import identity
from abfleet_protos import recommender_pb2, recommender_pb2_grpc
from abfleet_transport.call import Code, Metadata
from abfleet_transport.rpc_metrics import RpcMetrics
from prometheus_client.core import CounterMetricFamily, Metric

from abfleet_router.configuration.snapshot import Snapshot
from abfleet_router.feedback.group_metrics import GroupOutcomes, group_of
from abfleet_router.feedback.seen_ids import SeenIds
from abfleet_router.security.access import AccessDenied

if TYPE_CHECKING:  # the stubs are generic, the class itself is not
    Context = grpc.aio.ServicerContext[recommender_pb2.RecordRequest, recommender_pb2.RecordResponse]
else:
    Context = grpc.aio.ServicerContext

METHOD_INDEX = 2
"""Index of /Feedback/Record in the methods that are counted."""
MAX_OUTCOMES = 10_000
SLICE = 250
"""Outcomes checked in one turn of the loop: about a millisecond."""
MAX_WAIT_SECONDS = 5.0
"""The longest wait for the log, even if the caller has more time: after UNAVAILABLE it can send the batch again."""


class OutcomeLog(Protocol):
    """The decision log, as far as it is needed here."""

    def append_all(self, lines: Sequence[bytes], written: Callable[[bool], None], /) -> None:
        """Adds lines and calls back on the loop once they and all before them are written, or are known not to be."""


@dataclass(slots=True)
class OutcomeCounts:
    """Outcomes by (type, result); types that no metric knows are `other`. Changed only by Feedback."""

    by_type: Counter[tuple[str, str]]

    def families(self) -> Iterable[Metric]:
        """The counts as a Prometheus family, read at each scrape."""
        outcomes = CounterMetricFamily(
            "abfleet_outcomes", "Outcomes received, by type and result.", labels=["type", "result"]
        )
        for (kind, result), count in sorted(self.by_type.items()):
            outcomes.add_metric([kind, result], count)
        yield outcomes


class Feedback(recommender_pb2_grpc.FeedbackServicer):
    """The gRPC service Feedback. Changed only on the event loop."""

    def __init__(
        self,
        log: OutcomeLog,
        snapshot: Callable[[], Snapshot | None],
        rpc_metrics: RpcMetrics,
        *,
        router: str,
        window: int,
        authorise: Callable[[Metadata, str | None], str | None],
        certificates: bool = False,
        user_id_hmac: Callable[[str], str] | None = None,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`window`: how many outcome ids are remembered; `authorise`: from metadata and the name in a certificate to
        who calls, raises AccessDenied for one who may not; `certificates`: whether callers show them."""
        self._log = log
        self._snapshot = snapshot
        self._rpc = rpc_metrics
        self._router = router
        self._seen, self._seen_synthetic = SeenIds(window), SeenIds(window)
        self._authorise = authorise
        self._certificates = certificates
        self._user_id_hmac = user_id_hmac
        self._wall = wall
        self._clock = clock
        self.counts = OutcomeCounts(Counter())
        self.by_group = GroupOutcomes()

    async def Record(self, request: recommender_pb2.RecordRequest, context: Context) -> recommender_pb2.RecordResponse:
        """One batch. What is accepted is in the log when the answer is sent."""
        self._rpc.started(METHOD_INDEX)
        begun, code = self._clock(), Code.CANCELLED
        try:
            metadata = tuple(context.invocation_metadata() or ())
            certificate = identity(context.auth_context()) if self._certificates else None
            client = self._authorise(metadata, certificate)
            answer = await self._record(request, metadata, client, context.time_remaining())
            code = Code.OK
            return answer
        except (OutcomesRefused, AccessDenied) as refused:
            code = refused.code
            await context.abort(grpc_status(code), str(refused))
            raise AssertionError("abort raises") from None
        except Exception:
            code = Code.INTERNAL
            raise
        finally:
            self._rpc.finished(METHOD_INDEX, code, self._clock() - begun)

    async def _record(
        self,
        request: recommender_pb2.RecordRequest,
        metadata: Metadata,
        client: str | None,
        remaining_seconds: float | None,
    ) -> recommender_pb2.RecordResponse:
        snapshot = self._snapshot()
        if snapshot is None:
            raise OutcomesRefused(Code.UNAVAILABLE, "the router is starting: no configuration is in force yet")
        if len(request.outcomes) > MAX_OUTCOMES:
            raise OutcomesRefused(
                Code.INVALID_ARGUMENT, f"outcomes: {len(request.outcomes)} entries; at most {MAX_OUTCOMES} are allowed"
            )
        batch = _OutcomeBatch(
            snapshot=snapshot,
            types=known_types(snapshot.config),
            synthetic=("x-synthetic", "1") in metadata,
            now=int(self._wall() * 1e6),
            client=client,
        )
        seen = self._seen_of(batch)
        try:
            for begin in range(0, len(request.outcomes), SLICE):
                # Checked and appended in one turn, so of two callers with the same outcome one is first.
                self._take(request.outcomes[begin : begin + SLICE], begin, batch)
                await asyncio.sleep(0)
            if not await _all_written(batch.written, remaining_seconds):
                raise OutcomesRefused(
                    Code.UNAVAILABLE, "the decision log cannot be written now; send the batch again: repeats count once"
                )
        except BaseException:  # also when the caller goes: nothing has said that these are in the log
            for outcome_id in batch.new:
                seen.discard(outcome_id)
            raise
        self.counts.by_type.update(batch.results)
        self.by_group.counts.update(batch.by_group)
        total: Counter[str] = Counter()
        for (_, result), count in batch.results.items():
            total[result] += count
        answer = batch.answer
        answer.accepted, answer.duplicate, answer.rejected = total["accepted"], total["duplicate"], total["rejected"]
        return answer

    def _take(self, outcomes: Sequence[OutcomeLike], begin: int, batch: "_OutcomeBatch") -> None:
        """Checks and logs a slice of a batch that begins at an index."""
        lines = []
        types, results, seen = batch.types, batch.results, self._seen_of(batch)
        for index, outcome in enumerate(outcomes, begin):
            outcome_id, kind = outcome.outcome_id, outcome.type
            reason, now, known = problem(outcome, types, batch.now), content(outcome), seen.get(outcome_id)
            if reason is None and known not in (None, now):
                reason = conflict(outcome_id)
            if reason is not None:
                result = "rejected"
                batch.answer.rejections.add(index=index, outcome_id=outcome_id[:128], reason=reason)
            elif known is not None:
                result = "duplicate"
            else:
                result = "accepted"
                seen.add(outcome_id, now)
                batch.new.append(outcome_id)
                batch.by_group[(*group_of(batch.snapshot, outcome.user_id), kind)] += 1
                lines.append(self._encode(outcome, batch))
            results[kind if kind in types else "other", result] += 1
        # A slice of repeats waits too: their first may be on its way into the log.
        written: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._log.append_all(lines, lambda ok: None if written.done() else written.set_result(ok))
        batch.written.append(written)

    def _seen_of(self, batch: "_OutcomeBatch") -> SeenIds:
        """The ids that its own may repeat: what was made up takes no id from what happened."""
        return self._seen_synthetic if batch.synthetic else self._seen

    def _encode(self, outcome: OutcomeLike, batch: "_OutcomeBatch") -> bytes:
        hashed = self._user_id_hmac(outcome.user_id) if self._user_id_hmac and outcome.user_id else None
        return orjson.dumps(
            line(
                outcome,
                batch.now,
                synthetic=batch.synthetic,
                router=self._router,
                user_id_hmac=hashed,
                client=batch.client,
            )
        )


@dataclass(slots=True)
class _OutcomeBatch:
    """One call's outcomes on their way; changed only by the call."""

    snapshot: Snapshot
    types: Collection[str]
    synthetic: bool
    now: int
    """In microseconds since the epoch."""
    client: str | None = None
    """The caller, if it said who it is."""
    answer: recommender_pb2.RecordResponse = field(default_factory=recommender_pb2.RecordResponse)
    results: Counter[tuple[str, str]] = field(default_factory=Counter)
    by_group: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Accepted ones by (experiment, group, type)."""
    new: list[str] = field(default_factory=list)
    """Ids that were not seen before."""
    written: list["asyncio.Future[bool]"] = field(default_factory=list)


async def _all_written(written: Sequence["asyncio.Future[bool]"], remaining_seconds: float | None) -> bool:
    """Waits for the log; False when something is not, or not yet, in it."""
    wait_seconds = MAX_WAIT_SECONDS if remaining_seconds is None else min(MAX_WAIT_SECONDS, remaining_seconds)
    try:
        async with asyncio.timeout(wait_seconds):
            return all([await one for one in written])
    except TimeoutError:
        return False


class OutcomesRefused(Exception):
    """A batch of outcomes is refused as a whole; `code` is the status of the answer."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


def grpc_status(code: Code) -> grpc.StatusCode:
    """The library's name for a status code."""
    return grpc.StatusCode[code.name]
