"""Status, reload and log level for operators, on the admin port. Gathers what there is to show, decides nothing."""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import grpc
import orjson
from abfleet_log.writer.decision_log import DecisionLog
from abfleet_process.build_info import build_info
from abfleet_process.operational_log import OperationalLog
from abfleet_protos import admin_pb2, admin_pb2_grpc
from abfleet_protos.admin_pb2 import (
    Build,
    ConfigurationStatus,
    DecisionLogStatus,
    GroupStatus,
    LatencyHistogram,
    PoolStatus,
    ReplicaStatus,
    StatusResponse,
    WaitingStatus,
)
from abfleet_transport.client.status_document import as_document

from abfleet_router.calls.router import Router
from abfleet_router.configuration.reload import Reloader
from abfleet_router.fleet.fleet import Fleet
from abfleet_router.fleet.pool import Pool
from abfleet_router.metrics import ArmStats, RouterMetrics

if TYPE_CHECKING:  # the stubs are generic, the class itself is not
    Context = grpc.aio.ServicerContext[admin_pb2.SetLogLevelRequest, admin_pb2.SetLogLevelResponse]


class StatusReport:
    """Puts together what `abfleet status` shows. Reading it changes nothing."""

    def __init__(
        self,
        name: str,
        router: Router,
        fleet: Fleet,
        reloader: Reloader,
        metrics: RouterMetrics,
        decision_log: DecisionLog,
        serving: Callable[[], bool],
        operations: OperationalLog,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._router = router
        self._fleet = fleet
        self._reloader = reloader
        self._metrics = metrics
        self._log = decision_log
        self._serving = serving
        self._operations = operations
        self._clock = clock
        self._started = clock()

    def status(self) -> StatusResponse:
        """All that there is to show, as of now."""
        metrics, log, backlog, build = self._metrics, self._log, self._fleet.backlog, build_info()
        return StatusResponse(
            router=self._name,
            log_level=self._operations.level,
            serving=self._serving(),
            uptime_s=round(self._clock() - self._started, 3),
            tasks=len(asyncio.all_tasks()),
            config=self._config(),
            groups=map(_group, list(metrics.arms.values())),
            pools=map(self._pool, self._fleet.pools.values()),
            waiting=WaitingStatus(calls=backlog.calls, bytes=backlog.bytes),
            shed=metrics.shed,
            rejected=metrics.rejected,
            retries=metrics.retries,
            decision_log=DecisionLogStatus(
                path=log.path,
                failing=log.failing,
                lines=log.counters.written,
                lost=log.counters.lost,
                buffered=log.buffered,
            ),
            build=Build(
                version=build.version,
                revision=build.revision,
                python=build.python,
                grpcio=build.grpcio,
                form=build.form,
            ),
        )

    def _config(self) -> ConfigurationStatus:
        snapshot, state = self._router.snapshot, self._reloader.state
        status = ConfigurationStatus(seen_revision=state.seen_revision, errors=(*state.errors, *state.differing))
        if snapshot is not None:
            status.revision, status.generation = snapshot.revision, snapshot.generation
            status.activated.FromDatetime(snapshot.activated)
            status.default = snapshot.config.default
        return status

    def _pool(self, pool: Pool) -> PoolStatus:
        now = self._clock()
        return PoolStatus(
            version=pool.version,
            available=len(pool.available),
            replicas=(
                ReplicaStatus(
                    address=replica.address,
                    health=replica.health.value,
                    gets_calls=replica.is_in(now),
                    load=replica.queue.load,
                )
                for replica in pool.replicas
            ),
            ejections=pool.outliers.counters.enforced,
        )


def _group(stats: ArmStats) -> GroupStatus:
    return GroupStatus(
        experiment=stats.experiment,
        group=stats.group,
        model_version=stats.version,
        calls=stats.calls,
        errors=stats.errors,
        fallbacks=sum(stats.fallbacks.values()),
        latency=LatencyHistogram(
            bounds_s=stats.latency.bounds, counts=stats.latency.counts, total_s=stats.latency.total
        ),
    )


class Admin(admin_pb2_grpc.AdminServicer):
    """The gRPC service abfleet.admin.v1.Admin: Status, Reload and SetLogLevel."""

    def __init__(self, report: StatusReport, reloader: Reloader, router: Router, operations: OperationalLog) -> None:
        self._operations = operations
        self._report = report
        self._reloader = reloader
        self._router = router

    async def Status(self, request: admin_pb2.StatusRequest, context: object) -> StatusResponse:
        status = self._report.status()
        if not request.without_json:  # readers of the release before fields do not know to ask
            status.json = orjson.dumps(as_document(status)).decode()
        return status

    async def Reload(self, request: admin_pb2.ReloadRequest, context: object) -> admin_pb2.ReloadResponse:
        await self._reloader.poll(force=True)
        snapshot, state = self._router.snapshot, self._reloader.state
        return admin_pb2.ReloadResponse(
            active=not state.errors and snapshot is not None,
            config_revision=snapshot.revision if snapshot else "",
            errors=state.errors,
        )

    async def SetLogLevel(
        self, request: admin_pb2.SetLogLevelRequest, context: "Context"
    ) -> admin_pb2.SetLogLevelResponse:
        try:
            was = self._operations.set_level(request.level)
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return admin_pb2.SetLogLevelResponse(was=was, level=self._operations.level)
