"""Routers and workers as processes of a world: the product's own code from the settings on, on simulated machines."""

import asyncio
import errno
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from abfleet_log.writer.log_settings import Policy
from abfleet_models.signature import contract
from abfleet_process.errors import AddressError
from abfleet_router import settings as router_settings
from abfleet_router.serving import Serving as RouterServing
from abfleet_transport.machine import Machine
from abfleet_worker import settings as worker_settings
from abfleet_worker.app import WorkerServing
from numpy.typing import NDArray

from tests.simulation.grpcio import SimulatedGrpcio
from tests.simulation.network import ListeningSocket, Network
from tests.simulation.world import Process, World

K = 5
"""Items of an answer."""


class Disk:
    """What one router's log is written to; real files, and faults."""

    def __init__(self) -> None:
        self.full = 0
        self.slow_seconds = 0.0

    def files(self, process: Process) -> "DiskFiles":
        """The disk as one process sees it."""
        return DiskFiles(self, process)


class DiskFiles:
    """See abfleet_process.system_files."""

    def __init__(self, disk: Disk, process: Process) -> None:
        self._disk = disk
        self._process = process
        self._open: set[int] = set()
        process.on_death.append(self._die)

    def _die(self) -> None:
        for file in sorted(self._open):
            os.close(file)
        self._open.clear()

    def _check(self) -> None:
        if not self._process.alive:
            raise OSError(errno.EIO, "the process is gone")

    def open(self, path: Any, flags: int, mode: int = 0o777, /) -> int:
        self._check()
        file = os.open(path, flags, mode)
        self._open.add(file)
        return file

    def write(self, file: int, data: Any, /) -> int:
        self._check()
        if self._disk.slow_seconds:
            self._process.work(self._disk.slow_seconds)
            self._check()
        if self._disk.full:
            room = self._process.random.choice((0, 0, 1, 100))
            if room == 0 or len(data) <= room:
                raise OSError(errno.ENOSPC, "No space left on device")
            data = data[:room]
        return os.write(file, data)

    def ftruncate(self, file: int, length: int, /) -> None:
        self._check()
        os.ftruncate(file, length)

    def fsync(self, file: int, /) -> None:
        self._check()

    def close(self, file: int, /) -> None:
        self._check()
        self._open.discard(file)
        os.close(file)


def machine_of(process: Process, network: Network, grpcio: SimulatedGrpcio, files: Any = os) -> Machine:
    """What the product takes from its machine, all of it simulated."""

    def bind(address: str) -> Any:
        host, _, port = address.rpartition(":")
        if network.is_taken((host, int(port))):
            raise AddressError(address, "Address already in use")
        return ListeningSocket((host, int(port)))

    return Machine(
        clock=process.clock,
        wall=process.wall,
        work_clock=process.clock,
        random=process.world.random(f"chance of {process.name}"),
        entropy=process.world.random(f"entropy of {process.name}").randbytes,
        background=process.make_background,
        files=files,
        thread_id=process.thread_id,
        bind=bind,
        grpcio=grpcio,  # type: ignore[arg-type]
        host=process.name.partition("#")[0],
        process=int(process.name.partition("#")[2]),
        freeze_memory=lambda: None,
    )


