"""One simulation: builds what its script says, lets it happen, and asks the invariants."""

import contextlib
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from abfleet_transport.call import Code
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.call import Http2Call
from abfleet_transport.http2.forwarding import CROWDED

from tests.simulation.caller import Callers, CallResult, request
from tests.simulation.fleet import Fleet, RouterState, WorkerState
from tests.simulation.invariants import check
from tests.simulation.network import Network
from tests.simulation.script import IDLE_FROM, VERSIONS, Fault, Harm, Script
from tests.simulation.world import EPOCH, Process, World

RECOVERY_SECONDS = 12.0
"""After a fault: the longest ejection is 8 s, connecting takes up to 2."""
LANES = 3
"""Connections from the callers to each router."""
FIRST_ITEM = 100
EXPERIMENTS = """version: 1
default: v1
models:
{models}
experiments:
  - name: ranking
    salt: simulated
    groups:
      - {{name: control, model: v1, weight: {weights[0]}}}
      - {{name: second, model: v2, weight: {weights[1]}}}
      - {{name: third, model: v3, weight: {weights[2]}}}
"""
WEIGHTS = ((40, 30, 30), (50, 30, 20), (40, 50, 10), (100, 0, 0), (30, 30, 40))


@dataclass(slots=True)
class Outcome:
    """What a simulation came to."""

    script: Script
    digest: str
    broken: list[str]
    calls: int
    ok: int
    seconds: float
    """Virtual ones."""
    cpu_seconds: float
    trace: list[str] | None


