"""A fleet on real sockets for tests of pools, with workers in this process, and ways to wait for it."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from abfleet_experiments.config import ModelTarget
from abfleet_router.balancing.ejection import EjectionPolicy
from abfleet_router.calls.routed_call import RoutedCall
from abfleet_router.fleet.batch import Batch
from abfleet_router.fleet.batching import BatchingSettings
from abfleet_router.fleet.connector import SocketConnector
from abfleet_router.fleet.failure import BatchFailed, FailureReason
from abfleet_router.fleet.fleet import Fleet
from abfleet_router.fleet.pool import Pool
from abfleet_router.fleet.waiting_calls import Backlog
from abfleet_router.fleet.worker_link import WorkerLink

from tests.router.bench import Bench
from tests.router.stub_worker import StubWorker

GENEROUS_SECONDS = 30


class IdleListener:
    """Stands for the router, and does nothing with what replicas give back."""

    def on_answered(self, batch: Batch, message: bytes) -> None: ...

    def on_failed(self, batch: Batch, failure: BatchFailed) -> None: ...

    def on_expired(self, calls: list[RoutedCall]) -> None: ...

    def on_returned(self, calls: list[RoutedCall], reason: FailureReason) -> None: ...


def socket_link(address: str, host_name: Callable[[], str] = lambda: "localhost") -> WorkerLink:
    """A link to a worker that listens there."""
    return WorkerLink(SocketConnector(address, host_name), draw=lambda: 0.5)


class Place:
    """A fleet on real sockets, with the workers that a test starts."""

    def __init__(self) -> None:
        self.workers: list[StubWorker] = []
        self.fleet = Fleet(
            IdleListener(),
            Backlog(),
            socket_link,
            clock=time.monotonic,
            draw=lambda: 0.0,
            policy=EjectionPolicy(consecutive_failures=2, base_seconds=0.05, max_seconds=0.2),
            batching=BatchingSettings(),
        )

    async def worker(self, version: str = "v1", *, serving: bool = True, with_health: bool = True) -> StubWorker:
        """Starts a worker of this version; `serving`: what its health says."""
        self.workers.append(await StubWorker(version, with_health=with_health).start(serving=serving))
        return self.workers[-1]

    def pool(self, *workers: StubWorker, version: str = "v1") -> Pool:
        """The pool of a version over these workers."""
        self.fleet.follow({version: ModelTarget(tuple(worker.address for worker in workers))})
        return self.fleet.pools[version]

    async def close(self) -> None:
        """Closes the fleet and stops every worker."""
        await self.fleet.close()
        await asyncio.gather(*(worker.stop() for worker in self.workers))


async def until(pool: Pool, condition: Callable[[], bool]) -> None:
    """Waits for a change of the pool after which the condition holds."""
    async with asyncio.timeout(GENEROUS_SECONDS):
        while True:
            changed = pool.changed
            if condition():
                return
            await changed.wait()


async def serving(pool: Pool, count: int) -> None:
    """Waits until so many replicas are in."""
    await until(pool, lambda: len(pool.available) == count)


async def bench_of(count: int, **policy: Any) -> tuple[Bench, Pool]:
    """A version with so many replicas, without a network."""
    targets = ", ".join(f'"10.0.0.{number}:1"' for number in range(1, count + 1))
    config = f"version: 1\ndefault: v1\nmodels: {{v1: {{target: [{targets}]}}}}\n"
    bench = Bench(config=config, policy=EjectionPolicy(consecutive_failures=2, **policy))
    await bench.open()
    return bench, bench.fleet.pools["v1"]
