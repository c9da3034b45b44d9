"""Router and workers while they run: start, readiness, following the file, shutdown.

Children are processes in sessions of their own. At the shutdown the router drains first, then the workers stop.
"""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from abfleet_experiments.config import Config
from abfleet_process.counting import counted
from abfleet_protos.admin_pb2 import StatusResponse
from abfleet_router import settings as router_settings
from abfleet_transport.client.router_admin import RouterAdmin, Unreachable

from abfleet.up.closing_words import what_came, what_next
from abfleet.up.config_watcher import ConfigWatcher
from abfleet.up.console import UpConsole
from abfleet.up.fleet_plan import PortBase
from abfleet.up.local_autopilot import LocalAutopilot
from abfleet.up.local_dashboard import LocalDashboard
from abfleet.up.local_workers import LocalWorkers, LocalWorkerSettings, WorkerEndpoint
from abfleet.up.ports import WantedAddress, problems
from abfleet.up.settings import EXIT_USAGE, CannotStart, UpSettings
from abfleet.up.status_news import StatusNews
from abfleet.up.status_view import StatusWindow
from abfleet.up.supervisor import Child, ChildSpec, tail

START_SECONDS = 60.0
"""The router is ready in about a second; a machine that needs longer than this is not going to be."""
VERSIONS_SECONDS = 20.0
"""How long `ready` waits for versions other than the default, which falls back for them in the meantime."""
POLL_SECONDS = 0.25
STATUS_SECONDS = 1.0
ROUTER_CLOSE_SECONDS = 1.2
"""For a router to write its log and end, after it took all of its time to drain."""
WORKERS_STOP_SECONDS = 0.5
"""For workers after that: nobody calls them any more."""
AT_ONCE_SECONDS = 0.5
PROGRESS_SECONDS = 1.9
"""Nobody sees nothing for two seconds."""


