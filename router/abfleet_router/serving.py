"""The composition root: settings to a serving router, and its way out. Knows every part, decides nothing for them."""

import asyncio
import random
import signal
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import grpc
from abfleet_log.files import WriterIdentity
from abfleet_log.user_id_hash import keyed_hash
from abfleet_log.writer.decision_log import DecisionLog
from abfleet_process.operational_log import OperationalLog
from abfleet_process.process import MetricsServer
from abfleet_process.tracing.exporter import make_exporter
from abfleet_process.watched_credentials import keep_checking
from abfleet_protos import admin_pb2_grpc, recommender_pb2, recommender_pb2_grpc
from abfleet_transport.health import HealthService, add_reflection
from abfleet_transport.machine import THIS_MACHINE, Machine
from abfleet_transport.rpc_metrics import OtherMethods, RpcMetrics
from abfleet_transport.server import Server, ServerPlan, make_server
from prometheus_client import CollectorRegistry, ProcessCollector

from abfleet_router.admin import admin, fleet_metrics
from abfleet_router.calls.router import Router
from abfleet_router.calls.spans import CallTracer
from abfleet_router.configuration.reload import Reloader
from abfleet_router.configuration.snapshot import Snapshot
from abfleet_router.feedback.feedback import Feedback
from abfleet_router.feedback.group_metrics import shares
from abfleet_router.fleet.fleet import Fleet
from abfleet_router.metrics import RouterMetrics
from abfleet_router.security.guards import Guards
from abfleet_router.settings import RouterSettings

METHODS = ("/Recommender/Recommend",)
COUNTED = (*METHODS, "/Feedback/Record")
SERVICES = tuple(recommender_pb2.DESCRIPTOR.services_by_name[name].full_name for name in ("Recommender", "Feedback"))
SWEEP_SECONDS = 0.02
"""Between checks for attempts whose time is up: an answer may be late by this much, against a default of 500 ms."""
SWEEPS_PER_MEMORY_CHECK = 5
"""Memory is checked at every fifth of them: ten times a second."""


