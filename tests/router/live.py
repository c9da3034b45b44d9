"""A router over real sockets in the test's own loop: routing, pools, queues and connections as they are, no server."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import cast

from abfleet_experiments.file.load import load_text
from abfleet_log.writer.decision_log import DecisionLog
from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_router.balancing.ejection import EjectionPolicy
from abfleet_router.calls.router import Router
from abfleet_router.configuration.snapshot import make_snapshot
from abfleet_router.fleet.batching import BatchingSettings
from abfleet_router.fleet.fleet import Fleet
from abfleet_router.fleet.waiting_calls import Backlog
from abfleet_router.metrics import RouterMetrics
from abfleet_router.parts import METHODS
from abfleet_router.settings import RoutingSettings
from abfleet_transport.rpc_metrics import RpcMetrics

from tests.router.bench import FakeLog
from tests.router.fakes import FakeCall
from tests.router.place import socket_link

CHECK_SECONDS = 0.1


class LiveRouter:
    """Routes to the workers at these addresses, all of v1; `async with` waits until all are in, and closes it."""

    def __init__(
        self, addresses: Sequence[str] = (), *, config: str | None = None, settings: RoutingSettings | None = None
    ) -> None:
        """`config`: an experiments file in place of the addresses."""
        self.log, self.metrics = FakeLog(), RouterMetrics()
        backlog = Backlog()
        self.router = Router(
            backlog,
            cast(DecisionLog, self.log),
            self.metrics,
            RpcMetrics(METHODS),
            settings or RoutingSettings(name="router-1"),
        )
        self.fleet = Fleet(
            self.router.batch_results,
            backlog,
            socket_link,
            clock=time.monotonic,
            draw=lambda: 0.0,
            policy=EjectionPolicy(),
            batching=BatchingSettings(),
        )
        targets = ", ".join(f'"{address}"' for address in addresses)
        self._config = load_text(config or f"version: 1\ndefault: v1\nmodels: {{v1: {{target: [{targets}]}}}}\n")
        self._checking: asyncio.Task[None] | None = None
        self._calls = 0

    async def __aenter__(self) -> "LiveRouter":
        self.fleet.follow(self._config.models)
        at = datetime.now(UTC)
        self.router.use(
            make_snapshot(self._config, self.fleet.pools, self.metrics, router="router-1", generation=1, at=at)
        )
        async with asyncio.timeout(30):
            for version, pool in self.fleet.pools.items():
                while len(pool.available) < len(self._config.models[version].target):
                    await pool.changed.wait()
        self._checking = asyncio.create_task(self._keep_checking())
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.gather(self._checking, return_exceptions=True)
        self.router.shadows.close()
        await self.fleet.close()

    async def _keep_checking(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self.fleet.check_liveness()

    def arrive(self, count: int, seconds: float = 2.0) -> list[FakeCall]:
        """So many calls come in one turn, each with so much time."""
        now = time.monotonic()
        calls = []
        for _ in range(count):
            self._calls += 1
            request = RecommendRequest(item_ids=[self._calls], request_id=f"r{self._calls}")
            calls.append(FakeCall(request.SerializeToString(), now, now + seconds))
        self.router.on_calls(list(calls))
        return calls
