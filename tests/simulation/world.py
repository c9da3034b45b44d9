"""Virtual time, and processes that share it: each has an event loop, clocks and threads of its own, and one real
thread runs them all, one turn of one loop after the other. What happens follows from the seed alone."""

import asyncio
import hashlib
import heapq
import random
from asyncio import events
from collections.abc import Callable, Coroutine
from typing import Any

from tests.simulation.background import SimulatedBackground

EPOCH = 1_796_000_000.0
"""Seconds since 1970 at which every simulation begins."""
TURN_SECONDS, HANDLE_SECONDS = 10e-6, 10e-6
"""Of processor that a turn of a loop takes, and each of its callbacks."""


class World:
    """Time, what is due, and what has happened."""

    def __init__(self, seed: str, *, keeps_trace: bool = False) -> None:
        self.now = 0.0
        self.processes: list[Process] = []
        self.errors: list[str] = []
        """What no process of ours may do: exceptions that nobody caught, errors in operational logs."""
        self.trace: list[str] | None = [] if keeps_trace else None
        self.over = False
        self._seed = seed
        self._due: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._digest = hashlib.blake2b(digest_size=16)

    def random(self, name: str) -> random.Random:
        """A source of its own for each part, so that one that asks more often changes nothing for the others."""
        return random.Random(f"{self._seed}/{name}")  # seeded by text, through SHA-512

    def say(self, what: str) -> None:
        """Puts it into the trace."""
        line = f"{self.now:.6f} {what}"
        self._digest.update(line.encode())
        if self.trace is not None:
            self.trace.append(line)

    @property
    def digest(self) -> str:
        """Of all that was said so far."""
        return self._digest.hexdigest()

    def at(self, when: float, what: Callable[..., None], *arguments: Any) -> None:
        """Does it then, in no process."""
        self._count += 1
        heapq.heappush(self._due, (when, self._count, what, arguments))

    def run_until(self, end: float) -> None:
        """Lets everything happen that happens before `end`."""
        due, processes = self._due, self.processes
        while True:
            first, next_time = None, due[0][0] if due else end
            for process in processes:
                if process.next_time < next_time:
                    first, next_time = process, process.next_time
            if next_time >= end:
                break
            if next_time > self.now:
                self.now = next_time
            if first is None:
                _, _, what, arguments = heapq.heappop(due)
                what(*arguments)
            else:
                first.turn()
        self.now = end

    def close(self) -> None:
        """Ends all processes, so that nothing of them is left."""
        self.over = True
        for process in self.processes:
            process.clear()


