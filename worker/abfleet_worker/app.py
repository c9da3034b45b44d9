"""The composition root: settings to a serving worker, and its way out. Decides nothing for the parts."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import grpc
import structlog
import uvloop
from abfleet_models import signing
from abfleet_models.errors import RegistryError
from abfleet_process import build_info, watched_credentials
from abfleet_process.errors import AddressError, TransportError
from abfleet_process.flags import EXIT_USAGE, SettingsError
from abfleet_process.lasting import start_lasting
from abfleet_process.operational_log import OperationalLog, configure_logs
from abfleet_process.process import MetricsServer, StopSignals
from abfleet_process.security.tls import ServerTls
from abfleet_process.tracing.exporter import make_exporter
from abfleet_protos import inference_pb2, recommender_pb2, worker_pb2
from abfleet_transport.health import HealthService
from abfleet_transport.machine import THIS_MACHINE, Machine
from abfleet_transport.reflection import add_reflection
from abfleet_transport.rpc_metrics import OtherMethods, RpcMetrics
from abfleet_transport.server import Server, ServerPlan, choose, make_server
from prometheus_client import CollectorRegistry, ProcessCollector

from abfleet_worker.errors import ModelLoadError, WorkerError
from abfleet_worker.follow import Follower
from abfleet_worker.inbox import Inbox
from abfleet_worker.metrics import FollowerCounters, WorkerMetrics
from abfleet_worker.model import OnnxModel, load
from abfleet_worker.service import METHODS, Model, ModelService
from abfleet_worker.settings import WorkerSettings, parse
from abfleet_worker.tensors.oip_services import OipServices
from abfleet_worker.tracing import InferenceTracer

EXIT_FAILURE = 1
INBOX_SECONDS = 2.0
"""For the thread of the model to end once nobody waits for an answer; one that hangs must not keep the process."""
SERVICES = (
    recommender_pb2.DESCRIPTOR.services_by_name["Recommender"].full_name,
    worker_pb2.DESCRIPTOR.services_by_name["Worker"].full_name,
    inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a worker until a signal; gives the exit code: 0 drained, 1 failed, 2 wrong settings."""
    try:
        settings = parse(sys.argv[1:] if arguments is None else arguments)
    except SettingsError as error:
        print(f"abfleet worker: {error}; --help lists the settings", file=sys.stderr)
        return EXIT_USAGE
    operations = configure_logs(settings.log_level, settings.log_format)
    try:
        return uvloop.run(serve(settings, operations))
    except AddressError as error:
        print(f"abfleet worker: {error}; --listen and --metrics-port choose others", file=sys.stderr)
    except (WorkerError, TransportError) as error:
        print(f"abfleet worker: {error}", file=sys.stderr)
    finally:
        operations.close()
    return EXIT_FAILURE


async def serve(settings: WorkerSettings, operations: OperationalLog) -> int:
    """Loads, serves, and drains at the first SIGTERM or SIGINT; a second one ends it at once.

    Raises WorkerError or TransportError when it cannot begin.
    """
    log = structlog.get_logger("abfleet.worker")
    signals = StopSignals()
    operations.follow_signals()
    # What is wrong with the transport or the certificate is said before a model is loaded.
    choose(settings.transport, needs_grpcio=settings.security.needs_grpcio)
    tls = settings.security.tls()
    model = await asyncio.to_thread(_load, settings, settings.version)
    log.info("model loaded", version=model.version, sha256=model.sha256[:12], seconds=round(model.load_seconds, 3))
    async with WorkerServing(settings, model, tls) as serving:
        if not signals.first.is_set():
            async with serving.following():
                await serving.health.set_serving(True)
                metrics = serving.metrics.port
                log.info("ready", address=serving.address, transport=serving.server.transport, metrics=metrics)
                print(f"ready {serving.address} version {model.version}", flush=True)
                await signals.first.wait()
        log.info("draining", delay_seconds=settings.drain_delay_seconds, timeout_seconds=settings.drain_timeout_seconds)
        drained = await signals.drain(serving.drain)
        if not drained:
            log.warning(
                "a second signal ended the drain; running calls may have been cut off",
                in_progress=serving.server.in_progress,
            )
    if serving.left_behind:
        log.warning("the model is still running, and is left behind")
        operations.close()
        os._exit(EXIT_FAILURE)  # ONNX Runtime aborts a process that ends in order while a model runs
    if drained:
        log.info("stopped")
    return 0 if drained else EXIT_FAILURE


def _load(settings: WorkerSettings, name: str) -> OnnxModel:
    return load(
        settings.registry,
        name,
        intra_op_threads=settings.intra_op_threads,
        spinning=settings.spinning,
        signing_key=_signing_key(settings),
    )


def _signing_key(settings: WorkerSettings) -> bytes | None:
    """The key that models must be signed with; read at each load. Raises ModelLoadError."""
    if settings.model_key_file is None:
        return None
    try:
        return signing.read_key(settings.model_key_file)
    except RegistryError as error:
        raise ModelLoadError(f"--model-key-file: {error}") from error


