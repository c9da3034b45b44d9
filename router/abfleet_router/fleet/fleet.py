"""All pools, by version, with the targets that the configuration names."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from abfleet_process.security.tls import ClientTls

from abfleet_router.fleet.batch_queue import Backlog
from abfleet_router.fleet.ejection import EjectionPolicy
from abfleet_router.fleet.pool import SLOW_START_SECONDS, Pool
from abfleet_router.fleet.replica import BatchingSettings, Replica, ReplicaListener


class Fleet:
    """The only place where pools are made and let go. All of it runs on the event loop."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        draw: Callable[[], float],
        policy: EjectionPolicy,
        batching: BatchingSettings,
        worker_tls: ClientTls | None = None,
        slow_start_seconds: float = SLOW_START_SECONDS,
    ) -> None:
        self.backlog = Backlog()
        self._clock = clock
        self._draw = draw
        self._policy = policy
        self._batching = batching
        self._worker_tls = worker_tls
        self._slow_start_seconds = slow_start_seconds
        self._pools: dict[str, Pool] = {}
        self._receiver: ReplicaListener | None = None
        self._closing: dict[Pool, asyncio.Task[None]] = {}

    def set_receiver(self, receiver: ReplicaListener) -> None:
        """Says who gets what replicas give back; called once, before `follow`."""
        self._receiver = receiver

    @property
    def pools(self) -> Mapping[str, Pool]:
        """By version, or by alias where the configuration names one; without those that close."""
        return self._pools

    def replicas(self) -> Iterator[Replica]:
        """Every replica that has calls or may get some, those that leave and those of pools that close included."""
        for pool in (*self._pools.values(), *self._closing):
            yield from pool.replicas
            yield from pool.leaving

    def follow(self, targets: Mapping[str, Sequence[str]]) -> None:
        """Adds pools for new versions and follows changed targets; versions that are not named stay as they are."""
        for version, target in targets.items():
            if version not in self._pools:
                self._pools[version] = Pool(
                    version,
                    self._make_replica,
                    self._clock,
                    self._draw,
                    self._policy,
                    slow_start_seconds=self._slow_start_seconds,
                )
            self._pools[version].set_targets(target)

    def keep_only(self, versions: Iterable[str]) -> None:
        """Lets every other pool finish its calls and go."""
        for version in sorted(self._pools.keys() - set(versions)):
            self._let_go(self._pools.pop(version))

    def _let_go(self, pool: Pool) -> None:
        task = asyncio.get_running_loop().create_task(pool.drain(), name=f"drain pool {pool.version}")
        self._closing[pool] = task
        task.add_done_callback(lambda _: self._closing.pop(pool, None))

    def _make_replica(self, pool: Pool, address: str) -> Replica:
        assert self._receiver is not None, "set_receiver comes before follow"
        return Replica(
            pool,
            address,
            self._receiver,
            self.backlog,
            self._clock,
            self._batching,
            tls=self._worker_tls,
            draw=self._draw,
        )

    async def close(self) -> None:
        """Closes every connection; calls still under way are failed."""
        pools, self._pools = [*self._pools.values(), *self._closing], {}
        drains = list(self._closing.values())
        for drain in drains:
            drain.cancel()
        await asyncio.gather(*(pool.close() for pool in pools), *drains, return_exceptions=True)
