"""All pools, by version, with the targets that the configuration names."""

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from abfleet_experiments.config import ModelTarget, OipModel
from abfleet_transport.end_of_turn import end_of_turn

from abfleet_router.balancing.ejection import EjectionPolicy
from abfleet_router.balancing.picker import SLOW_START_SECONDS
from abfleet_router.fleet.attempt_timer import AttemptTimer
from abfleet_router.fleet.batch_queue import BatchQueue
from abfleet_router.fleet.batching import BatchingSettings
from abfleet_router.fleet.oip_queue import OipQueue
from abfleet_router.fleet.oip_server import OipServer
from abfleet_router.fleet.pool import Pool, PoolListener
from abfleet_router.fleet.replica import Link, Replica
from abfleet_router.fleet.waiting_calls import Backlog


class MakeLink(Protocol):
    """Makes the link to a worker."""

    def __call__(self, address: str, host_name: Callable[[], str], /) -> Link:
        """`address`: resolved; `host_name`: what the worker's certificate must say."""


class Fleet:
    """The only place where pools are made and let go. All of it runs on the event loop."""

    def __init__(
        self,
        listener: PoolListener[Any],
        backlog: Backlog,
        make_link: MakeLink,
        *,
        clock: Callable[[], float],
        draw: Callable[[], float],
        policy: EjectionPolicy,
        batching: BatchingSettings,
        slow_start_seconds: float = SLOW_START_SECONDS,
    ) -> None:
        """`listener`: gets what replicas give back; `backlog`: of all their queues."""
        self.backlog = backlog
        self._listener = listener
        self._make_link = make_link
        self._clock = clock
        self._draw = draw
        self._policy = policy
        self._batching = batching
        self._slow_start_seconds = slow_start_seconds
        self._pools: dict[str, Pool] = {}
        self._timer = AttemptTimer(self.sweep, clock)
        self._closing: dict[Pool, asyncio.Task[None]] = {}

    @property
    def pools(self) -> Mapping[str, Pool]:
        """By version, or by alias where the configuration names one; without those that close."""
        return self._pools

    def replicas(self) -> Iterator[Replica]:
        """Every replica that has calls or may get some, those that leave and those of pools that close included."""
        for pool in (*self._pools.values(), *self._closing):
            yield from pool.replicas
            yield from pool.leaving

    def follow(self, models: Mapping[str, ModelTarget]) -> None:
        """Adds pools for new versions and follows changed targets; versions that are not named stay as they are."""
        for version, model in models.items():
            if version not in self._pools:
                self._pools[version] = Pool(
                    version,
                    self._make_replica,
                    self._listener,
                    self._clock,
                    self._draw,
                    self._policy,
                    slow_start_seconds=self._slow_start_seconds,
                )
            self._pools[version].set_targets(model.target, model.oip)

    def keep_only(self, versions: Iterable[str]) -> None:
        """Lets every other pool finish its calls and go."""
        for version in sorted(self._pools.keys() - set(versions)):
            self._let_go(self._pools.pop(version))

    def _let_go(self, pool: Pool) -> None:
        task = asyncio.get_running_loop().create_task(pool.drain(), name=f"drain pool {pool.version}")
        self._closing[pool] = task
        task.add_done_callback(lambda _: self._closing.pop(pool, None))

    def _make_replica(
        self,
        version: str,
        address: str,
        host_name: Callable[[], str],
        on_change: Callable[[Replica], None],
        oip: OipModel | None,
    ) -> Replica:
        link, batching = self._make_link(address, host_name), self._batching
        listener, backlog, clock, timer = self._listener, self.backlog, self._clock, self._timer
        turn = end_of_turn(asyncio.get_running_loop())
        if oip is not None:
            server, most = OipServer(oip), batching.max_batch * batching.max_in_flight
            calls: OipQueue[Any] = OipQueue(
                link, listener, backlog, clock, server, turn=turn, timer=timer, most_calls=most
            )
            return Replica(version, address, link, calls, clock, on_change, server)
        queue: BatchQueue[Any] = BatchQueue(
            link,
            listener,
            backlog,
            clock,
            turn=turn,
            timer=timer,
            max_batch=batching.max_batch,
            max_in_flight=batching.max_in_flight,
        )
        return Replica(version, address, link, queue, clock, on_change)

    def sweep(self) -> float:
        """Ends every attempt whose time is up; gives when that of the next one is, inf where there is no call."""
        now = self._clock()
        return min((pool.sweep(now) for pool in (*self._pools.values(), *self._closing)), default=math.inf)

    def check_liveness(self) -> None:
        """Has silent replicas checked with a PING; called every 100 ms."""
        for pool in (*self._pools.values(), *self._closing):
            for replica in (*pool.replicas, *pool.leaving):
                replica.link.check_liveness(alone=pool.available in ([], [replica]))

    async def close(self) -> None:
        """Closes every connection; calls still under way are failed."""
        pools, self._pools = [*self._pools.values(), *self._closing], {}
        drains = list(self._closing.values())
        self._timer.stop()
        for drain in drains:
            drain.cancel()
        await asyncio.gather(*(pool.close() for pool in pools), *drains, return_exceptions=True)
