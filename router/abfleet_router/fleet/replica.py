"""One worker process as the router sees it: its queue, its health, its record."""

import asyncio
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from abfleet_experiments.file.kinds import VERSION
from abfleet_process.security.tls import ClientTls
from abfleet_transport.call import Code
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from abfleet_router.fleet.batch_queue import Backlog, Batch, BatchQueue
from abfleet_router.fleet.ejection import EjectionRecord, is_ejected
from abfleet_router.fleet.failure import BatchFailed, FailureReason
from abfleet_router.fleet.http2_client_stream import RpcFailed
from abfleet_router.fleet.worker_link import WorkerLink

if TYPE_CHECKING:
    from abfleet_router.fleet.pool import Pool

log = structlog.get_logger("abfleet.router.replica")

FAILURE_PENALTY = 16
"""Calls of load that one recent failure counts as, so that a replica that fails fast does not look idle."""
PENALTY_SECONDS = 0.1
"""How long a failure is recent. Without an end, one failure would keep a replica from ever being tried again, and so
from being ejected or trusted. Five such times are half a second: one that always fails is out by then."""
_VERSION = re.compile(VERSION)
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
WATCH_METHOD, CHECK_METHOD = f"/{_HEALTH}/Watch", f"/{_HEALTH}/Check"
WATCH_RETRY_SECONDS = 0.2
"""Pause between health watches of a worker that is connected and ends them."""
CHECK_SECONDS = 1.0
"""Between two questions to a worker that allows no stream beside a call, where a watch would leave none for calls."""
CHECK_TIMEOUT_SECONDS = 2.0
"""For an answer to one, which stands in line with batches."""
BROKEN_OFF = (Code.UNAVAILABLE, Code.CANCELLED)
"""How a stream ends that somebody has cut, be it a proxy on the way."""


class ReplicaHealth(Enum):
    """What the health watch last heard."""

    CONNECTING = "connecting"
    SERVING = "serving"
    NOT_SERVING = "not_serving"
    WRONG_VERSION = "wrong_version"
    """It answers, but not under the name of the pool, be that a version or an alias."""
    LOST = "lost"
    """The connection broke."""


