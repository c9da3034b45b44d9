"""Answered calls asked again of versions in their shadow: who is in the sample, and what the log says of the answer.

Nobody sees these answers. What they are, or that there are none, changes nothing for any user's call: no record of a
replica, no circuit, no retry budget, no count of calls.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import structlog
from abfleet_experiments.bucketing import bucket
from abfleet_log.lines import event
from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_transport.call import Code
from google.protobuf.message import DecodeError

from abfleet_router.calls import infer_answer, oip_recommend
from abfleet_router.calls.batch_answer import BatchResponse, OtherVersion, items_of, read
from abfleet_router.calls.batch_failures import code_of
from abfleet_router.calls.call_records import AnsweredCall
from abfleet_router.calls.infer_answer import LoggedItems, LoggedTensors, NamedItems
from abfleet_router.calls.wire import WireError
from abfleet_router.configuration.snapshot import ShadowRoute, Snapshot
from abfleet_router.errors import LIMITS
from abfleet_router.fleet.batch import INFER, Hop
from abfleet_router.fleet.failure import BatchFailed, BatchOutcome, FailureReason
from abfleet_router.fleet.health_watch import serves_pool
from abfleet_router.fleet.pool import Pool
from abfleet_router.fleet.shadow_queue import ShadowBatch, ShadowQueue, ShedReason
from abfleet_router.metrics import RouterMetrics

log = structlog.get_logger("abfleet.router.shadow")

CODES = {FailureReason.UNAVAILABLE: Code.UNAVAILABLE, FailureReason.TIMEOUT: Code.DEADLINE_EXCEEDED}
"""Of a batch that ended without a status."""


class ShadowCall:
    """An answered call that is asked again; it holds on to nothing of the first but this."""

    __slots__ = ("hop", "payload", "primary", "queue", "request_id", "since", "user_id")

    def __init__(
        self,
        queue: "ShadowQueue[ShadowCall]",
        hop: Hop,
        payload: bytes,
        primary: str,
        request_id: str,
        user_id: str,
    ) -> None:
        """`queue`: of the version that is asked; `primary`: the version that has answered."""
        self.queue = queue
        self.hop = hop
        self.payload = payload
        self.primary = primary
        self.request_id = request_id
        self.user_id = user_id
        self.since = 0.0

    def as_infer(self, *, named: bool) -> bytes:
        """The call as a ModelInferRequest, for a server that serves nothing else; `named`: its items have names."""
        if self.hop is INFER:
            return self.payload
        return oip_recommend.as_infer(self.payload, self.request_id, named=named)


class TakesLines(Protocol):
    """The decision log, as far as it is needed here."""

    def append(self, line: bytes, /) -> None:
        """Adds a line."""


class ShadowCalls:
    """Follows the configuration in force. All of it runs on the event loop."""

    def __init__(
        self,
        decision_log: TakesLines,
        metrics: RouterMetrics,
        may_send: Callable[[], bool],
        clock: Callable[[], float],
        wall: Callable[[], float],
        *,
        router: str,
        hashed: Callable[[str], str] | None,
        timeout_seconds: float,
    ) -> None:
        """`may_send`: whether no user's call waits, and there is room for lines; `hashed`: what stands in lines instead
        of a user's id."""
        self.on = False
        """Whether any version is in the shadow of others: all that a call without one asks. Changed only by `use`."""
        self._log = decision_log
        self._metrics = metrics
        self._may_send = may_send
        self._clock = clock
        self._wall = wall
        self._router = router
        self._hashed = hashed
        self._timeout_seconds = timeout_seconds
        self._routes: list[tuple[ShadowRoute, ShadowQueue[ShadowCall]]] = []
        self._snapshot: Snapshot | None = None

    @property
    def open(self) -> int:
        """Calls that wait or are in flight."""
        return sum(queue.open for _, queue in self._routes)

    def use(self, snapshot: Snapshot) -> None:
        """Calls that are answered from now on are sampled as this configuration says."""
        queues = {queue.pool: queue for _, queue in self._routes}
        wanted = {route.pool for route in snapshot.shadows}
        self._snapshot = snapshot
        self._routes = [
            (
                route,
                queues.get(route.pool)
                or ShadowQueue(route.pool, self, self._may_send, self._clock, self._timeout_seconds),
            )
            for route in snapshot.shadows
        ]
        self.on = bool(self._routes)
        for pool, queue in queues.items():
            if pool not in wanted:
                queue.stop()

    def sample(self, served: Sequence[AnsweredCall], pool: Pool, version: str) -> list[ShadowCall]:
        """Those of the calls that version `version`, in `pool`, has answered that are to be asked again."""
        found = []
        for route, queue in self._routes:
            names, asked, salt, below = route.of, route.pool.version, route.salt, route.below
            if version == asked or pool is route.pool or (names and version not in names and pool.version not in names):
                continue
            for routed, _ in served:
                if bucket(salt, routed.request_id) < below:
                    found.append(
                        ShadowCall(queue, routed.hop, routed.call.payload, version, routed.request_id, routed.user_id)
                    )
        return found

    def add(self, sampled: Sequence[ShadowCall]) -> None:
        """The answers of these are on their way to their users."""
        for call in sampled:
            call.queue.append(call)

    # --- what becomes of them -----------------------------------------------------------------------------------------

    def on_sent(self, batch: ShadowBatch[ShadowCall]) -> None:
        self._metrics.shadow(batch.pool.version).sent += len(batch.calls)

    def on_shed(self, pool: Pool, calls: int, reason: ShedReason) -> None:
        shed = self._metrics.shadow(pool.version).shed
        shed[reason.value] = shed.get(reason.value, 0) + calls

    def on_end(self, batch: ShadowBatch[ShadowCall], outcome: BatchOutcome) -> None:
        version = batch.pool.version
        answers: Sequence[LoggedItems | Code] | None = None
        if isinstance(outcome, BatchFailed):
            code = outcome.code or CODES.get(outcome.reason, Code.INTERNAL)
        else:
            code = Code.INTERNAL
            try:
                version, answers = self._answers(batch, outcome)
            except (DecodeError, WireError, OtherVersion, ValueError) as error:
                log.debug("an answer in the shadow is none", address=batch.replica.address, error=str(error)[:200])
        now = self._clock()
        for place, call in enumerate(batch.calls):
            self._write(batch, call, version, code if answers is None else answers[place], now)

    def _answers(self, batch: ShadowBatch[ShadowCall], message: bytes) -> tuple[str, Sequence[LoggedItems | Code]]:
        """The version that has answered, and of each call the items or the error. Raises ValueError, as of `read`."""
        answer: BatchResponse = read(message, batch, batch.calls[0].payload)
        version = answer.model_version
        if version != batch.pool.version and not serves_pool(batch.pool.version, version, answer.alias):
            raise OtherVersion(version)
        if len(answer.responses) != len(batch.calls):
            raise ValueError(f"{len(answer.responses)} answers to {len(batch.calls)} calls")
        found: list[LoggedItems | Code] = []
        for place, response in enumerate(answer.responses):
            if place in answer.failures:
                found.append(code_of(answer.failures[place].code))
                continue
            try:
                found.append(self._logged(response, batch, batch.calls[place].payload))
            except (DecodeError, WireError):
                found.append(Code.INTERNAL)
        return version, found

    def _logged(self, response: bytes, batch: ShadowBatch[ShadowCall], request: bytes) -> LoggedItems:
        if batch.hop is not INFER:  # no more than was asked for: a version in the shadow may be in any state
            return items_of(response, RecommendRequest.FromString(request).limit or LIMITS.default_limit)
        assert self._snapshot is not None
        return infer_answer.logged(response, self._snapshot.config.logged_outputs(batch.pool.version))

    def _write(
        self, batch: ShadowBatch[ShadowCall], call: ShadowCall, version: str, answer: LoggedItems | Code, now: float
    ) -> None:
        assert self._snapshot is not None
        code = answer if isinstance(answer, Code) else Code.OK
        counts = self._metrics.shadow(batch.pool.version).answers
        counts[code] = counts.get(code, 0) + 1
        user: dict[str, str | None] = {"user_id": call.user_id or None}
        if self._hashed is not None and call.user_id:
            user = {"user_id": None, "user_id_hmac": self._hashed(call.user_id)}
        members = {
            "request_id": call.request_id,
            **user,
            "version": version,
            "primary": call.primary,
            **_items(answer),
            "status": code.name,
            "latency_ms": round((now - batch.sent) * 1000, 3),
            "config_revision": self._snapshot.revision,
            "router": self._router,
        }
        self._log.append(event("shadow", self._wall() - now + batch.sent, members))

    def close(self) -> None:
        """Gives up what is under way."""
        self.on = False
        for _, queue in self._routes:
            queue.stop()
        self._routes = []


def _items(answer: LoggedItems | Code) -> dict[str, object]:
    """The members `items` and `item_names`; as in an exposure, only names have the second."""
    items = answer.items if isinstance(answer, LoggedTensors) else None if isinstance(answer, Code) else answer
    if isinstance(items, NamedItems):
        return {"items": None, "item_names": list(items)}
    return {"items": None if items is None else list(items)}