class Serving:
    """Everything that is open while a router serves; entered it listens, left it has closed."""

    def __init__(
        self, settings: RouterSettings, operations: OperationalLog | None = None, machine: Machine = THIS_MACHINE
    ) -> None:
        """`operations`: the log of the process, where it is this router's."""
        self._machine = machine
        self._settings = settings
        self._operations = operations or OperationalLog(settings.log_level)
        self.rpc_metrics = RpcMetrics(COUNTED)
        self.metrics = RouterMetrics()
        self.decision_log = DecisionLog(
            settings.log_dir,
            settings.log,
            clock=machine.clock,
            wall=machine.wall,
            background=machine.background,
            system=machine.files,
            identity=WriterIdentity(machine.host, machine.process),
        )
        self.guards = Guards(
            settings.security,
            listen=settings.listen,
            admin_listen=settings.admin_listen,
            open_feedback=settings.open_feedback,
        )
        self.fleet = Fleet(
            clock=machine.clock,
            draw=machine.random.random,
            policy=settings.ejection,
            batching=settings.batching,
            slow_start_seconds=settings.slow_start_seconds,
            worker_tls=self.guards.worker_tls,
        )
        more = {"service.instance.id": settings.routing.name}
        self.spans = make_exporter(settings.otlp_endpoint, "abfleet-router", more)
        key_file = settings.user_id_hmac_key_file
        self._hashed = keyed_hash(key_file) if key_file else None
        self.router = Router(
            self.fleet,
            self.decision_log,
            self.metrics,
            self.rpc_metrics,
            settings.routing,
            machine.clock,
            machine.wall,
            holds_answers=settings.log.policy == "refuse",
            hashed=self._hashed,
            tracer=self._make_tracer(machine.random),
            client_of=self.guards.client_of,
            rate_limit=self.guards.rate_limit,
            entropy=machine.entropy,
        )
        self.fleet.set_receiver(self.router.batch_results)
        self.reloader = Reloader(
            settings.experiments,
            settings.fleet,
            self.fleet,
            self.metrics,
            self.decision_log,
            self._use,
            router=settings.routing.name,
            now=lambda: datetime.fromtimestamp(machine.wall(), UTC),
            settle_polls=1,
        )
        self.feedback = self._make_feedback()
        self.metrics.register(self.feedback.counts.families)
        self.metrics.register(self.feedback.by_group.families)
        self.metrics.register(lambda: shares(self.router.snapshot))
        self.health = HealthService(SERVICES)
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(self.rpc_metrics)
        self.metrics.register(lambda: fleet_metrics.families(self.fleet, self.decision_log, self.router))
        if self.spans is not None:
            self.metrics.register(self.spans.families)
        registry.register(self.metrics)
        self._metrics_server = MetricsServer(settings.metrics_host, settings.metrics_port, registry)
        self.server = self._make_server()
        self.metrics.register(self.server.families)
        self.metrics.register(lambda: self.guards.families(self.server.oversized))
        self._admin_server: grpc.aio.Server | None = None
        self._admin_port = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._offered = False  # ready and not draining; changed only by ready and drain

    def _make_feedback(self) -> Feedback:
        return Feedback(
            self.decision_log,
            lambda: self.router.snapshot,
            self.rpc_metrics,
            router=self._settings.routing.name,
            window=self._settings.feedback_window,
            authorise=self.guards.access.feedback,
            certificates=self.guards.asks_clients,
            user_id_hmac=self._hashed,
            wall=self._machine.wall,
            clock=self._machine.clock,
        )

    def _make_server(self) -> Server:
        security = self._settings.security.server
        plan = ServerPlan(
            address=self._settings.listen,
            methods=METHODS,
            add_services=self._add_services,
            interceptors=(OtherMethods(self.rpc_metrics, COUNTED),),
            max_message_bytes=security.max_message_bytes,
            max_metadata_bytes=security.max_metadata_bytes,
            max_concurrent_streams=security.max_concurrent_streams,
            max_connections=security.max_connections,
            tls=self.guards.tls,
            machine=self._machine,
        )
        return make_server(self._settings.transport, plan, self.router.on_calls, self.router.on_cancelled)

    def _add_services(self, server: grpc.aio.Server) -> None:
        self.health.add_to(server)
        recommender_pb2_grpc.add_FeedbackServicer_to_server(self.feedback, server)  # type: ignore[no-untyped-call]
        add_reflection(server, SERVICES)

    def _use(self, snapshot: Snapshot) -> None:
        self._operations.bind(config_revision=snapshot.revision)
        self.router.use(snapshot)

    def _make_tracer(self, generator: random.Random) -> CallTracer | None:
        if self.spans is None:
            return None
        ratio = self._settings.trace_sample
        return CallTracer(
            self.spans.export, ratio, draw=generator.random, bits=generator.getrandbits, hashed=self._hashed
        )

    @property
    def address(self) -> str:
        """Where callers are served, with the port that was bound."""
        return bound(self._settings.listen, self.server.port)

    @property
    def admin_address(self) -> str:
        """Where operators are served, with the port that was bound."""
        return bound(self._settings.admin_listen, self._admin_port)

    @property
    def metrics_address(self) -> str:
        """Where /metrics is served, or `off`."""
        port = self._metrics_server.port
        return "off" if port is None else f"{self._settings.metrics_host}:{port}"

    async def __aenter__(self) -> Self:
        await self.health.set_serving(False)
        self.decision_log.open()
        if self.spans is not None:
            self.spans.start()
        try:
            await self.reloader.start()
            self._metrics_server.start()
            await self._start_admin()
            await self.server.start()
        except BaseException:
            await self._close()
            raise
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self.reloader.follow(self._settings.reload_interval_seconds), name="reload"),
            loop.create_task(self._keep_sweeping(), name="sweep"),
            loop.create_task(self._reload_on_hangup(), name="reload on SIGHUP"),
            loop.create_task(keep_checking(self.guards.files), name="check certificates and tokens"),
        ]
        return self

    async def _reload_on_hangup(self) -> None:
        hangup = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hangup.set)
        while True:
            await hangup.wait()
            hangup.clear()
            await self.reloader.poll(force=True)

    async def _start_admin(self) -> None:
        report = admin.StatusReport(
            self._settings.routing.name,
            self.router,
            self.fleet,
            self.reloader,
            self.metrics,
            self.decision_log,
            lambda: self.health.serving,
            self._operations,
            self._machine.clock,
        )
        self._admin_server = self.guards.admin_server(self._machine.grpcio)
        admin_pb2_grpc.add_AdminServicer_to_server(
            admin.Admin(report, self.reloader, self.router, self._operations), self._admin_server
        )  # type: ignore[no-untyped-call]
        add_reflection(self._admin_server, (admin.SERVICE,))
        self._admin_port = self.guards.bind_admin(self._admin_server)
        await self._admin_server.start()

    async def ready(self) -> None:
        """Returns when a call would be answered: a configuration is in force, and the default version serves."""
        while self.router.snapshot is None:
            await self.reloader.poll()
            await asyncio.sleep(0.01)
        self._machine.freeze_memory()
        self._offered = True
        await self.health.set_serving(self._serves)

    @property
    def _serves(self) -> bool:
        """Whether health says SERVING. Under every policy but keep_serving it depends on the decision log too."""
        may_fail = self._settings.log.policy == "keep_serving"
        return self._offered and not self.router.memory_over_limit and (may_fail or not self.decision_log.failing)

    async def _keep_sweeping(self) -> None:
        memory, sweeps = self.guards.memory, 0
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.router.batch_results.sweep()
            sweeps += 1
            if memory is not None and sweeps % SWEEPS_PER_MEMORY_CHECK == 0:
                self.router.memory_over_limit = memory.check()
            if (serves := self._serves) is not self.health.serving:
                await self.health.set_serving(serves)

    async def drain(self) -> None:
        """Says NOT_SERVING, goes on answering for the delay, then lets what is running end, up to the timeout."""
        self._offered = False
        await self.health.set_serving(False)
        await asyncio.sleep(self._settings.drain_delay_seconds)
        await self.server.close(self._settings.drain_timeout_seconds)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.server.close()
        await self.fleet.close()
        if self._admin_server is not None:
            await self._admin_server.stop(None)
        self._metrics_server.close()
        self.decision_log.close()
        if self.spans is not None:
            self.spans.close()


def bound(listen: str, port: int) -> str:
    """An address with the port that was bound; a unix socket as it is."""
    return listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"
