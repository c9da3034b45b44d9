"""One worker process as the router sees it: its link, its queue, its health, its record."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import structlog
from abfleet_experiments.config import OipModel
from abfleet_process.lasting import start_lasting

from abfleet_router.balancing.ejection import EjectionRecord, is_ejected
from abfleet_router.fleet.batch import BatchSender
from abfleet_router.fleet.batch_queue import BatchQueue
from abfleet_router.fleet.health_watch import HealthLink, HealthWatch, ReplicaHealth
from abfleet_router.fleet.oip_server import OipServer, ReadyWatch
from abfleet_router.fleet.worker_link import LinkListener

log = structlog.get_logger("abfleet.router.replica")

FAILURE_PENALTY = 16
"""Calls of load that one recent failure counts as, so that a replica that fails fast does not look idle."""
PENALTY_SECONDS = 0.1
"""How long a failure is recent. Without an end, one failure would keep a replica from ever being tried again, and so
from being ejected or trusted. Five such times are half a second: one that always fails is out by then."""


class Link(BatchSender, HealthLink, Protocol):
    """The link to one worker: batches and health go over the same connection."""

    @property
    def moving(self) -> bool:
        """Whether a new connection is being made after a goodbye; nothing can be sent meanwhile."""

    async def keep_connected(self, listener: LinkListener) -> None:
        """Connects again and again, until it is cancelled."""

    def check_liveness(self, *, alone: bool) -> None:
        """Called every 100 ms; `alone`: there is no other worker for the calls."""

    def close(self) -> None:
        """Closes what is open; what is under way fails."""


class Replica:
    """State is changed only on the event loop: `record` by Outliers, `in_since` by Picker, `draining` by whoever lets
    it go, and the rest here."""

    def __init__(
        self,
        version: str,
        address: str,
        link: Link,
        queue: BatchQueue[Any],
        clock: Callable[[], float],
        on_change: "Callable[[Replica], None]",
        oip: OipServer | None = None,
    ) -> None:
        """`queue` sends over `link`; `on_change` hears of every change of health and connection; `oip`: None for a
        worker."""
        self.version = version
        self.address = address
        self.link = link
        self.queue = queue
        self.oip = oip
        self.record = EjectionRecord()
        self.health = ReplicaHealth.CONNECTING
        self.draining = False
        self.in_since = float("-inf")
        self._clock = clock
        self._on_change = on_change
        self._health_watch = (
            HealthWatch(link, version, self.becomes) if oip is None else ReadyWatch(link, oip, self.becomes)
        )
        self._connecting: asyncio.Task[None] | None = None

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

    @property
    def oip_model(self) -> OipModel | None:
        """What is asked for at a server of the Open Inference Protocol; None of a worker."""
        return None if self.oip is None else self.oip.model

    def is_in(self, now: float) -> bool:
        """Whether it may get calls: it serves, and is neither draining nor ejected at `now`."""
        return self.health is ReplicaHealth.SERVING and not self.draining and not is_ejected(self.record, now)

    @property
    def moving(self) -> bool:
        """Whether it is being connected anew because it said goodbye to its connection; nothing is sent meanwhile."""
        return self.link.moving

    def start(self) -> None:
        """Begins to connect and to watch its health."""
        self._connecting = start_lasting(partial(self.link.keep_connected, self), f"connect {self.address}")

    async def on_connected(self) -> None:
        await self._health_watch.follow()

    def on_lost(self) -> None:
        self.queue.hold(False)
        self.becomes(ReplicaHealth.LOST)

    def on_moving(self) -> None:
        if self.moving:
            log.info("replica moves to a new connection", version=self.version, address=self.address)
        self.queue.hold(self.moving)
        self._on_change(self)

    def becomes(self, health: ReplicaHealth) -> None:
        """This is known of it now."""
        if health is self.health or (health is ReplicaHealth.LOST and self.health is ReplicaHealth.CONNECTING):
            return
        log.info("replica health", version=self.version, address=self.address, was=self.health.value, now=health.value)
        self.health = health
        self._on_change(self)

    async def close(self) -> None:
        """Ends its connection and fails what is in flight; whoever hears that it is lost takes back what waits."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        self.queue.close()
        self.becomes(ReplicaHealth.LOST)
        self.link.close()
