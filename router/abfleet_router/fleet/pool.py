"""The replicas of one version: put together from who belongs to it, who is picked, who is out and who leaves."""

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import structlog
from abfleet_experiments.config import OipModel

from abfleet_router.balancing.circuit import Circuit
from abfleet_router.balancing.ejection import EjectionPolicy, is_ejected
from abfleet_router.balancing.outliers import Outliers
from abfleet_router.balancing.picker import SLOW_START_SECONDS, Picker
from abfleet_router.fleet.batch import BatchListener, C
from abfleet_router.fleet.failure import FailureReason
from abfleet_router.fleet.health_watch import ReplicaHealth
from abfleet_router.fleet.replica import Replica
from abfleet_router.fleet.resolve import TargetWatch

log = structlog.get_logger("abfleet.router.pool")

Peer = tuple[str, OipModel | None]
"""An address, and what is asked for there; None for a worker."""
DRAIN_SECONDS = 10.0
"""How long a replica that has left may finish its calls; the longest attempt is half a second."""
DRAIN_CHECK_SECONDS = 0.02


class PoolListener(BatchListener[C], Protocol[C]):
    """Who takes back what replicas were given; all of it on the event loop."""

    def on_returned(self, calls: list[C], reason: FailureReason) -> None:
        """These waited for a replica, which is out now; they have not been sent."""


class MakeReplica(Protocol):
    """Makes a replica of a pool's version."""

    def __call__(
        self,
        version: str,
        address: str,
        host_name: Callable[[], str],
        on_change: Callable[[Replica], None],
        oip: OipModel | None,
        /,
    ) -> Replica:
        """`host_name`: what the worker's certificate must say; `on_change` hears of health and connection;
        `oip`: None for a worker."""