class Process:
    """One process of an operating system. `Network` and `Disk` know it too."""

    def __init__(self, world: World, name: str, *, skew: float = 0.0) -> None:
        """`skew`: of its wall clock, in seconds."""
        self.world = world
        self.name = name
        self.skew = skew
        self.random = world.random(name)
        self.alive = True
        self.loop = Loop(self)
        self.spent = 0.0
        """Processor time of this turn that a piece of work has asked for."""
        self.background: SimulatedBackground | None = None
        """Whose turn it is, if it is not the loop's."""
        self.backgrounds: list[SimulatedBackground] = []
        self.on_death: list[Callable[[], None]] = []
        self.next_time = float("inf")
        self._kept: set[asyncio.Task[Any]] = set()
        self._start = self.random.uniform(1e3, 1e6)
        self._busy_until = 0.0
        self._stopped_until = 0.0
        world.processes.append(self)

    def clock(self) -> float:
        """Its monotonic clock."""
        return self.world.now + self._start + self.spent

    def wall(self) -> float:
        """Its idea of the time of day."""
        return self.world.now + EPOCH + self.skew + self.spent

    def start(self, main: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Begins its main function."""
        before = events._get_running_loop()
        events._set_running_loop(self.loop)
        try:
            return self.loop.create_task(main, name=f"main {self.name}")
        finally:
            events._set_running_loop(before)
            self.schedule()

    def schedule(self) -> None:
        """To be called whenever its loop may have something to do sooner."""
        loop = self.loop
        if not self.alive:
            self.next_time = float("inf")
            return
        if loop._ready:
            when = self.world.now
        elif loop._scheduled:
            when = loop._scheduled[0]._when - self._start
        else:
            self.next_time = float("inf")
            return
        self.next_time = max(when, self._busy_until, self._stopped_until)

    def turn(self) -> None:
        """One turn of its loop."""
        loop = self.loop
        events._set_running_loop(loop)
        loop.handles, loop.turns = 0, True
        try:
            loop._run_once()
        finally:
            events._set_running_loop(None)
            loop.turns = False
        self._busy_until = self.world.now + TURN_SECONDS + HANDLE_SECONDS * loop.handles + self.spent
        self.spent = 0.0
        self.schedule()

    def work(self, seconds: float) -> None:
        """Takes so long: holds up the thread that does it, or the loop."""
        if self.background is not None:
            self.background.sleep(seconds)
        else:
            self.spent += seconds

    def thread_id(self) -> int:
        """0 for the thread of its loop."""
        return 0 if self.background is None else self.background.number

    def stop(self, seconds: float) -> None:
        """As with SIGSTOP, and SIGCONT so much later."""
        self._stopped_until = max(self._stopped_until, self.world.now + seconds)
        self.schedule()

    def kill(self) -> None:
        """As with SIGKILL."""
        if self.alive:
            self.alive = False
            self._kept = asyncio.all_tasks(self.loop)  # or the collector would end them at a time of its own
            self.next_time = float("inf")
            for told in self.on_death:
                told()
            for background in self.backgrounds:
                background.kill()

    def clear(self) -> None:
        """Ends all its tasks, when the simulation is over."""
        self.kill()
        for background in self.backgrounds:
            background.kill()
        loop = self.loop
        events._set_running_loop(loop)
        try:
            for _ in range(50):
                tasks = asyncio.all_tasks(loop)
                if not tasks:
                    break
                for task in sorted(tasks, key=lambda task: task.get_name()):
                    task.cancel()
                for _ in range(5):
                    self.world.now += 0.25
                    loop._run_once()
        finally:
            events._set_running_loop(None)
        loop.close()

    def make_background(self, name: str, once: Callable[[], float | None], *, niceness: int = 0) -> SimulatedBackground:
        """See abfleet_process.background."""
        made = SimulatedBackground(self, once, len(self.backgrounds) + 1)
        self.backgrounds.append(made)
        return made


class Loop(asyncio.BaseEventLoop):
    """An event loop of one process, whose turns the world has it make.

    Uses the inside of BaseEventLoop, as every loop built on it does: `_run_once`, `_ready`, `_scheduled`.
    """

    def __init__(self, process: Process) -> None:
        self.process = process
        super().__init__()
        self.network: Any = None
        self.handles = 0
        """That this turn has asked for."""
        self.turns = False
        """Whether this is one of its turns."""
        self.signals: dict[int, Callable[[], None]] = {}

    def time(self) -> float:
        """In whole milliseconds, as uvloop's: a timer may come up to one early by the process's clock."""
        return int((self.process.world.now + self.process._start) * 1000) / 1000

    def _run_once(self) -> None:
        """What is due by now, and what that leaves to do goes into the next turn."""
        ready, scheduled = self._ready, self._scheduled
        end = self.process.world.now + self.process._start + 1e-6
        while scheduled and (scheduled[0]._cancelled or scheduled[0]._when < end):
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            ready.append(handle)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _timer_handle_cancelled(self, handle: Any) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        self.handles += 1
        if not self.turns:
            self.process.schedule()
        return handle

    call_soon_threadsafe = call_soon

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        """Of whole milliseconds, as uvloop's."""
        now = self.time()
        milliseconds = round((when - now) * 1000)
        if milliseconds <= 0:
            return self.call_soon(callback, *args, context=context)
        handle = asyncio.TimerHandle(now + milliseconds / 1000, callback, args, self, context)
        heapq.heappush(self._scheduled, handle)
        handle._scheduled = True
        if not self.turns:
            self.process.schedule()
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> "asyncio.Future[Any]":
        """Done now, and known a little later."""
        future = self.create_future()
        try:
            result, error = func(*args), None
        except Exception as problem:  # noqa: BLE001 - it is passed on
            result, error = None, problem

        def tell() -> None:
            if not future.done():
                future.set_result(result) if error is None else future.set_exception(error)

        self.call_later(self.process.random.uniform(0.001, 0.02), tell)
        return future

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> None:
        self.signals[sig] = lambda: callback(*args)

    def remove_signal_handler(self, sig: int) -> bool:
        return self.signals.pop(sig, None) is not None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self.process.alive and not self.process.world.over:
            error = context.get("exception")
            self.process.world.errors.append(f"{self.process.name}: {context.get('message')}: {error!r}")

    async def getaddrinfo(self, host: Any, port: Any, **more: Any) -> Any:
        return await self.network.resolve(self.process, host, port)

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **more: Any) -> Any:
        return await self.network.connect(self.process, protocol_factory, host, port)

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **more: Any) -> Any:
        return self.network.listen(self.process, protocol_factory, more["sock"])