class Simulation:
    """Everything of one run; `run` does it."""

    def __init__(self, script: Script, folder: Path, *, keeps_trace: bool) -> None:
        self.script = script
        self.world = world = World(script.seed, keeps_trace=keeps_trace)
        self.network = network = Network(world)
        self.folder = folder
        self.experiments = folder / "experiments.yaml"
        self.fleet = Fleet(world, network, self.experiments, script.flags)
        self.harms: list[Harm] = []
        self.broken: list[str] = []
        self.workers: list[WorkerState] = []
        self.pools: dict[str, list[int]] = {}
        for number, version in enumerate(VERSIONS):
            self.pools[version] = []
            for replica in range(script.replicas[number]):
                self.pools[version].append(len(self.workers))
                host = f"10.1.{number}.{replica + 1}"
                run_seconds = script.run_ms[number] / 1000
                state = WorkerState(f"{version}-{replica}", host, version, number + 1, run_seconds, 0.0002)
                self.workers.append(state)
            network.names[f"{version}.sim"] = [self.workers[one].host for one in self.pools[version]]
        self.routers = [
            RouterState(f"router{number}", f"10.2.0.{number + 1}", folder / f"log{number}")
            for number in range(script.routers)
        ]
        self.skews = [0.0] * script.routers
        self._edits = 0
        self._wrong = False
        self._number = 0
        self.write(0)
        caller = Process(world, "callers#1")
        network.attach(caller, "10.3.0.1")
        hosts = [router.host for router in self.routers]
        self.callers = Callers(caller, network, hosts, self.broken.append)

    # --- the file -----------------------------------------------------------------------------------------------------

    def write(self, which: int, *, wrong: bool = False) -> None:
        """The experiments file, written in place."""
        models = "\n".join(f'  {version}: {{target: "dns:///{version}.sim:50061"}}' for version in VERSIONS)
        text = EXPERIMENTS.format(models=models, weights=WEIGHTS[which % len(WEIGHTS)])
        self._wrong = wrong
        self.experiments.write_text("versoin: 2\n" if wrong else text, encoding="utf-8")
        self._edits += 1
        nanoseconds = int((EPOCH + self._edits) * 1e9)  # what is polled first must not depend on the real time
        os.utime(self.experiments, ns=(nanoseconds, nanoseconds))

    # --- the run ------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Starts all processes, and plans what the script says."""
        world, script = self.world, self.script
        for worker in self.workers:
            self.fleet.start_worker(worker)
        for router in self.routers:
            self.fleet.start_router(router, skew=0.0)
        for place, phase in enumerate(script.phases):
            self.plan(f"phase {place}", phase.at, phase.seconds, phase.calls)
        for place, fault in enumerate(script.faults):
            world.at(fault.at, self._begin, place, fault)
        if script.idle_seconds:
            world.at(IDLE_FROM, self._pause, script.idle_seconds)

    def _pause(self, seconds: float) -> None:
        self.world.say(f"all machines pause for {seconds} s")
        for process in self.world.processes:
            process.stop(seconds)

    def plan(self, name: str, at: float, seconds: float, count: int, router: int | None = None) -> None:
        """Plans so many calls, to any router or to one."""
        chance = random.Random(f"{self.script.seed}/{name}")
        for _ in range(count):
            due = at + chance.random() * seconds
            number = self._number
            self._number += 1
            target = chance.randrange(len(self.routers)) if router is None else router
            deadline = chance.choice((None, 2.0, 2.0, 2.0, 1.0, 0.3))
            leaves_after = chance.uniform(0.0, 0.05) if router is None and chance.random() < 0.03 else None
            result = CallResult(number, f"user-{chance.randrange(60)}", target, deadline, due)
            self.world.at(due, self._make, result, chance.randrange(LANES), leaves_after)

    def _make(self, result: CallResult, lane: int, leaves_after: float | None) -> None:
        payload = request(result, FIRST_ITEM + result.number)
        self.callers.process.loop.call_soon(
            lambda: self.callers.make(result, payload, lane=lane, leaves_after=leaves_after)
        )

    # --- faults -------------------------------------------------------------------------------------------------------

    def _begin(self, place: int, fault: Fault) -> None:
        self.world.say(f"fault {fault.kind} {fault.target} for {fault.seconds} s")
        getattr(self, f"_fault_{fault.kind}")(place, fault)

    def _later(self, seconds: float, what: Callable[..., None], *arguments: Any) -> None:
        self.world.at(self.world.now + seconds, what, *arguments)

    def _harm(self, what: str, number: int, seconds: float, recovers: float = RECOVERY_SECONDS) -> Harm:
        harm = Harm(what, number, self.world.now, self.world.now + seconds, recovers)
        self.harms.append(harm)
        return harm

    def _fault_kill_worker(self, place: int, fault: Fault) -> None:
        worker = self.workers[fault.target]
        self._harm("worker", fault.target, fault.seconds + 0.5)
        self.fleet.kill(worker)
        self._later(fault.seconds, self._start_worker, worker)

    def _start_worker(self, worker: WorkerState) -> None:
        if worker.process is None or not worker.process.alive:
            self.fleet.start_worker(worker)

    def _fault_end_worker(self, place: int, fault: Fault) -> None:
        worker = self.workers[fault.target]
        if worker.process is not None and worker.process.alive:
            self.fleet.stop_gently(worker)
            harm = self._harm("worker", fault.target, 60.0)
            self._restart(lambda: self._start_worker(worker), worker, harm, fault.seconds)

    def _restart(self, start: Callable[[], None], state: Any, harm: Harm, seconds: float) -> None:
        """When it has ended, and so much later."""
        if state.process.alive:
            self._later(0.25, self._restart, start, state, harm, seconds)
            return
        self._later(seconds, start)
        harm.end = self.world.now + seconds + 0.5

    def _fault_kill_router(self, place: int, fault: Fault) -> None:
        router = self.routers[fault.target]
        self._harm("router", fault.target, fault.seconds + 0.5)
        self.fleet.kill(router)
        self._later(fault.seconds, self._start_router, fault.target)

    def _start_router(self, number: int) -> None:
        router = self.routers[number]
        if self._wrong:  # it would end at once, and whoever starts it tries again
            self._harm("router", number, 0.5)
            self._later(0.5, self._start_router, number)
        elif router.process is None or not router.process.alive:
            self.fleet.start_router(router, skew=self.skews[number])

    def _fault_end_router(self, place: int, fault: Fault) -> None:
        router = self.routers[fault.target]
        if router.process is not None and router.process.alive:
            self.fleet.stop_gently(router)
            harm = self._harm("router_end", fault.target, 60.0)
            self._restart(lambda: self._start_router(fault.target), router, harm, fault.seconds)

    def _fault_stop_worker(self, place: int, fault: Fault) -> None:
        self._stop(self.workers[fault.target], "worker", fault)

    def _fault_stop_router(self, place: int, fault: Fault) -> None:
        self._stop(self.routers[fault.target], "router", fault)

    _fault_stall_worker, _fault_stall_router = _fault_stop_worker, _fault_stop_router

    def _stop(self, state: WorkerState | RouterState, what: str, fault: Fault) -> None:
        self._harm(what, fault.target, fault.seconds)
        if state.process is not None:
            state.process.stop(fault.seconds)

    def _fault_slow_model(self, place: int, fault: Fault) -> None:
        worker = self.workers[fault.target]
        self._harm("worker", fault.target, fault.seconds + fault.amount * worker.run_seconds)
        worker.slowness *= fault.amount
        self._later(fault.seconds, self._quicken, worker, fault.amount)

    def _quicken(self, worker: WorkerState, amount: float) -> None:
        worker.slowness /= amount

    def _fault_hang_model(self, place: int, fault: Fault) -> None:
        worker = self.workers[fault.target]
        self._harm("worker", fault.target, fault.seconds + 0.1)
        worker.hangs += 1
        self._later(fault.seconds, self._unhang, worker)

    def _unhang(self, worker: WorkerState) -> None:
        worker.hangs -= 1

    def _fault_fail_model(self, place: int, fault: Fault) -> None:
        worker = self.workers[fault.target]
        self._harm("worker", fault.target, fault.seconds)
        worker.fails = fault.amount
        self._later(fault.seconds, self._mend, worker)

    def _mend(self, worker: WorkerState) -> None:
        worker.fails = 0.0

    def _fault_cut(self, place: int, fault: Fault) -> None:
        worker = self.workers[fault.target]
        router = self.routers[place % len(self.routers)]
        self._harm("worker", fault.target, fault.seconds + 1.0)
        self.network.cut(router.host, worker.host)
        self._later(fault.seconds, self.network.heal, router.host, worker.host)

    def _fault_slow_path(self, place: int, fault: Fault) -> None:
        worker = self.workers[fault.target]
        path = self.network.path(self.routers[place % len(self.routers)].host, worker.host)
        self._harm("worker", fault.target, fault.seconds + 2 * fault.amount)
        path.extra += fault.amount
        self._later(fault.seconds, self._hasten, path, fault.amount)

    def _hasten(self, path: Any, amount: float) -> None:
        path.extra = max(0.0, path.extra - amount)

    def _fault_reset_worker(self, place: int, fault: Fault) -> None:
        worker = self.workers[fault.target]
        if worker.process is not None and worker.process.alive:
            self._harm("worker", fault.target, 0.0)
            self.network.reset(worker.process, place)

    def _fault_reset_caller(self, place: int, fault: Fault) -> None:
        for number in range(len(self.routers)):  # it may be a connection to any of them
            self._harm("router", number, 0.0, 0.0)
        self.network.reset(self.callers.process, place)

    def _connections(self, worker: WorkerState) -> list[Any]:
        """Of routers to a worker, as the worker's server knows them."""
        if worker.serving is None or worker.process is None or not worker.process.alive:
            return []
        return [end.protocol for end in self.network.ends(worker.process) if end.protocol is not None]

    def _fault_reset_stream(self, place: int, fault: Fault) -> None:
        """A worker, or a proxy before it, resets one call's stream, or the next one if there is none now."""
        self._reset_stream(self.workers[fault.target], fault, 200)

    def _reset_stream(self, worker: WorkerState, fault: Fault, tries: int) -> None:
        for connection in self._connections(worker):
            for stream, call in list(connection.streams.items()):
                if type(call) is Http2Call and not connection.closed:
                    self.world.say(f"reset stream {stream}")
                    self._harm("worker", fault.target, 0.0, 0.0)
                    del connection.streams[stream]
                    connection._forget(call)
                    code = http2.UINT32.pack(int(fault.amount))
                    frame = http2.frame(http2.RST_STREAM, 0, stream, code)
                    connection.loop.call_soon(connection._write, frame)
                    return
        if tries:
            self._later(0.01, self._reset_stream, worker, fault, tries - 1)

    def _fault_goaway(self, place: int, fault: Fault) -> None:
        """As of a proxy that lets no connection become old: the worker itself goes on."""
        for connection in self._connections(self.workers[fault.target]):
            connection.loop.call_soon(connection.drain)

    def _fault_end_watch(self, place: int, fault: Fault) -> None:
        """A worker with too many streams ends those that watch its health."""
        worker = self.workers[fault.target]
        for connection in self._connections(worker):
            for call in list(connection.streams.values()):
                if type(call) is not Http2Call:
                    self._harm("worker", fault.target, 0.0, 1.0)
                    connection.loop.call_soon(call.fail, Code.UNAVAILABLE, CROWDED)

    def _fault_edit(self, place: int, fault: Fault) -> None:
        self.write(1 + place)

    def _fault_bad_edit(self, place: int, fault: Fault) -> None:
        if any(router.serving is None for router in self.routers):
            return  # one that starts just now would end
        self.write(0, wrong=True)
        self._later(min(fault.seconds, 3.0), self.write, place)

    def _fault_clock(self, place: int, fault: Fault) -> None:
        process = self.routers[fault.target].process
        self.skews[fault.target] += fault.amount
        if process is not None:
            process.skew += fault.amount

    def _fault_disk_full(self, place: int, fault: Fault) -> None:
        disk = self.routers[fault.target].disk
        self._harm("log", fault.target, fault.seconds + 1.0, 1.0)
        disk.full += 1
        self._later(fault.seconds, self._empty, disk)

    def _empty(self, disk: Any) -> None:
        disk.full -= 1

    def _fault_disk_slow(self, place: int, fault: Fault) -> None:
        disk = self.routers[fault.target].disk
        self._harm("log", fault.target, fault.seconds + 2 * fault.amount, 3.0)
        disk.slow_seconds = fault.amount
        self._later(fault.seconds, self._quicken_disk, disk)

    def _quicken_disk(self, disk: Any) -> None:
        disk.slow_seconds = 0.0

    def _fault_flood(self, place: int, fault: Fault) -> None:
        self._harm("load", fault.target, fault.seconds, 2.5)
        self.plan(f"flood {place}", self.world.now, fault.seconds, int(fault.amount), fault.target)

    def _fault_dns_fails(self, place: int, fault: Fault) -> None:
        self.network.dns_fails += 1
        self._later(fault.seconds, self._dns_works)
        for number in range(len(self.routers)):  # one that starts now finds nobody
            if (process := self.routers[number].process) is None or not process.alive:
                self._harm("router", number, fault.seconds)

    def _dns_works(self) -> None:
        self.network.dns_fails -= 1

    def _fault_leave_dns(self, place: int, fault: Fault) -> None:
        worker = self.workers[fault.target]
        hosts = self.network.names[f"{worker.version}.sim"]
        if len(hosts) > 1 and worker.host in hosts:
            hosts.remove(worker.host)
            self._harm("worker", fault.target, fault.seconds + 3.5)
            self._later(fault.seconds, hosts.append, worker.host)