class LocalFleet:
    """Router and workers of one `up`; changed only on the event loop."""

    def __init__(
        self,
        settings: UpSettings,
        router: router_settings.RouterSettings,
        config: Config,
        run_dir: Path,
        console: UpConsole,
    ) -> None:
        self._settings = settings
        self._router_settings = router
        self._config = config
        self._run_dir = run_dir
        self._console = console
        self._workers = LocalWorkers(
            LocalWorkerSettings(
                registry=settings.registry,
                transport=settings.transport,
                metrics_host=router.metrics_host,
                ports=PortBase(worker_port=settings.worker_port, metrics_port=router.metrics_port),
                replicas=dict(settings.replicas or ()),
                run_dir=run_dir,
            ),
            console.note,
        )
        self._router = self._router_child()
        self._dashboard = LocalDashboard(settings, run_dir, console.note)
        self._autopilot = LocalAutopilot(settings, run_dir, console.note)
        self._window = StatusWindow()
        self._wanted: list[WantedAddress] = []
        self._gone: dict[str, int] = {}  # versions that left the file: statuses of a router without them
        self._removals: set[asyncio.Task[None]] = set()
        self._served: Counter[str] = Counter()  # of routers that have ended

    # --- start --------------------------------------------------------------------------------------------------------

    def _router_child(self) -> Child:
        def spec(**bound: str) -> ChildSpec:
            command = self._settings.router_command(self._run_dir / "fleet.yaml", **bound)
            return ChildSpec(
                name="router",
                command=(sys.executable, "-m", "abfleet_router", *command),
                log_path=self._run_dir / "router.log",
            )

        def keep_addresses(child: Child) -> None:
            """A restarted router keeps its addresses, so that its callers find it."""
            bound = self._addresses()
            metrics = bound["metrics"].rpartition(":")[2]
            child.spec = spec(listen=bound["ready"], admin_listen=bound["admin"], metrics_port=metrics)

        return Child(spec(), say=self._console.note, on_ready=keep_addresses, on_line=self._on_router_line)

    def _on_router_line(self, line: str) -> None:
        """Adds what a router says at its end, `served calls 12 failed 0 …`, to what those before it said."""
        words = line.split()
        if words[:1] == ["served"]:
            self._served.update({name: int(number) for name, number in zip(words[1::2], words[2::2], strict=True)})

    def _addresses(self) -> dict[str, str]:
        """From the router's line `ready ADDRESS admin ADDRESS metrics ADDRESS`."""
        words = self._router.ready_line.split()
        return dict(zip(words[::2], words[1::2], strict=True))

    def check(self) -> list[WorkerEndpoint]:
        """Where the workers are going to be; starts nothing. Raises CannotStart for a missing model or a taken port."""
        endpoints = self._workers.plan(self._config, avoid_taken=False)
        if missing := self._workers.missing:
            by_problem: dict[str, list[str]] = {}
            for version, problem in missing.items():
                by_problem.setdefault(problem, []).append(version)
            lines = [f"{', '.join(versions)}: {problem}" for problem, versions in by_problem.items()]
            raise CannotStart(lines, EXIT_USAGE)
        host = self._router_settings.metrics_host
        self._wanted = [*self._router_ports(), *(one for endpoint in endpoints for one in endpoint.wanted(host))]
        if found := problems(self._wanted):
            raise CannotStart(found)
        return endpoints

    async def start(self, endpoints: Sequence[WorkerEndpoint], stop: asyncio.Event) -> None:
        """Starts everything and says ready, or returns early when `stop` is set. Raises CannotStart."""
        self._console.note(f"starting the router and {counted(len(endpoints), 'worker')}; Ctrl-C stops them")
        progress = asyncio.get_running_loop().create_task(self._say_what_starts(), name="progress of the start")
        try:
            await self._start(endpoints, stop)
        finally:
            progress.cancel()
            await asyncio.gather(progress, return_exceptions=True)
        if not stop.is_set():
            self._print_ready()
            self._dashboard.start(self._addresses()["admin"])
            self._autopilot.follow(self._config)

    async def _say_what_starts(self) -> None:
        """Now and then, what is not ready yet: some machines take a while, and silence looks like a fault."""
        began = time.monotonic()
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            children = (*self._workers.children.values(), self._router)
            waiting = ", ".join(child.spec.name for child in children if not child.ready.is_set())
            self._console.note(f"{time.monotonic() - began:.0f} s: waiting for {waiting or 'the versions to be in'}")

    async def _start(self, endpoints: Sequence[WorkerEndpoint], stop: asyncio.Event) -> None:
        workers = self._workers.start(endpoints)
        if any(endpoint.listen.endswith(":0") for endpoint in endpoints):
            # The workers choose their ports: the router starts when they are known.
            await self._settled(workers, stop)
        self._workers.write_fleet_file()
        self._router.start()
        # A router waits for the default version: what keeps that from starting is what to report.
        for needed in (self._workers.of(self._config.default), [self._router]):
            await self._settled(needed, stop)
            if stop.is_set():
                return
            if needed and not any(child.ever_ready for child in needed):
                raise CannotStart(self._start_failure(needed[0]))
        await self._versions_in(stop)

    def _router_ports(self) -> list[WantedAddress]:
        router = self._router_settings
        wanted = [
            WantedAddress(router.listen, "--listen", "the router"),
            WantedAddress(router.admin_listen, "--admin-listen", "admin of the router"),
        ]
        if router.metrics_port is not None:
            metrics = f"{router.metrics_host}:{router.metrics_port}"
            wanted.append(WantedAddress(metrics, "--metrics-port", "metrics of the router"))
        return wanted

    async def _settled(self, children: Iterable[Child], stop: asyncio.Event) -> None:
        """Waits until each was ready or has failed, until START_SECONDS are over, or until `stop` is set."""
        waits = [asyncio.ensure_future(child.settled.wait()) for child in children]
        stopping = asyncio.ensure_future(stop.wait())
        all_settled = asyncio.gather(*waits)
        await asyncio.wait((all_settled, stopping), timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for wait in (all_settled, stopping):
            wait.cancel()
        await asyncio.gather(all_settled, stopping, return_exceptions=True)

    def _start_failure(self, child: Child) -> list[str]:
        """Why a child cannot start: the end of its log, and the flag that helps if another process took its port."""
        name = child.spec.name
        lines = [f"{name} did not start; its log ends with:", *(f"  {line}" for line in tail(child.spec.log_path, 8))]
        return lines + problems(one for one in self._wanted if one.purpose.endswith(name))

    async def _versions_in(self, stop: asyncio.Event) -> None:
        """Waits up to VERSIONS_SECONDS until every version serves, and names those that do not."""
        until = time.monotonic() + VERSIONS_SECONDS
        async with RouterAdmin(self._addresses()["admin"]) as admin:
            while not stop.is_set():
                out = set(self._config.models)
                with suppress(Unreachable):
                    out -= {pool.version for pool in (await admin.status()).pools if pool.available}
                starting = [version for version in out if not self._given_up(version)]
                if not starting or time.monotonic() > until:
                    break
                await _pause(stop, 0.05)
            for version in self._config.models:
                if version in out:
                    self._console.note(f"no worker serves {version} yet; {self._config.default} answers as a fallback")

    def _given_up(self, version: str) -> bool:
        children = self._workers.of(version)
        return bool(children) and all(child.restarts > 1 and not child.ever_ready for child in children)

    def _print_ready(self) -> None:
        for replica_id, child in self._workers.children.items():
            state = "ready" if child.ready.is_set() else "not ready"
            self._console.note(f"{replica_id.name} {state} {self._workers.address(replica_id)}".rstrip())
        self._console.note(f"decision log in {self._settings.log_dir}/, logs of the processes in {self._run_dir}/")
        self._dashboard.prepare()
        address = self._dashboard.address()
        self._console.note(self._router.ready_line + (f" dashboard http://{address}/" if address else ""))
        for line in what_next(self._settings, self._addresses(), address):
            self._console.note(line)

    # --- while it runs ------------------------------------------------------------------------------------------------

    async def keep(self, stop: asyncio.Event) -> None:
        """Follows the file and shows what happens, until `stop` is set."""
        with self._console.live():
            await self._keep(stop)

    async def _keep(self, stop: asyncio.Event) -> None:
        file = ConfigWatcher(self._settings.experiments, self._settings.fleet)
        news = StatusNews(self._console)
        next_status = 0.0
        async with RouterAdmin(self._addresses()["admin"]) as admin:
            while not stop.is_set():
                if (config := await file.changed()) is not None:
                    self._follow(config)
                if time.monotonic() >= next_status:
                    next_status = time.monotonic() + STATUS_SECONDS
                    with suppress(Unreachable):
                        self._on_status(await admin.status(), news)
                self._workers.write_fleet_file()
                await _pause(stop, POLL_SECONDS)

    def _follow(self, config: Config) -> None:
        """Starts workers for versions that are new in the file; `_release` stops those of versions that left it."""
        self._config = config
        self._workers.follow_external(config)
        self._autopilot.follow(config)
        self._add_workers()

    def _add_workers(self) -> None:
        known_problems = dict(self._workers.missing)
        endpoints = self._workers.plan(self._config, avoid_taken=True)
        for version, problem in self._workers.missing.items():
            if known_problems.get(version) != problem:
                self._console.note(f"{version}: {problem}; its worker starts once the model is in the registry")
        for endpoint in endpoints:
            self._console.note(f"starting {endpoint.replica_id.name} on {endpoint.listen}")
        self._workers.start(endpoints)

    def _on_status(self, status: StatusResponse, news: "StatusNews") -> None:
        self._add_workers()
        self._release(status)
        self._window.add(status)
        news.update(status, self._window)

    def _release(self, status: StatusResponse) -> None:
        """Stops workers whose version is in neither the file nor the router's status any more."""
        pooled = {pool.version for pool in status.pools}
        for version in self._workers.versions - self._config.models.keys():
            if version in pooled or not status.config.revision:
                self._gone.pop(version, None)
                continue
            # A second status without it, so that calls that were under way at the first one are answered.
            self._gone[version] = self._gone.get(version, 0) + 1
            if self._gone[version] == 2:
                self._console.note(f"{version} is no longer in the configuration; stopping its workers")
                task = asyncio.get_running_loop().create_task(self._remove(version), name=f"remove {version}")
                self._removals.add(task)
                task.add_done_callback(self._removals.discard)
        for version in self._gone.keys() & self._config.models.keys():
            del self._gone[version]

    async def _remove(self, version: str) -> None:
        await self._workers.remove(version, self._drain_seconds + 1)
        self._gone.pop(version, None)

    # --- shutdown -----------------------------------------------------------------------------------------------------

    def summary(self, seconds: float) -> list[str]:
        """What came of it, in lines for the end; none if no router has said how much it served."""
        return what_came(self._served, seconds, self._settings) if self._served else []

    @property
    def _drain_seconds(self) -> float:
        return self._router_settings.drain_delay_seconds + self._router_settings.drain_timeout_seconds

    async def stop(self, at_once: asyncio.Event) -> bool:
        """Lets the router drain, then stops the workers; whether nothing had to be killed."""
        in_order = asyncio.ensure_future(self._stop_in_order())
        hurry = asyncio.ensure_future(at_once.wait())
        await asyncio.wait((in_order, hurry), return_when=asyncio.FIRST_COMPLETED)
        if not in_order.done():
            workers = [child.stop(AT_ONCE_SECONDS) for child in self._workers.children.values()]
            others = (self._router, self._dashboard, self._autopilot)
            await asyncio.gather(*(one.stop(AT_ONCE_SECONDS) for one in others), *workers)
        hurry.cancel()
        return await in_order

    async def _stop_in_order(self) -> bool:
        seconds = self._drain_seconds + ROUTER_CLOSE_SECONDS + WORKERS_STOP_SECONDS
        until = time.monotonic() + seconds
        # Concurrently: nothing else waits for these.
        others = asyncio.gather(self._dashboard.stop(seconds), self._autopilot.stop(seconds))
        killed = [await self._router.stop(self._drain_seconds + ROUTER_CLOSE_SECONDS)]
        left = max(until - time.monotonic(), WORKERS_STOP_SECONDS)
        killed += await asyncio.gather(*(child.stop(left) for child in self._workers.children.values()))
        killed += await others
        for task in self._removals:
            task.cancel()
        await asyncio.gather(*self._removals, return_exceptions=True)
        return not any(killed)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    """Waits, at most until `stop` is set."""
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
