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

from tests.simulation.caller import Callers, CallResult, request
from tests.simulation.faults import Faults
from tests.simulation.fleet import Fleet, RouterState, WorkerState
from tests.simulation.invariants import check
from tests.simulation.network import Network
from tests.simulation.script import IDLE_FROM, VERSIONS, Harm, Script
from tests.simulation.world import EPOCH, Process, World

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
INTERLEAVING = """version: 1
default: v1
models:
{models}
experiments:
  - name: ranking
    salt: simulated
    interleave: [{versions}]
    traffic: {traffic}
"""
TRAFFIC = (100, 50, 80, 0, 60)
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
        self.faults = Faults(self)
        self._edits = 0
        self.wrong = False
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
        if self.script.interleave:
            traffic, versions = TRAFFIC[which % len(TRAFFIC)], ", ".join(self.script.interleave)
            text = INTERLEAVING.format(models=models, traffic=traffic, versions=versions)
        if self.script.shadow_percent:
            text += f"shadow: [{{model: {VERSIONS[-1]}, percent: {self.script.shadow_percent}}}]\n"
        self.wrong = wrong
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
            world.at(fault.at, self.faults.begin, place, fault)
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


@contextlib.contextmanager
def simulated(script: Script, folder: Path, *, keeps_trace: bool = False) -> Iterator[Simulation]:
    """A simulation that has not begun; nothing of it is left afterwards, and operational logs are kept in its trace."""
    before, tempfile_before = structlog.get_config(), tempfile.tempdir
    tempfile.tempdir = str(folder)  # for the sockets that nobody listens on
    simulation = Simulation(script, folder, keeps_trace=keeps_trace)
    structlog.configure(processors=[_keep(simulation.world)], cache_logger_on_first_use=False)
    try:
        yield simulation
    finally:
        simulation.world.close()
        simulation.fleet.close()
        structlog.configure(**before)
        tempfile.tempdir = tempfile_before


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