class ReplicaListener(Protocol):
    """Who takes back what a replica was given, in the class in which it was given; all of it on the event loop."""

    def on_answered(self, replica: "Replica", batch: Batch, message: bytes) -> None:
        """The worker's answer to a batch, not read yet."""

    def on_failed(self, replica: "Replica", batch: Batch, failure: BatchFailed) -> None:
        """No answer to a batch will come."""

    def on_expired(self, replica: "Replica", calls: list[Any]) -> None:
        """These have no time left for this attempt, and have not been sent."""

    def on_returned(self, replica: "Replica", calls: list[Any], reason: FailureReason) -> None:
        """These waited for the replica, which is out now; they have not been sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingSettings:
    """How many calls a batch has at most, and how many batches of one replica are in flight at once."""

    max_batch: int = 128
    """A 10,000-item scorer costs 16 µs a row in a batch of 32, hardly less in a larger one; 128 rows bound the wait."""
    max_in_flight: int = 1
    """More batches under way make each smaller and the round trip dearer for each call."""


class Replica:
    """State is changed only on the event loop: `health` by the watch, `record` by the pool."""

    def __init__(
        self,
        pool: "Pool",
        address: str,
        receiver: ReplicaListener,
        backlog: Backlog,
        clock: Callable[[], float],
        settings: BatchingSettings,
        *,
        tls: ClientTls | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.pool = pool
        self.version = pool.version
        self.address = address
        self.link = WorkerLink(
            address,
            self._on_lost,
            tls=tls,
            host_name=lambda: pool.host_name(address),
            on_moving=self._on_moving,
            draw=draw,
            clock=clock,
        )
        self.queue = BatchQueue(
            self.link, self, backlog, clock, max_batch=settings.max_batch, max_in_flight=settings.max_in_flight
        )
        self.record = EjectionRecord()
        self.health = ReplicaHealth.CONNECTING
        self.draining = False
        self.in_since = float("-inf")  # changed only by the pool
        self._receiver = receiver
        self._clock = clock
        self._on_health: Callable[[Replica], None] = lambda replica: None
        self._watch: asyncio.Task[None] | None = None
        self._heard = False  # something, of the health watch that is open

    def __repr__(self) -> str:
        state = "draining" if self.draining else self.health.value
        return f"<Replica {self.version} {self.address} {state} load={self.queue.load} record={self.record}>"

    @property
    def load(self) -> float:
        """Calls that wait or are in flight, and recent failures as if they were calls."""
        load, failures = self.queue.load, self.record.failures_in_a_row
        if failures and self._clock() - self.record.failed_at < PENALTY_SECONDS:
            return load + FAILURE_PENALTY * failures
        return load

    def is_in(self, now: float) -> bool:
        """Whether it may get calls: it serves, and is neither draining nor ejected at `now`."""
        return self.health is ReplicaHealth.SERVING and not self.draining and not is_ejected(self.record, now)

    @property
    def moving(self) -> bool:
        """Whether it is being connected anew because it said goodbye to its connection; nothing is sent meanwhile."""
        return self.link.moving

    # --- from the queue ----------------------------------------------------------------------------------------------

    def on_answered(self, batch: Batch, message: bytes) -> None:
        self._receiver.on_answered(self, batch, message)

    def on_failed(self, batch: Batch, failure: BatchFailed) -> None:
        self._receiver.on_failed(self, batch, failure)

    def on_expired(self, calls: list[Any]) -> None:
        self._receiver.on_expired(self, calls)

    # --- health and end ----------------------------------------------------------------------------------------------

    def check_liveness(self) -> None:
        """Called every 20 ms: a worker that says nothing any more is lost, though its connection is there."""
        self.link.check_liveness(alone=all(other is self for other in self.pool.available))

    def return_waiting(self, reason: FailureReason) -> None:
        """Gives back the calls that wait, because the replica is out."""
        if calls := self.queue.take_waiting():
            self._receiver.on_returned(self, calls, reason)

    def start(self, on_health: Callable[["Replica"], None]) -> None:
        """Begins to connect and to watch its health; `on_health` hears of every change."""
        self._on_health = on_health
        self._watch = asyncio.get_running_loop().create_task(
            self.link.keep_connected(self._keep_watching), name=f"connect {self.address}"
        )

    async def _keep_watching(self) -> None:
        """Follows the health of the version by name, as long as the connection lasts."""
        question = health_pb2.HealthCheckRequest(service=self.version).SerializeToString()
        while True:
            self._heard = False
            try:
                if self.link.may_watch:
                    await self.link.watch(WATCH_METHOD, question, self._on_health_message)
                    self._set(ReplicaHealth.NOT_SERVING)  # a watch has no end of its own: the worker is going
                else:
                    self._on_health_message(await self.link.ask(CHECK_METHOD, question, CHECK_TIMEOUT_SECONDS))
                    await asyncio.sleep(CHECK_SECONDS)
                    continue
            except TimeoutError:
                continue  # it stood behind a long batch; whether the worker lives is known otherwise
            except RpcFailed as error:
                if error.code is Code.UNIMPLEMENTED:  # gRFC A17: a server without health is assumed healthy
                    self._set(ReplicaHealth.SERVING)
                    return
                if error.code is Code.NOT_FOUND:
                    self._set(ReplicaHealth.WRONG_VERSION)  # what Check says of a name that it does not know
                elif self._heard and error.code in BROKEN_OFF:
                    continue  # a stream's end says nothing of health; if the next one ends so, too, it does
                elif not error.unsent:
                    self._set(ReplicaHealth.NOT_SERVING)
            await asyncio.sleep(WATCH_RETRY_SECONDS)

    def _on_health_message(self, message: bytes) -> None:
        self._heard = True
        try:
            self._set(health_of(health_pb2.HealthCheckResponse.FromString(message).status))
        except DecodeError:
            self._set(ReplicaHealth.NOT_SERVING)

    def _on_lost(self) -> None:
        self.queue.go_on()
        self._set(ReplicaHealth.LOST)

    def _on_moving(self) -> None:
        """Its connection is being replaced, or has been."""
        if self.moving:
            log.info("replica moves to a new connection", version=self.version, address=self.address)
            self.queue.hold()
        else:
            self.queue.go_on()
        self._on_health(self)

    def _set(self, health: ReplicaHealth) -> None:
        if health is self.health or (health is ReplicaHealth.LOST and self.health is ReplicaHealth.CONNECTING):
            return
        log.info("replica health", version=self.version, address=self.address, was=self.health.value, now=health.value)
        self.health = health
        self._on_health(self)

    async def close(self) -> None:
        """Stops the watch, the queue and the connection; calls that still wait are given back."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        self.queue.close()
        self.return_waiting(FailureReason.UNAVAILABLE)
        self.link.close()


def serves_pool(pool: str, version: str, alias: str) -> bool:
    """Whether a worker that serves `version`, and follows `alias` or none (""), is one for the pool of that name.

    A pool named by an alias takes the version that the alias leads to, as the worker knows it; what it calls itself
    goes into the log and to callers, so it must be a version's name.
    """
    return version == pool or (alias == pool and _VERSION.fullmatch(version) is not None)


def health_of(status: "health_pb2.HealthCheckResponse.ServingStatus") -> ReplicaHealth:
    """What a health answer under the version's name says of the replica."""
    match status:
        case health_pb2.HealthCheckResponse.SERVING:
            return ReplicaHealth.SERVING
        case health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            return ReplicaHealth.WRONG_VERSION
        case _:
            return ReplicaHealth.NOT_SERVING