class MadeModel:
    """Answers so that everybody can tell whose history it was; takes as long as it is told, fails as often."""

    run_cells = 64.0
    catalogue = None
    names = None
    max_history = 50
    signature = contract(K, max_history)
    joins = True
    dimensions: Mapping[str, Sequence[int | str | None]] = {"history": ["batch", "length"]}

    def __init__(self, process: Process, state: "WorkerState") -> None:
        self.version = state.version
        self.sha256 = "0" * 64
        self._process = process
        self._state = state

    def infer(self, history: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        state, process = self._state, self._process
        while state.hangs and process.background is not None:
            process.work(0.05)
        process.work((state.run_seconds + state.row_seconds * len(history)) * state.slowness)
        if state.fails and process.random.random() < state.fails:
            raise ValueError("made to fail")
        first = history.max(axis=1) * 1000 + state.number * 100
        items = first[:, None] + np.arange(K, dtype=np.int64)
        return items, np.tile(np.arange(K, 0, -1, dtype=np.float32), (len(history), 1))

    def run(self, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        found = dict(zip(("item_ids", "scores"), self.infer(inputs["history"]), strict=True))
        return [found[name] for name in outputs]


def items_for(item: int, number: int) -> list[int]:
    """What the model of the version with this number answers to a history whose largest item is `item`."""
    return [item * 1000 + number * 100 + place for place in range(K)]


class WorkerState:
    """A worker through all its processes."""

    def __init__(self, name: str, host: str, version: str, number: int, run_seconds: float, row_seconds: float) -> None:
        self.name, self.host, self.version, self.number = name, host, version, number
        self.run_seconds, self.row_seconds = run_seconds, row_seconds
        self.slowness, self.fails, self.hangs = 1.0, 0.0, 0
        self.starts = 0
        self.process: Process | None = None
        self.serving: WorkerServing | None = None
        self.stop: asyncio.Event | None = None

    @property
    def address(self) -> str:
        return f"{self.host}:50061"


class RouterState:
    """A router through all its processes."""

    def __init__(self, name: str, host: str, folder: Path) -> None:
        self.name, self.host, self.folder = name, host, folder
        self.disk = Disk()
        self.starts = 0
        self.process: Process | None = None
        self.serving: RouterServing | None = None
        self.stop: asyncio.Event | None = None
        self.lost_lines = 0
        """That earlier processes counted."""
        self.kills: list[float] = []


class Fleet:
    """Starts and ends processes of a world."""

    def __init__(self, world: World, network: Network, experiments: Path, flags: tuple[str, ...]) -> None:
        self.world = world
        self.network = network
        self.experiments = experiments
        self.flags = flags
        self.grpcio: list[SimulatedGrpcio] = []
        self.on_router: Callable[[RouterState], None] = lambda router: None

    def start_worker(self, worker: WorkerState) -> None:
        """A new process, on the worker's host."""
        worker.starts += 1
        process = worker.process = Process(self.world, f"{worker.name}#{worker.starts}")
        self.network.attach(process, worker.host)
        stop = worker.stop = asyncio.Event()
        self._run(process, self._worker(worker, process, stop), stop)

    def start_router(self, router: RouterState, *, skew: float) -> None:
        """A new process, on the router's host."""
        router.starts += 1
        process = router.process = Process(self.world, f"{router.name}#{router.starts}", skew=skew)
        self.network.attach(process, router.host)
        stop = router.stop = asyncio.Event()
        self._run(process, self._router(router, process, stop), stop)

    def _run(self, process: Process, main: Any, stop: asyncio.Event) -> None:
        task = process.start(main)

        def ended(task: "asyncio.Task[None]") -> None:
            if process.alive and not self.world.over:
                if not task.cancelled() and (error := task.exception()) is not None:
                    self.world.errors.append(f"{process.name} ended: {error!r}")
                process.kill()

        task.add_done_callback(ended)

    async def _worker(self, worker: WorkerState, process: Process, stop: asyncio.Event) -> None:
        await asyncio.sleep(process.random.uniform(0.05, 0.3))
        settings = worker_settings.parse(
            ["--version", worker.version, "--listen", worker.address, "--metrics-port", "off", "--drain-timeout", "4"],
            {},
        )
        grpcio = SimulatedGrpcio()
        self.grpcio.append(grpcio)
        machine = machine_of(process, self.network, grpcio)
        async with WorkerServing(settings, MadeModel(process, worker), None, machine) as serving:
            worker.serving = serving
            self.world.say(f"{process.name} serves")
            await serving.health.set_serving(True)
            await stop.wait()
            await serving.drain()
        self.world.say(f"{process.name} has ended")

    async def _router(self, router: RouterState, process: Process, stop: asyncio.Event) -> None:
        await asyncio.sleep(process.random.uniform(0.05, 0.3))
        settings = router_settings.parse(
            [
                *("--experiments", str(self.experiments)),
                *("--listen", f"{router.host}:50051"),
                *("--admin-listen", "127.0.0.1:50052"),
                *("--metrics-port", "off"),
                *("--log-dir", str(router.folder)),
                *("--router-name", router.name),
                *self.flags,
            ],
            {},
        )
        grpcio = SimulatedGrpcio()
        self.grpcio.append(grpcio)
        machine = machine_of(process, self.network, grpcio, router.disk.files(process))
        async with RouterServing(settings, machine=machine) as serving:
            router.serving = serving
            self.on_router(router)
            await serving.ready()
            self.world.say(f"{process.name} serves")
            await stop.wait()
            await serving.drain()
        router.lost_lines += serving.parts.decision_log.counters.lost
        router.serving = None
        self.world.say(f"{process.name} has ended")

    def stop_gently(self, state: WorkerState | RouterState) -> None:
        """As with SIGTERM."""
        if state.process is not None and state.process.alive and state.stop is not None:
            state.process.loop.call_soon(state.stop.set)

    def kill(self, state: WorkerState | RouterState) -> None:
        """As with SIGKILL."""
        if state.process is not None and state.process.alive:
            self.world.say(f"{state.process.name} is killed")
            if isinstance(state, RouterState):
                if state.serving is not None:
                    state.lost_lines += state.serving.parts.decision_log.counters.lost
                    state.serving = None
                state.kills.append(self.world.now)
            state.process.kill()

    def close(self) -> None:
        """Removes what the product left in the real file system."""
        for library in self.grpcio:
            for path in library.paths:
                if path.startswith("unix:"):
                    shutil.rmtree(Path(path.removeprefix("unix:")).parent, ignore_errors=True)


LOG_POLICIES: tuple[Policy, ...] = ("keep_serving", "unhealthy", "refuse")
