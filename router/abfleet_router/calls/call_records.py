"""What is counted and logged when a call has ended, once for each call. Knows counters and lines, decides nothing."""

from collections.abc import Callable, Sequence

from abfleet_log.lines import event
from abfleet_log.writer.decision_log import DecisionLog
from abfleet_transport.call import Call, Code
from abfleet_transport.rpc_metrics import RpcMetrics

from abfleet_router.calls import infer_request, log_line
from abfleet_router.calls.infer_answer import LoggedItems
from abfleet_router.calls.log_line import EndedCall
from abfleet_router.calls.request import request_id_of
from abfleet_router.calls.routed_call import RoutedCall
from abfleet_router.calls.spans import CallTracer
from abfleet_router.configuration.snapshot import Snapshot
from abfleet_router.errors import InvalidRequest
from abfleet_router.fleet.batch import INFER
from abfleet_router.fleet.failure import FailureReason
from abfleet_router.metrics import RouterMetrics

RECOMMEND, MODEL_INFER = 0, 1
"""Indexes of /Recommender/Recommend and /inference.GRPCInferenceService/ModelInfer in the methods of the server."""
AnsweredCall = tuple[RoutedCall, LoggedItems]
"""A call that was answered, and what is logged of its answer."""
MOST_UNLOGGED = 256
"""Calls that have ended and are not made into lines yet: what they hold on to is a megabyte at most."""


class CallRecords:
    """Counts, logs and traces calls that have ended. Used only on the event loop."""

    def __init__(
        self,
        metrics: RouterMetrics,
        rpc_metrics: RpcMetrics,
        decision_log: DecisionLog,
        clock: Callable[[], float],
        wall: Callable[[], float],
        *,
        router: str,
        hashed: Callable[[str], str] | None = None,
        tracer: CallTracer | None = None,
    ) -> None:
        """`hashed`: what stands in lines instead of a user's id; `tracer`: None where no spans are made."""
        self._tracer = tracer
        self._metrics = metrics
        self._rpc = rpc_metrics
        self._log = decision_log
        self._clock = clock
        self._wall = wall
        self._router = router
        self._hashed = hashed
        self._ended: list[EndedCall] = []  # not made into lines yet
        decision_log.make_late(self._late_lines, lambda: len(self._ended))

    def arrived(self, calls: int, infers: int) -> None:
        """Counts so many calls as started; `infers` of them are calls of ModelInfer."""
        self._rpc.started(RECOMMEND, calls - infers)
        if infers:
            self._rpc.started(MODEL_INFER, infers)

    def served(self, calls: Sequence[AnsweredCall], served: str, worker_seconds: float) -> None:
        """These were answered together by version `served`; their answers are on their way already."""
        now = self._clock()
        if not self._ended:
            self._log.flush_soon()
        self._ended += [(routed, item_ids, served, Code.OK, None, now) for routed, item_ids in calls]
        if len(self._ended) >= MOST_UNLOGGED:
            self._log.extend(self._late_lines())
        self.count_served(calls, served, worker_seconds)

    def lines_of(self, calls: Sequence[AnsweredCall], served: str) -> list[bytes]:
        """The lines of calls that version `served` answered; where answers wait for their lines, they come first."""
        now = self._clock()
        ended = [(routed, item_ids, served, Code.OK, None, now) for routed, item_ids in calls]
        return log_line.exposures(ended, self._wall() - now, self._hashed)

    def _late_lines(self) -> list[bytes]:
        """Those of the calls that have ended since the last time."""
        if not self._ended:
            return []
        ended, self._ended = self._ended, []
        return log_line.exposures(ended, self._wall() - self._clock(), self._hashed)

    def count_served(self, calls: Sequence[AnsweredCall], served: str, worker_seconds: float) -> None:
        """Counts calls of one method that version `served` answered, once the answers are on their way."""
        now = self._clock()
        took: list[float] = []
        added: list[float] = []
        for routed, _ in calls:
            stats = routed.snapshot.routes[routed.arm.index].stats
            seconds = now - routed.call.arrived
            took.append(seconds)
            added.append(seconds - worker_seconds)
            stats.latency.observe(seconds)
            if routed.fallback is None:
                stats.ok += 1
            else:
                stats.count(served, Code.OK)
        self._rpc.finished_all(calls[0][0].call.method, Code.OK, took)
        self._metrics.added.observe_all(added)
        if self._tracer is not None:
            wall_offset = self._wall() - now
            for routed, _ in calls:
                self._tracer.ended(routed, Code.OK, served, now, wall_offset)

    def unlogged(self, routed: RoutedCall) -> None:
        """A call was refused because its line could not be written."""
        self._count_failed(routed, Code.UNAVAILABLE)

    def failed(self, routed: RoutedCall, code: Code, failure: FailureReason | None = None) -> None:
        """A call that was admitted has ended without an answer from a worker. `failure`: of the version asked last."""
        now = routed.call.arrived + self._count_failed(routed, code)
        if routed.hop is INFER:
            routed.call.payload = b""  # as large as it may be, it would be kept until the line is made
        if not self._ended:
            self._log.flush_soon()
        self._ended.append((routed, (), None, code, failure, now))
        if len(self._ended) >= MOST_UNLOGGED:
            self._log.extend(self._late_lines())

    def _count_failed(self, routed: RoutedCall, code: Code) -> float:
        """Counts a call that no worker's answer ended; gives the seconds that it took."""
        seconds = self._clock() - routed.call.arrived
        stats = routed.snapshot.routes[routed.arm.index].stats
        self._rpc.finished(routed.call.method, code, seconds)
        stats.latency.observe(seconds)
        stats.count("", code)
        if self._tracer is not None:
            now = routed.call.arrived + seconds
            self._tracer.ended(routed, code, "", now, self._wall() - now)
        return seconds

    def refused(self, call: Call, code: Code) -> None:
        """Counts and traces a call that was not admitted. It was assigned to nothing, so it is no exposure."""
        now = self._clock()
        self._rpc.finished(call.method, code, now - call.arrived)
        if self._tracer is not None:
            self._tracer.refused(call, code, now, self._wall() - now)

    def rejected(self, call: Call, snapshot: Snapshot, error: InvalidRequest, client: str | None = None) -> None:
        """A call of `client` was refused as the caller's mistake."""
        self.refused(call, error.code)
        self._metrics.rejected += 1
        members = {
            "router": self._router,
            "request_id": caller_request_id(call),
            "field": error.field,
            "message": f"allowed: {error.allowed}",
            "config_revision": snapshot.revision,
            "synthetic": ("x-synthetic", "1") in tuple(call.metadata),
            "client": client,
        }
        self._log.append(event("rejected", self._wall(), members))


def caller_request_id(call: Call) -> str | None:
    """The id that the caller gave a request which was refused, where it is a valid one."""
    return infer_request.request_id_of(call.payload) if call.method else request_id_of(call.payload)