class WorkerServing:
    """Everything that is open while a worker serves; entered it listens, left it has closed."""

    def __init__(
        self, settings: WorkerSettings, model: Model, tls: ServerTls | None, machine: Machine = THIS_MACHINE
    ) -> None:
        self._settings = settings
        self._machine = machine
        self._tls = tls
        self._checking: asyncio.Task[None] | None = None
        self.left_behind = False
        """Whether the model was still running when all was closed."""
        rpc_metrics = RpcMetrics(METHODS)
        # A name that is not the version's own is an alias, which may lead to another version tomorrow.
        self._alias = settings.version if settings.version != model.version else ""
        self._follow_counts = FollowerCounters()
        worker_metrics = WorkerMetrics(
            lambda: (self.service.model.version, self.service.model.sha256),
            self._follow_counts if self._alias else None,
        )
        self.spans = make_exporter(
            settings.otlp_endpoint, "abfleet-worker", {"service.instance.id": f"{machine.host}-{machine.process}"}
        )
        if self.spans is not None:
            worker_metrics.register(self.spans.families)
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(rpc_metrics)
        self.service = ModelService(
            model,
            rpc_metrics=rpc_metrics,
            metrics=worker_metrics,
            max_batch=settings.max_batch,
            make_request_id=lambda: machine.entropy(16).hex(),
            alias=self._alias,
            name=settings.model_name,
            most_answer_bytes=settings.security.max_message_bytes,
            tracer=self._make_tracer(),
            clock=machine.clock,
        )
        if tls is not None:
            worker_metrics.register(lambda: watched_credentials.families([tls.watched], [("tls", tls.expiry)]))
        worker_metrics.register(build_info.families)
        registry.register(worker_metrics)
        self.metrics = MetricsServer(settings.metrics_host, settings.metrics_port, registry)
        self.health = HealthService(self._names(model.version))
        plan = ServerPlan(
            address=settings.listen,
            methods=METHODS,
            add_services=self._add_services,
            interceptors=(OtherMethods(rpc_metrics, METHODS),),
            max_message_bytes=settings.security.max_message_bytes,
            max_metadata_bytes=settings.security.max_metadata_bytes,
            max_concurrent_streams=settings.security.max_concurrent_streams,
            max_connections=settings.security.max_connections,
            tls=tls,
            machine=machine,
        )
        self._inbox = Inbox(self.service, clock=machine.work_clock, background=machine.background)
        self.server: Server = make_server(settings.transport, plan, self._inbox.put, self._inbox.withdraw)

    def _make_tracer(self) -> InferenceTracer | None:
        machine = self._machine
        return (
            None if self.spans is None else InferenceTracer(self.spans.export, machine.random.getrandbits, machine.wall)
        )

    @property
    def address(self) -> str:
        """Where it listens, with the port that was bound."""
        listen = self._settings.listen
        return listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{self.server.port}"

    def _names(self, *versions: str) -> tuple[str, ...]:
        """The names that health knows: its services, the versions and, if there is one, the alias."""
        return (*SERVICES, *versions, self._alias) if self._alias else (*SERVICES, *versions)

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Changes to the version of the alias whenever the alias moves; SIGHUP asks to poll at once."""
        loop = asyncio.get_running_loop()
        if not self._alias:  # SIGHUP must not end a worker whose version has no alias to follow
            loop.add_signal_handler(signal.SIGHUP, lambda: None)
            yield
            return
        follower = Follower(
            self._settings.registry,
            self._alias,
            serving=lambda: self.service.model.version,
            load=partial(_load, self._settings),
            change=self._change,
            counts=self._follow_counts,
            interval_seconds=self._settings.follow_interval_seconds,
        )
        loop.add_signal_handler(signal.SIGHUP, follower.ask)
        task = start_lasting(follower.run, "follow the alias")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _change(self, model: OnnxModel) -> None:
        """Lets another version serve. Under the alias it serves throughout; a router that asked for the old version by
        name hears first that it is gone, and one that asked for the new version hears last that it is there."""
        await self.health.set_names(self._names())
        self.service.use(model)
        await self.health.set_names(self._names(model.version))

    def _add_services(self, server: grpc.aio.Server) -> None:
        self.health.add_to(server)
        oip = OipServices(
            name=self._settings.model_name,
            alias=self._alias,
            serving=lambda: (self.service.model.version, self.service.model.signature),
            ready=lambda: self.health.serving,
        )
        oip.add_to(server)
        add_reflection(server, (recommender_pb2.DESCRIPTOR, worker_pb2.DESCRIPTOR, inference_pb2.DESCRIPTOR))

    async def __aenter__(self) -> "WorkerServing":
        await self.health.set_serving(False)
        self._inbox.start()
        if self.spans is not None:
            self.spans.start()
        try:
            self.metrics.start()
            await self.server.start()
            if self._tls is not None:
                checking = partial(watched_credentials.keep_checking, [self._tls.watched])
                self._checking = start_lasting(checking, "check certificates")
        except TransportError:
            await self._close()
            raise
        self._machine.freeze_memory()
        return self

    async def drain(self) -> None:
        """Says NOT_SERVING, goes on answering for the delay, then lets what is running end, up to the timeout."""
        await self.health.set_serving(False)
        await asyncio.sleep(self._settings.drain_delay_seconds)
        await self.server.close(self._settings.drain_timeout_seconds)

    async def __aexit__(self, *exception: object) -> None:
        await self._close()

    async def _close(self) -> None:
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.gather(self._checking, return_exceptions=True)
        await self.server.close()
        self.left_behind = not self._inbox.close(INBOX_SECONDS)
        self.metrics.close()
        if self.spans is not None:
            self.spans.close()