class LeavingReplicas:
    """Closes each when its last call is answered. Changed only on the event loop."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._drains: dict[Replica, asyncio.Task[None]] = {}

    def __iter__(self) -> Iterator[Replica]:
        return iter(tuple(self._drains))

    def add(self, replica: Replica) -> None:
        """This one gets no more calls."""
        log.info("replica leaves", version=replica.version, address=replica.address)
        replica.draining = True
        task = asyncio.get_running_loop().create_task(self._drain(replica), name=f"drain {replica.address}")
        self._drains[replica] = task
        task.add_done_callback(lambda _: self._drains.pop(replica, None))

    async def _drain(self, replica: Replica) -> None:
        end = self._clock() + DRAIN_SECONDS
        try:
            while replica.queue.load and self._clock() < end:  # noqa: ASYNC110  # no event for "idle" on the hot path
                await asyncio.sleep(DRAIN_CHECK_SECONDS)
        finally:
            await replica.close()

    async def gone(self) -> None:
        """Returns when all have been closed."""
        await asyncio.gather(*self._drains.values())

    async def close(self) -> None:
        """Closes all now; calls still under way are failed."""
        replicas, drains = list(self._drains), list(self._drains.values())
        for drain in drains:
            drain.cancel()
        # A drain that is cancelled before it began closes nothing.
        await asyncio.gather(*(replica.close() for replica in replicas), *drains, return_exceptions=True)


class Pool:
    """Changed only on the event loop."""

    def __init__(
        self,
        version: str,
        make_replica: MakeReplica,
        listener: PoolListener[Any],
        clock: Callable[[], float],
        draw: Callable[[], float],
        policy: EjectionPolicy,
        *,
        slow_start_seconds: float = SLOW_START_SECONDS,
    ) -> None:
        self.version = version
        self.changed = asyncio.Event()
        """Set, and replaced by another one, at each change of who is in."""
        self.leaving = LeavingReplicas(clock)
        self.picker: Picker[Replica] = Picker(clock, draw, slow_start_seconds=slow_start_seconds)
        self._circuit = Circuit(policy)
        self.outliers: Outliers[Replica] = Outliers(self, self._circuit, policy, clock)
        self._targets = TargetWatch(version, self._set_addresses)
        self._make_replica = make_replica
        self._listener = listener
        self._clock = clock
        self._oip: OipModel | None = None
        self._replicas: dict[Peer, Replica] = {}
        self._wanted: frozenset[Peer] = frozenset()  # what the targets lead to; others serve until one of these does

    def __repr__(self) -> str:
        return f"<Pool {self.version} {list(self._replicas.values())}>"

    @property
    def replicas(self) -> Sequence[Replica]:
        """All that the targets name, whatever their state."""
        return tuple(self._replicas.values())

    @property
    def available(self) -> Sequence[Replica]:
        """Those that may get calls."""
        return self.picker.available

    @property
    def unavailable_reason(self) -> FailureReason:
        """EJECTED where a replica that serves is ejected, else UNAVAILABLE; asked when none is available."""
        now = self._clock()
        serving = [replica for replica in self._replicas.values() if replica.health is ReplicaHealth.SERVING]
        ejected = any(is_ejected(replica.record, now) for replica in serving)
        return FailureReason.EJECTED if ejected else FailureReason.UNAVAILABLE

    def circuit_open(self, now: float) -> bool:
        """Whether a call that another version can serve should go there at once, because nobody here answers."""
        return self._circuit.is_open(now, lambda: any(replica.queue.load for replica in self.available))

    # --- who is in ---------------------------------------------------------------------------------------------------

    def set_targets(self, targets: Sequence[str], oip: OipModel | None = None) -> None:
        """Follows these targets from now on. `oip`: what the servers there call the version; None: they are workers."""
        anew, self._oip = oip != self._oip, oip
        self._targets.follow(targets, anew=anew)

    def _set_addresses(self, addresses: Sequence[str]) -> None:
        self._wanted = frozenset((address, self._oip) for address in addresses)
        for address in addresses:
            peer = (address, self._oip)
            if peer not in self._replicas:
                host_name = partial(self._targets.host_name, address)
                replica = self._make_replica(self.version, address, host_name, self._on_change, self._oip)
                self._replicas[peer] = replica
                replica.start()
        self.refresh()

    def _on_change(self, replica: Replica) -> None:
        self.refresh()
        if replica.health is not ReplicaHealth.SERVING or (replica.moving and replica not in self.available):
            self._return_waiting(replica, FailureReason.UNAVAILABLE)

    def on_ejected(self, replica: Replica) -> None:
        self.refresh()  # first, so that no call is sent back to where it came from
        self._return_waiting(replica, FailureReason.EJECTED)

    def _return_waiting(self, replica: Replica, reason: FailureReason) -> None:
        if calls := replica.queue.take_waiting():
            self._listener.on_returned(calls, reason)

    def refresh(self) -> None:
        """Asks every replica anew whether it may get calls."""
        now = self._clock()
        unwanted = [peer for peer in self._replicas if peer not in self._wanted]
        # Where a version has moved, its old replicas go on until a new one serves: else nobody would in between.
        if not self._wanted or any(self._replicas[one].is_in(now) for one in self._wanted if one in self._replicas):
            for peer in unwanted:
                self.leaving.add(self._replicas.pop(peer))
        all_in = [replica for replica in self._replicas.values() if replica.is_in(now)]
        # Calls need not wait for a connection that is being made, where others have one.
        self.picker.offer([replica for replica in all_in if not replica.moving] or all_in)
        self.changed.set()
        self.changed = asyncio.Event()

    # --- time and end ------------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> float:
        """Ends every attempt whose time is up; gives when that of the next one is, inf where there is no call."""
        due = math.inf
        for replica in (*self._replicas.values(), *self.leaving):
            if not replica.queue.load:
                continue
            waited, in_flight, unresponsive, queue_due = replica.queue.expire(now)
            due = min(due, queue_due)
            if in_flight:
                timeout, calls = FailureReason.TIMEOUT, len(in_flight)
                self.outliers.note_failure(replica, timeout, proven=False, suspicious=unresponsive, calls=calls)
            if waited or in_flight:
                self._listener.on_expired([*waited, *in_flight])
        return due

    async def drain(self) -> None:
        """Takes no more calls, lets every replica finish its own, and closes it."""
        self._targets.stop()
        self._set_addresses(())
        await self.leaving.gone()

    async def close(self) -> None:
        """Closes every replica now; calls still under way are failed."""
        self._targets.stop()
        replicas, self._replicas = list(self._replicas.values()), {}
        self.picker.offer([])
        await asyncio.gather(self.leaving.close(), *(replica.close() for replica in replicas), return_exceptions=True)
