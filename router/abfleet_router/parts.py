"""Puts a router together: settings to parts that know each other, none of which is open yet."""

import random
from collections.abc import Callable
from datetime import UTC, datetime

import grpc
from abfleet_log.files import WriterIdentity
from abfleet_log.user_id_hash import keyed_hash
from abfleet_log.writer.decision_log import DecisionLog
from abfleet_process import build_info
from abfleet_process.operational_log import OperationalLog
from abfleet_process.process import MetricsServer
from abfleet_process.tracing.exporter import make_exporter
from abfleet_protos import inference_pb2, recommender_pb2, recommender_pb2_grpc
from abfleet_transport import oip
from abfleet_transport.health import HealthService
from abfleet_transport.machine import Machine
from abfleet_transport.reflection import add_reflection
from abfleet_transport.rpc_metrics import OtherMethods, RpcMetrics
from abfleet_transport.server import Server, ServerPlan, make_server
from prometheus_client import CollectorRegistry, ProcessCollector

from abfleet_router.admin import fleet_metrics
from abfleet_router.calls.router import Router
from abfleet_router.calls.spans import CallTracer
from abfleet_router.configuration.reload import Reloader
from abfleet_router.configuration.snapshot import Snapshot
from abfleet_router.feedback.feedback import Feedback
from abfleet_router.feedback.group_metrics import shares
from abfleet_router.fleet.connector import SocketConnector
from abfleet_router.fleet.fleet import Fleet
from abfleet_router.fleet.waiting_calls import Backlog
from abfleet_router.fleet.worker_link import WorkerLink
from abfleet_router.metrics import RouterMetrics
from abfleet_router.oip_services import RouterOipServices
from abfleet_router.security.guards import Guards
from abfleet_router.settings import RouterSettings

METHODS = ("/Recommender/Recommend", oip.MODEL_INFER)
COUNTED = (*METHODS, "/Feedback/Record")
SERVICES = (
    *(recommender_pb2.DESCRIPTOR.services_by_name[name].full_name for name in ("Recommender", "Feedback")),
    oip.SERVICE,
)


class RouterParts:
    """Everything that a router has; the only place where parts are given to each other."""

    def __init__(self, settings: RouterSettings, operations: OperationalLog, machine: Machine) -> None:
        """`operations`: gets the revision that is in force into its lines."""
        self._settings = settings
        self._machine = machine
        self._operations = operations
        self.health = HealthService(SERVICES)
        self.rpc_metrics, self.metrics = RpcMetrics(COUNTED), RouterMetrics()
        self.guards = Guards(
            settings.security,
            listen=settings.listen,
            admin_listen=settings.admin_listen,
            open_feedback=settings.open_feedback,
        )
        self.decision_log = DecisionLog(
            settings.log_dir,
            settings.log,
            clock=machine.clock,
            wall=machine.wall,
            background=machine.background,
            system=machine.files,
            identity=WriterIdentity(machine.host, machine.process),
        )
        more = {"service.instance.id": settings.routing.name}
        self.spans = make_exporter(settings.otlp_endpoint, "abfleet-router", more)
        key_file = settings.user_id_hmac_key_file
        self._hashed = keyed_hash(key_file) if key_file else None
        backlog = Backlog()
        self.router = self._make_router(backlog)
        self.fleet = Fleet(
            self.router.batch_results,
            backlog,
            self._make_link,
            clock=machine.clock,
            draw=machine.random.random,
            policy=settings.ejection,
            batching=settings.batching,
            slow_start_seconds=settings.slow_start_seconds,
        )
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
        self.server = self._make_server()
        self.metrics_server = MetricsServer(settings.metrics_host, settings.metrics_port, self._registry())

    def _make_router(self, backlog: Backlog) -> Router:
        settings, machine = self._settings, self._machine
        return Router(
            backlog,
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

    def _make_tracer(self, generator: random.Random) -> CallTracer | None:
        if self.spans is None:
            return None
        ratio = self._settings.trace_sample
        return CallTracer(
            self.spans.export, ratio, draw=generator.random, bits=generator.getrandbits, hashed=self._hashed
        )

    def _make_link(self, address: str, host_name: Callable[[], str]) -> WorkerLink:
        connector = SocketConnector(address, host_name, tls=self.guards.worker_tls)
        return WorkerLink(connector, draw=self._machine.random.random, clock=self._machine.clock)

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
            max_bytes_of={oip.MODEL_INFER: self._settings.max_infer_bytes},
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
        RouterOipServices(lambda: self.router.snapshot, lambda: self.health.serving).add_to(server)
        add_reflection(server, (recommender_pb2.DESCRIPTOR, inference_pb2.DESCRIPTOR))

    def _use(self, snapshot: Snapshot) -> None:
        self._operations.bind(config_revision=snapshot.revision)
        self.router.use(snapshot)

    def _registry(self) -> CollectorRegistry:
        metrics = self.metrics
        metrics.register(build_info.families)
        metrics.register(self.feedback.counts.families)
        metrics.register(self.feedback.by_group.families)
        metrics.register(lambda: shares(self.router.snapshot))
        metrics.register(lambda: fleet_metrics.families(self.fleet, self.decision_log, self.router))
        if self.spans is not None:
            metrics.register(self.spans.families)
        metrics.register(self.server.families)
        metrics.register(lambda: self.guards.families(self.server.oversized))
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(self.rpc_metrics)
        registry.register(metrics)
        return registry
