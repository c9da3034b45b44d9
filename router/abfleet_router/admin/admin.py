"""Status, reload and log level for operators, on the admin port. Gathers what there is to show, decides nothing."""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
import orjson
from abfleet_log.writer.decision_log import DecisionLog
from abfleet_process.operational_log import OperationalLog
from abfleet_protos import admin_pb2, admin_pb2_grpc
from abfleet_transport.rpc_metrics import Histogram

from abfleet_router.calls.router import Router
from abfleet_router.configuration.reload import Reloader
from abfleet_router.fleet.fleet import Fleet
from abfleet_router.metrics import RouterMetrics

if TYPE_CHECKING:  # the stubs are generic, the class itself is not
    Context = grpc.aio.ServicerContext[admin_pb2.SetLogLevelRequest, admin_pb2.SetLogLevelResponse]

SERVICE = admin_pb2.DESCRIPTOR.services_by_name["Admin"].full_name


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

    def document(self) -> dict[str, Any]:
        """The whole report as plain JSON values; docs/operations.md names each key."""
        snapshot, state, metrics = self._router.snapshot, self._reloader.state, self._metrics
        return {
            "router": self._name,
            "log_level": self._operations.level,
            "serving": self._serving(),
            "uptime_s": round(self._clock() - self._started, 3),
            "tasks": len(asyncio.all_tasks()),
            "config": {
                "revision": snapshot.revision if snapshot else None,
                "generation": snapshot.generation if snapshot else 0,
                "activated": snapshot.activated.isoformat() if snapshot else None,
                "seen_revision": state.seen_revision,
                "errors": list(state.errors),
                "default": snapshot.config.default if snapshot else None,
            },
            "groups": [
                {
                    "experiment": stats.experiment,
                    "group": stats.group,
                    "model_version": stats.version,
                    "calls": stats.calls,
                    "errors": stats.errors,
                    "fallbacks": sum(stats.fallbacks.values()),
                    "latency": histogram(stats.latency),
                }
                for stats in list(metrics.arms.values())
            ],
            "pools": [
                {
                    "version": pool.version,
                    "available": len(pool.available),
                    "replicas": [
                        {
                            "address": replica.address,
                            "health": replica.health.value,
                            "in": replica.is_in(self._clock()),
                            "load": replica.queue.load,
                        }
                        for replica in pool.replicas
                    ],
                    "ejections": pool.outliers.counters.enforced,
                }
                for pool in self._fleet.pools.values()
            ],
            "waiting": {"calls": self._fleet.backlog.calls, "bytes": self._fleet.backlog.bytes},
            "shed": metrics.shed,
            "rejected": metrics.rejected,
            "retries": metrics.retries,
            "decision_log": {
                "path": self._log.path,
                "failing": self._log.failing,
                "lines": self._log.counters.written,
                "lost": self._log.counters.lost,
                "buffered": self._log.buffered,
            },
        }


def histogram(values: Histogram) -> dict[str, Any]:
    """Counts per bucket, so that two reports can be subtracted; bounds in seconds."""
    return {"bounds_s": list(values.bounds), "counts": list(values.counts), "total_s": values.total}


class Admin(admin_pb2_grpc.AdminServicer):
    """The gRPC service abfleet.admin.v1.Admin: Status, Reload and SetLogLevel."""

    def __init__(self, report: StatusReport, reloader: Reloader, router: Router, operations: OperationalLog) -> None:
        self._operations = operations
        self._report = report
        self._reloader = reloader
        self._router = router

    async def Status(self, request: admin_pb2.StatusRequest, context: object) -> admin_pb2.StatusResponse:
        return admin_pb2.StatusResponse(json=orjson.dumps(self._report.document()).decode())

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
