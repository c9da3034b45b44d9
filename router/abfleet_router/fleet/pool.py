"""The replicas of one version: who is in, who is out, who takes the next call."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from abfleet_router.fleet.balance import BurstPicker, pick, slow_start_factor
from abfleet_router.fleet.ejection import (
    EjectionPolicy,
    EjectionRecord,
    eject,
    failed,
    is_ejected,
    is_failing,
    is_forgotten,
    may_eject_on_suspicion,
    succeeded,
)
from abfleet_router.fleet.failure import FailureReason
from abfleet_router.fleet.queue_delay import MAX_WAIT_SECONDS
from abfleet_router.fleet.replica import Replica, ReplicaHealth
from abfleet_router.fleet.resolve import host_name, needs_resolving, resolve

log = structlog.get_logger("abfleet.router.pool")

RESOLVE_SECONDS = 3.0
"""Between two resolutions of names; after a failure RESOLVE_RETRY_SECONDS."""
RESOLVE_RETRY_SECONDS = 0.5
SLOW_START_SECONDS = 3.0
"""A worker warms its model up before it serves; what is left are cold caches, a processor that idled, and the doubt
about a replica that was out. That is over in a second or two, and each second more leaves the load on the others."""
DRAIN_SECONDS = 10.0
"""How long a replica that has left may finish its calls; the longest attempt is half a second."""


@dataclass(slots=True)
class PoolCounters:
    """Changed only by Pool; read at scrape."""

    ejections_detected: int = 0
    ejections_enforced: int = 0


class Pool:
    """Changed only on the event loop. `available` is kept up to date on every change, so that a pick reads a list."""

    def __init__(
        self,
        version: str,
        make_replica: Callable[["Pool", str], Replica],
        clock: Callable[[], float],
        draw: Callable[[], float],
        policy: EjectionPolicy,
        *,
        slow_start_seconds: float = SLOW_START_SECONDS,
    ) -> None:
        self.version = version
        self.counters = PoolCounters()
        self.available: list[Replica] = []
        self.changed = asyncio.Event()
        self._make_replica = make_replica
        self._clock = clock
        self._draw = draw
        self._policy = policy
        self._circuit = EjectionRecord()  # of the version as a whole
        self._replicas: dict[str, Replica] = {}
        self._wanted: frozenset[str] = frozenset()  # addresses of the targets; others serve until one of these does
        self._leaving: dict[Replica, asyncio.Task[None]] = {}
        self._targets: tuple[str, ...] = ()
        self._host_names: dict[str, str] = {}  # address to the name that led there
        self._resolver: asyncio.Task[None] | None = None
        self._picker: BurstPicker[Replica] = BurstPicker(draw)
        self._slow_start_seconds = slow_start_seconds
        self._full_share_at = float("-inf")  # when every replica that is in has its full share

    def __repr__(self) -> str:
        return f"<Pool {self.version} {list(self._replicas.values())}>"

    @property
    def replicas(self) -> Sequence[Replica]:
        """All that the targets name, whatever their state."""
        return tuple(self._replicas.values())

    def host_name(self, address: str) -> str:
        """What a certificate of the worker there must say: the name of its target, or its IP address."""
        return self._host_names.get(address) or host_name(address)

    @property
    def leaving(self) -> Sequence[Replica]:
        """Those that finish their calls and get no more."""
        return tuple(self._leaving)

    @property
    def unavailable_reason(self) -> FailureReason:
        """EJECTED where a replica that serves is ejected, else UNAVAILABLE; asked when none is available."""
        now = self._clock()
        serving = [replica for replica in self._replicas.values() if replica.health is ReplicaHealth.SERVING]
        return (
            FailureReason.EJECTED
            if any(is_ejected(replica.record, now) for replica in serving)
            else FailureReason.UNAVAILABLE
        )

    def circuit_open(self, now: float) -> bool:
        """Whether a call that another version can serve should go there at once, because nobody here answers.

        When the circuit's time is over one call at a time tries, until one is answered.
        """
        if not self._circuit.ejections_in_a_row or is_forgotten(self._circuit, now):
            return False
        return is_ejected(self._circuit, now) or any(replica.queue.load for replica in self.available)

    def pick(self, turn: float) -> Replica | None:
        """The replica for a call, or None when nobody is in; the calls of a burst share a `turn`."""
        if turn < self._full_share_at:
            return self._picker.pick(self.available, turn, self._slow_start_factor)
        return self._picker.pick(self.available, turn)

    def _slow_start_factor(self, replica: Replica) -> float:
        return slow_start_factor(self._clock() - replica.in_since, self._slow_start_seconds)

    @property
    def has_room(self) -> bool:
        """Whether one of its replicas could take a call without making it wait too long."""
        return any(replica.queue.expected_wait < MAX_WAIT_SECONDS for replica in self.available)

    def pick_other(self, than: Replica | None) -> Replica | None:
        """A replica that is in and is not this one."""
        others = [replica for replica in self.available if replica is not than]
        return pick(others, self._draw, self._slow_start_factor) if others else None

    def set_targets(self, targets: Sequence[str]) -> None:
        """Follows these targets from now on."""
        if tuple(targets) == self._targets:
            return
        self._targets = tuple(targets)
        self._stop_resolving()
        self._resolver = asyncio.get_running_loop().create_task(self._keep_resolving(), name=f"resolve {self.version}")

    async def _keep_resolving(self) -> None:
        known: dict[str, list[str]] = {}
        while True:
            failures = 0
            for target in self._targets:
                try:
                    known[target] = await resolve(target)
                except OSError as error:  # a name may fail for a moment while its replicas change: keep what was known
                    failures += 1
                    log.debug("target does not resolve", version=self.version, target=target, error=str(error))
            self._host_names = {
                address: host_name(target) for target in reversed(self._targets) for address in known.get(target, ())
            }
            self._set_addresses([address for target in self._targets for address in known.get(target, ())])
            if not any(map(needs_resolving, self._targets)):
                return
            await asyncio.sleep(RESOLVE_SECONDS if failures == 0 else RESOLVE_RETRY_SECONDS)

    def _set_addresses(self, addresses: Sequence[str]) -> None:
        self._wanted = frozenset(addresses)
        for address in addresses:
            if address not in self._replicas:
                replica = self._make_replica(self, address)
                self._replicas[address] = replica
                replica.start(self._on_health)
        self._refresh()

    def _let_go(self, replica: Replica) -> None:
        log.info("replica leaves", version=self.version, address=replica.address)
        replica.draining = True
        task = asyncio.get_running_loop().create_task(self._drain(replica), name=f"drain {replica.address}")
        self._leaving[replica] = task
        task.add_done_callback(lambda _: self._leaving.pop(replica, None))

    async def _drain(self, replica: Replica) -> None:
        end = self._clock() + DRAIN_SECONDS
        try:
            while replica.queue.load and self._clock() < end:  # noqa: ASYNC110  # no event for "idle" on the hot path
                await asyncio.sleep(0.02)
        finally:
            await replica.close()

    def _on_health(self, replica: Replica) -> None:
        self._refresh()
        if replica.health is not ReplicaHealth.SERVING or (replica.moving and replica not in self.available):
            replica.return_waiting(FailureReason.UNAVAILABLE)

    def _refresh(self) -> None:
        now = self._clock()
        self._picker.forget()
        if self._replicas.keys() - self._wanted:
            self._let_unwanted_go(now)
        was, all_in = self.available, [replica for replica in self._replicas.values() if replica.is_in(now)]
        # Calls need not wait for a connection that is being made, where others have one.
        self.available = [replica for replica in all_in if not replica.moving] or all_in
        for replica in self.available:
            if replica not in was:
                replica.in_since = now
                self._full_share_at = now + self._slow_start_seconds
        self.changed.set()
        self.changed = asyncio.Event()

    def _let_unwanted_go(self, now: float) -> None:
        """Where a version has moved, its old replicas go on until a new one serves: else nobody would in between."""
        if self._wanted and not any(self._replicas[one].is_in(now) for one in self._wanted if one in self._replicas):
            return
        for address in sorted(self._replicas.keys() - self._wanted):
            self._let_go(self._replicas.pop(address))

    def note_success(self, replica: Replica, calls: int, worker_seconds: float) -> None:
        """A batch of `calls` came back from it, after `worker_seconds` of work."""
        self._picker.learn(calls, worker_seconds)
        record = replica.record
        if record.failures_in_a_row or record.ejections_in_a_row:
            succeeded(record)
            self._refresh()
        if self._circuit.ejections_in_a_row:
            succeeded(self._circuit)
            log.info("version answers again", version=self.version)

    def note_failure(
        self, replica: Replica, reason: FailureReason, *, proven: bool, suspicious: bool = False, calls: int = 1
    ) -> None:
        """`calls` of it failed. `proven`: one failure is proof. `suspicious`: one is suspicion enough."""
        now = self._clock()
        enough = proven or suspicious
        due = [failed(replica.record, self._policy, now, proven=enough) for _ in range(calls)]
        if not any(due):
            return
        self.counters.ejections_detected += 1
        if self._policy.detect_only:
            return
        # Those that are dead count too: half of a pool is no place for all its calls because the other half has gone.
        out = sum(not other.is_in(now) for other in self._replicas.values())
        if proven or may_eject_on_suspicion(len(self._replicas), out):
            self._eject(replica, reason, now)
        elif all(is_failing(other.record, now) for other in self.available) and not is_ejected(self._circuit, now):
            seconds = eject(self._circuit, self._policy, now) - now
            log.warning(
                "no replica answers", version=self.version, reason=reason.value, circuit_seconds=round(seconds, 1)
            )

    def _eject(self, replica: Replica, reason: FailureReason, now: float) -> None:
        until = eject(replica.record, self._policy, now)
        self.counters.ejections_enforced += 1
        log.warning(
            "replica ejected",
            version=self.version,
            address=replica.address,
            reason=reason.value,
            seconds=round(until - now, 1),
        )
        asyncio.get_running_loop().call_later(until - now, self._readmit, replica)
        self._refresh()  # first, so that no call is sent back to where it came from
        replica.return_waiting(FailureReason.EJECTED)

    def _readmit(self, replica: Replica) -> None:
        """Its ejection ends about now; a timer of whole milliseconds may come a little early, and then comes again."""
        now, until = self._clock(), replica.record.ejected_until
        if until is not None and is_ejected(replica.record, now):
            asyncio.get_running_loop().call_later(until - now + 0.001, self._readmit, replica)
        else:
            self._refresh()

    def _stop_resolving(self) -> None:
        if self._resolver is not None:
            self._resolver.cancel()
            self._resolver = None

    async def drain(self) -> None:
        """Takes no more calls, lets every replica finish its own, and closes it."""
        self._stop_resolving()
        self._set_addresses(())
        await asyncio.gather(*self._leaving.values())

    async def close(self) -> None:
        """Closes every replica now; calls still under way are failed."""
        self._stop_resolving()
        replicas, self._replicas, self.available = list(self._replicas.values()), {}, []
        self._picker.forget()
        replicas += self._leaving  # a drain that is cancelled before it began closes nothing
        drains = list(self._leaving.values())
        for drain in drains:
            drain.cancel()
        await asyncio.gather(*(replica.close() for replica in replicas), *drains, return_exceptions=True)