@contextlib.contextmanager
def simulated(script: Script, folder: Path, *, keeps_trace: bool = False) -> Iterator[Simulation]:
    """A simulation that has not begun; nothing of it is left afterwards, and operational logs are kept in its trace."""
    before = structlog.get_config()
    simulation = Simulation(script, folder, keeps_trace=keeps_trace)
    structlog.configure(processors=[_keep(simulation.world)], cache_logger_on_first_use=False)
    try:
        yield simulation
    finally:
        simulation.world.close()
        simulation.fleet.close()
        structlog.configure(**before)


def run(script: Script, *, keeps_trace: bool = False) -> Outcome:
    """Runs a script to its end and asks all invariants."""
    begun = time.process_time()
    base = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with (
        tempfile.TemporaryDirectory(prefix="abfleet-simulation-", dir=base) as name,
        simulated(script, Path(name), keeps_trace=keeps_trace) as simulation,
    ):
        simulation.begin()
        simulation.world.run_until(script.end)
        broken = check(simulation)
    calls = simulation.callers.results
    return Outcome(
        script=script,
        digest=simulation.world.digest,
        broken=broken,
        calls=len(calls),
        ok=sum(one.status == "OK" for one in calls),
        seconds=script.end,
        cpu_seconds=time.process_time() - begun,
        trace=simulation.world.trace,
    )


EXPECTED_ERRORS = frozenset(
    {
        "inference failed",  # a model that is made to fail
        "configuration was refused",
        "the decision log cannot be written",
        "the decision log's buffer is full, so lines are dropped",
        "the decision log is not complete: some lines were lost",
        "the decision log was not written to its end in time",
    }
)


def _keep(world: World) -> Callable[..., Any]:
    """A processor that keeps operational logs in the trace, and errors that nothing explains as errors."""

    def processor(logger: object, method: str, event: Any) -> Any:
        name = event.get("event")
        if not world.over:
            world.say(f"log {method} {name} {event.get('address', '')}")
            if method in ("error", "exception", "critical") and name not in EXPECTED_ERRORS:
                shown = {key: value for key, value in event.items() if key not in ("exc_info", "timestamp")}
                world.errors.append(f"logged: {shown} {sys.exc_info()[1]!r}")
        raise structlog.DropEvent

    return processor
