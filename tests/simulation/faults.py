"""What each kind of fault does, and whom it harms."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from abfleet_transport.call import Code
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.call import Http2Call
from abfleet_transport.http2.forwarding import CROWDED

from tests.simulation.fleet import RouterState, WorkerState
from tests.simulation.script import HELD_UP_SECONDS, Fault, Harm

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

RECOVERY_SECONDS = 12.0
"""After a fault: the longest ejection is 8 s, connecting takes up to 2."""
TOLD_SECONDS = 0.01
"""From a connection's reset until its owner hears of it: what it does in between goes nowhere."""


class Faults:
    """Does to a simulation what its script says."""

    def __init__(self, simulation: "Simulation") -> None:
        self._simulation = simulation

    def begin(self, place: int, fault: Fault) -> None:
        self._simulation.world.say(f"fault {fault.kind} {fault.target} for {fault.seconds} s")
        getattr(self, f"_fault_{fault.kind}")(place, fault)

    def _later(self, seconds: float, what: Callable[..., None], *arguments: Any) -> None:
        self._simulation.world.at(self._simulation.world.now + seconds, what, *arguments)

    def _harm(self, what: str, number: int, seconds: float, recovers: float = RECOVERY_SECONDS) -> Harm:
        harm = Harm(what, number, self._simulation.world.now, self._simulation.world.now + seconds, recovers)
        self._simulation.harms.append(harm)
        return harm

    def _fault_kill_worker(self, place: int, fault: Fault) -> None:
        worker = self._simulation.workers[fault.target]
        self._harm("worker", fault.target, fault.seconds + 0.5)
        self._simulation.fleet.kill(worker)
        self._later(fault.seconds, self._start_worker, worker)

    def _start_worker(self, worker: WorkerState) -> None:
        if worker.process is None or not worker.process.alive:
            self._simulation.fleet.start_worker(worker)

    def _fault_end_worker(self, place: int, fault: Fault) -> None:
        worker = self._simulation.workers[fault.target]
        if worker.process is not None and worker.process.alive:
            self._simulation.fleet.stop_gently(worker)
            harm = self._harm("worker", fault.target, 60.0)
            self._restart(lambda: self._start_worker(worker), worker, harm, fault.seconds)

    def _restart(self, start: Callable[[], None], state: Any, harm: Harm, seconds: float) -> None:
        """When it has ended, and so much later."""
        if state.process.alive:
            self._later(0.25, self._restart, start, state, harm, seconds)
            return
        self._later(seconds, start)
        harm.end = self._simulation.world.now + seconds + 0.5

    def _fault_kill_router(self, place: int, fault: Fault) -> None:
        router = self._simulation.routers[fault.target]
        self._harm("router", fault.target, fault.seconds + 0.5)
        self._simulation.fleet.kill(router)
        self._later(fault.seconds, self._start_router, fault.target)

    def _start_router(self, number: int) -> None:
        router = self._simulation.routers[number]
        if self._simulation.wrong:  # it would end at once, and whoever starts it tries again
            self._harm("router", number, 0.5)
            self._later(0.5, self._start_router, number)
        elif router.process is None or not router.process.alive:
            self._simulation.fleet.start_router(router, skew=self._simulation.skews[number])

    def _fault_end_router(self, place: int, fault: Fault) -> None:
        router = self._simulation.routers[fault.target]
        if router.process is not None and router.process.alive:
            self._simulation.fleet.stop_gently(router)
            harm = self._harm("router_end", fault.target, 60.0)
            self._restart(lambda: self._start_router(fault.target), router, harm, fault.seconds)

    def _fault_stop_worker(self, place: int, fault: Fault) -> None:
        self._stop(self._simulation.workers[fault.target], "worker", fault)

    def _fault_stop_router(self, place: int, fault: Fault) -> None:
        self._stop(self._simulation.routers[fault.target], "router", fault)

    _fault_stall_worker, _fault_stall_router = _fault_stop_worker, _fault_stop_router

    def _stop(self, state: WorkerState | RouterState, what: str, fault: Fault) -> None:
        self._harm(what, fault.target, fault.seconds)
        if state.process is not None:
            state.process.stop(fault.seconds)

    def _fault_slow_model(self, place: int, fault: Fault) -> None:
        worker = self._simulation.workers[fault.target]
        self._harm("worker", fault.target, fault.seconds + fault.amount * worker.run_seconds)
        worker.slowness *= fault.amount
        self._later(fault.seconds, self._quicken, worker, fault.amount)

    def _quicken(self, worker: WorkerState, amount: float) -> None:
        worker.slowness /= amount

    def _fault_hang_model(self, place: int, fault: Fault) -> None:
        worker = self._simulation.workers[fault.target]
        self._harm("worker", fault.target, fault.seconds + 0.1)
        worker.hangs += 1
        self._later(fault.seconds, self._unhang, worker)

    def _unhang(self, worker: WorkerState) -> None:
        worker.hangs -= 1

    def _fault_fail_model(self, place: int, fault: Fault) -> None:
        worker = self._simulation.workers[fault.target]
        self._harm("worker", fault.target, fault.seconds)
        worker.fails = fault.amount
        self._later(fault.seconds, self._mend, worker)

    def _mend(self, worker: WorkerState) -> None:
        worker.fails = 0.0

    def _fault_cut(self, place: int, fault: Fault) -> None:
        worker = self._simulation.workers[fault.target]
        router = self._simulation.routers[place % len(self._simulation.routers)]
        self._harm("worker", fault.target, fault.seconds + 1.0)
        self._simulation.network.cut(router.host, worker.host)
        self._later(fault.seconds, self._simulation.network.heal, router.host, worker.host)

    def _fault_slow_path(self, place: int, fault: Fault) -> None:
        worker = self._simulation.workers[fault.target]
        path = self._simulation.network.path(
            self._simulation.routers[place % len(self._simulation.routers)].host, worker.host
        )
        self._harm("worker", fault.target, fault.seconds + 2 * fault.amount)
        path.extra += fault.amount
        self._later(fault.seconds, self._hasten, path, fault.amount)

    def _hasten(self, path: Any, amount: float) -> None:
        path.extra = max(0.0, path.extra - amount)

    def _fault_reset_worker(self, place: int, fault: Fault) -> None:
        worker = self._simulation.workers[fault.target]
        if worker.process is not None and worker.process.alive:
            self._harm("worker", fault.target, 0.0)
            self._simulation.network.reset(worker.process, place)

    def _fault_reset_caller(self, place: int, fault: Fault) -> None:
        for number in range(len(self._simulation.routers)):  # it may be a connection to any of them
            self._harm("router", number, 0.0, TOLD_SECONDS)
        self._simulation.network.reset(self._simulation.callers.process, place)

    def _connections(self, worker: WorkerState) -> list[Any]:
        """Of routers to a worker, as the worker's server knows them."""
        if worker.serving is None or worker.process is None or not worker.process.alive:
            return []
        return [end.protocol for end in self._simulation.network.ends(worker.process) if end.protocol is not None]

    def _fault_reset_stream(self, place: int, fault: Fault) -> None:
        """A worker, or a proxy before it, resets one batch's stream, or the next one if there is none now. No call may
        be lost by that."""
        self._reset_stream(self._simulation.workers[fault.target], fault, 200)

    def _reset_stream(self, worker: WorkerState, fault: Fault, tries: int) -> None:
        for connection in self._connections(worker):
            for stream, call in list(connection.streams.items()):
                if type(call) is Http2Call and not connection.closed:
                    self._simulation.world.say(f"reset stream {stream}")
                    del connection.streams[stream]
                    connection._side.forget(call)
                    code = http2.UINT32.pack(int(fault.amount))
                    frame = http2.frame(http2.RST_STREAM, 0, stream, code)
                    connection._queue.loop.call_soon(connection._socket.write, frame)
                    return
        if tries:
            self._later(0.01, self._reset_stream, worker, fault, tries - 1)

    def _fault_goaway(self, place: int, fault: Fault) -> None:
        """As of a proxy that lets no connection become old: the worker itself goes on, and no call may be lost."""
        for connection in self._connections(self._simulation.workers[fault.target]):
            connection._queue.loop.call_soon(connection.drain)

    def _fault_end_watch(self, place: int, fault: Fault) -> None:
        """A worker with too many streams ends those that watch its health. No call may be lost by that."""
        worker = self._simulation.workers[fault.target]
        for connection in self._connections(worker):
            for call in list(connection.streams.values()):
                if type(call) is not Http2Call:
                    connection._queue.loop.call_soon(call.fail, Code.UNAVAILABLE, CROWDED)

    def _fault_edit(self, place: int, fault: Fault) -> None:
        self._simulation.write(1 + place)

    def _fault_bad_edit(self, place: int, fault: Fault) -> None:
        if any(router.serving is None for router in self._simulation.routers):
            return  # one that starts just now would end
        self._simulation.write(0, wrong=True)
        self._later(min(fault.seconds, 3.0), self._simulation.write, place)

    def _fault_clock(self, place: int, fault: Fault) -> None:
        process = self._simulation.routers[fault.target].process
        self._simulation.skews[fault.target] += fault.amount
        if process is not None:
            process.skew += fault.amount

    def _fault_disk_full(self, place: int, fault: Fault) -> None:
        disk = self._simulation.routers[fault.target].disk
        self._harm("log", fault.target, fault.seconds + 1.0, 1.0)
        self._harm("full", fault.target, fault.seconds, HELD_UP_SECONDS)
        disk.full += 1
        self._later(fault.seconds, self._empty, disk)

    def _empty(self, disk: Any) -> None:
        disk.full -= 1

    def _fault_disk_slow(self, place: int, fault: Fault) -> None:
        disk = self._simulation.routers[fault.target].disk
        self._harm("log", fault.target, fault.seconds + 2 * fault.amount, 3.0)
        disk.slow_seconds = fault.amount
        self._later(fault.seconds, self._quicken_disk, disk)

    def _quicken_disk(self, disk: Any) -> None:
        disk.slow_seconds = 0.0

    def _fault_flood(self, place: int, fault: Fault) -> None:
        self._harm("load", fault.target, fault.seconds, 2.5)
        self._simulation.plan(
            f"flood {place}", self._simulation.world.now, fault.seconds, int(fault.amount), fault.target
        )

    def _fault_dns_fails(self, place: int, fault: Fault) -> None:
        self._simulation.network.dns_fails += 1
        self._later(fault.seconds, self._dns_works)
        for number in range(len(self._simulation.routers)):  # one that starts now finds nobody
            if (process := self._simulation.routers[number].process) is None or not process.alive:
                self._harm("router", number, fault.seconds)

    def _dns_works(self) -> None:
        self._simulation.network.dns_fails -= 1

    def _fault_leave_dns(self, place: int, fault: Fault) -> None:
        worker = self._simulation.workers[fault.target]
        hosts = self._simulation.network.names[f"{worker.version}.sim"]
        if len(hosts) > 1 and worker.host in hosts:
            hosts.remove(worker.host)
            self._harm("worker", fault.target, fault.seconds + 3.5)
            self._later(fault.seconds, hosts.append, worker.host)
