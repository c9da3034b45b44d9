"""A router's life: what is opened, kept up and closed while it serves. What there is, is put together in parts.py."""

import asyncio
import signal
from functools import partial
from types import TracebackType
from typing import Self

import grpc
from abfleet_process.lasting import start_lasting
from abfleet_process.operational_log import OperationalLog
from abfleet_process.watched_credentials import keep_checking
from abfleet_protos import admin_pb2, admin_pb2_grpc
from abfleet_transport.machine import THIS_MACHINE, Machine
from abfleet_transport.reflection import add_reflection

from abfleet_router.admin import admin
from abfleet_router.parts import RouterParts
from abfleet_router.settings import RouterSettings

CHECK_SECONDS = 0.1
"""Between checks of memory, of workers that are silent and of our own health; those of workers are counted."""


class Serving:
    """Everything that is open while a router serves; entered it listens, left it has closed."""

    def __init__(
        self, settings: RouterSettings, operations: OperationalLog | None = None, machine: Machine = THIS_MACHINE
    ) -> None:
        """`operations`: the log of the process, where it is this router's."""
        self._machine = machine
        self._settings = settings
        self._operations = operations or OperationalLog(settings.log_level)
        self.parts = RouterParts(settings, self._operations, machine)
        self._admin_server: grpc.aio.Server | None = None
        self._admin_port = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._offered = False  # ready and not draining; changed only by ready and drain

    @property
    def address(self) -> str:
        """Where callers are served, with the port that was bound."""
        return bound(self._settings.listen, self.parts.server.port)

    @property
    def admin_address(self) -> str:
        """Where operators are served, with the port that was bound."""
        return bound(self._settings.admin_listen, self._admin_port)

    @property
    def metrics_address(self) -> str:
        """Where /metrics is served, or `off`."""
        port = self.parts.metrics_server.port
        return "off" if port is None else f"{self._settings.metrics_host}:{port}"

    def totals(self) -> str:
        """What came of all calls since the start, as words and numbers: `calls 12 failed 0 fallbacks 1 …`."""
        parts = self.parts
        arms, outcomes = parts.metrics.arms.values(), parts.feedback.counts.by_type
        written = parts.decision_log.counters
        numbers = {
            "calls": sum(arm.calls for arm in arms),
            "failed": sum(arm.errors for arm in arms),
            "fallbacks": sum(sum(arm.fallbacks.values()) for arm in arms),
            "outcomes": sum(count for (_, result), count in outcomes.items() if result == "accepted"),
            "lines": written.written,
            "lost": written.lost,
        }
        return " ".join(f"{name} {number}" for name, number in numbers.items())

    async def __aenter__(self) -> Self:
        await self.parts.health.set_serving(False)
        self.parts.decision_log.open()
        if self.parts.spans is not None:
            self.parts.spans.start()
        try:
            await self.parts.reloader.start()
            self.parts.metrics_server.start()
            await self._start_admin()
            await self.parts.server.start()
        except BaseException:
            await self._close()
            raise
        reload = partial(self.parts.reloader.follow, self._settings.reload_interval_seconds)
        self._tasks = [
            start_lasting(reload, "reload"),
            start_lasting(self._keep_checking, "check"),
            start_lasting(self._reload_on_hangup, "reload on SIGHUP"),
            start_lasting(partial(keep_checking, self.parts.guards.files), "check certificates and tokens"),
        ]
        return self

    async def _reload_on_hangup(self) -> None:
        hangup = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hangup.set)
        while True:
            await hangup.wait()
            hangup.clear()
            await self.parts.reloader.poll(force=True)

    async def _start_admin(self) -> None:
        report = admin.StatusReport(
            self._settings.routing.name,
            self.parts.router,
            self.parts.fleet,
            self.parts.reloader,
            self.parts.metrics,
            self.parts.decision_log,
            lambda: self.parts.health.serving,
            self._operations,
            self._machine.clock,
        )
        self._admin_server = self.parts.guards.admin_server(self._machine.grpcio)
        admin_pb2_grpc.add_AdminServicer_to_server(
            admin.Admin(report, self.parts.reloader, self.parts.router, self._operations), self._admin_server
        )  # type: ignore[no-untyped-call]
        add_reflection(self._admin_server, (admin_pb2.DESCRIPTOR,))
        self._admin_port = self.parts.guards.bind_admin(self._admin_server)
        await self._admin_server.start()

    async def ready(self) -> None:
        """Returns when a call would be answered: a configuration is in force, and the default version serves."""
        while self.parts.router.snapshot is None:
            await self.parts.reloader.poll()
            await asyncio.sleep(0.01)
        self._machine.freeze_memory()
        self._offered = True
        await self.parts.health.set_serving(self._serves)

    @property
    def _serves(self) -> bool:
        """Whether health says SERVING. Under every policy but keep_serving it depends on the decision log too."""
        parts, may_fail = self.parts, self._settings.log.policy == "keep_serving"
        return self._offered and not parts.router.memory_over_limit and (may_fail or not parts.decision_log.failing)

    async def _keep_checking(self) -> None:
        memory = self.parts.guards.memory
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self.parts.fleet.check_liveness()
            if memory is not None:
                self.parts.router.memory_over_limit = memory.check()
            if (serves := self._serves) is not self.parts.health.serving:
                await self.parts.health.set_serving(serves)

    async def drain(self) -> None:
        """Says NOT_SERVING, goes on answering for the delay, then lets what is running end, up to the timeout."""
        self._offered = False
        await self.parts.health.set_serving(False)
        await asyncio.sleep(self._settings.drain_delay_seconds)
        await self.parts.server.close(self._settings.drain_timeout_seconds)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.parts.server.close()
        self.parts.router.shadows.close()
        await self.parts.fleet.close()
        if self._admin_server is not None:
            await self._admin_server.stop(None)
        self.parts.metrics_server.close()
        self.parts.decision_log.close()
        if self.parts.spans is not None:
            self.parts.spans.close()


def bound(listen: str, port: int) -> str:
    """An address with the port that was bound; a unix socket as it is."""
    return listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"
