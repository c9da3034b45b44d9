"""Virtual time, and processes that share it: each has an event loop, clocks and threads of its own, and one real thread
runs them all, one turn of one loop after the other. What happens follows from the seed alone."""

import asyncio
import hashlib
import heapq
import random
import threading
from asyncio import events
from collections.abc import Callable, Coroutine
from typing import Any

EPOCH = 1_796_000_000.0
"""Seconds since 1970 at which every simulation begins."""
TURN_SECONDS, HANDLE_SECONDS = 10e-6, 10e-6
"""Of processor that a turn of a loop takes, and each of its callbacks."""


class Killed(BaseException):
    """Ends a thread of a process that was killed."""


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
        before = events._get_running_loop()
        events._set_running_loop(loop)
        loop.handles = 0
        try:
            loop._run_once()
        finally:
            events._set_running_loop(before)
        self._busy_until = self.world.now + TURN_SECONDS + HANDLE_SECONDS * loop.handles + self.spent
        self.spent = 0.0
        self.schedule()

    def work(self, seconds: float) -> None:
        """Takes so long: holds up the thread that does it, or the loop."""
        if self.background is not None:
            self.background.sleep(seconds)
        else:
            self.spent += seconds

    def stop(self, seconds: float) -> None:
        """As with SIGSTOP, and SIGCONT so much later."""
        self._stopped_until = max(self._stopped_until, self.world.now + seconds)
        self.schedule()

    def kill(self) -> None:
        """As with SIGKILL."""
        if self.alive:
            self.alive = False
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
                    loop._run_once()
        finally:
            events._set_running_loop(None)
        loop.close()

    def make_background(
        self, name: str, once: Callable[[], float | None], *, niceness: int = 0
    ) -> "SimulatedBackground":
        """See abfleet_process.background."""
        made = SimulatedBackground(self, once)
        self.backgrounds.append(made)
        return made


class _NoSelector:
    """Nothing real is ever ready."""

    def select(self, timeout: float | None) -> list[Any]:
        return []


class Loop(asyncio.BaseEventLoop):
    """An event loop of one process, whose turns the world has it make.

    Uses the inside of BaseEventLoop, as every loop built on it does: `_run_once`, `_ready`, `_scheduled`, `_selector`.
    """

    def __init__(self, process: Process) -> None:
        self.process = process
        super().__init__()
        self.network: Any = None
        self.handles = 0
        self.signals: dict[int, Callable[[], None]] = {}
        self._selector = _NoSelector()
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self.process.world.now + self.process._start

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        handle = super().call_soon(callback, *args, context=context)
        self._asked()
        return handle

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        handle = super().call_soon_threadsafe(callback, *args, context=context)
        self._asked()
        return handle

    def _asked(self) -> None:
        self.handles += 1
        process = self.process
        if events._get_running_loop() is not self:
            process.schedule()

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        """Of whole milliseconds, as uvloop's; a timer may come half of one early."""
        milliseconds = round((when - self.time()) * 1000)
        if milliseconds <= 0:
            return self.call_soon(callback, *args, context=context)
        handle = super().call_at(self.time() + milliseconds / 1000, callback, *args, context=context)
        if events._get_running_loop() is not self:
            self.process.schedule()
        return handle

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


class SimulatedBackground:
    """A round is called on a real thread, which runs only while everything else waits for it."""

    def __init__(self, process: Process, once: Callable[[], float | None]) -> None:
        self._process = process
        self._once = once
        self._thread: threading.Thread | None = None
        self._go, self._back = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._back.acquire()
        self._ended = self._killed = False
        self._in_round = self._again = self._hurries = False
        self._said: tuple[str, float | None] = ("done", 0.0)
        self._error: BaseException | None = None
        self._timer: Any = None

    def start(self) -> None:
        self._due_in(0.0)

    def wake(self) -> None:
        if self._in_round:
            self._again = True
        else:
            self._due_in(0.0)

    def _due_in(self, seconds: float) -> None:
        if self._ended or not self._process.alive:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds == float("inf") else self._process.loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        """Goes on with the round, or begins one; in the loop's turn."""
        self._timer = None
        self._switch()
        what, seconds = self._said
        if what == "sleep":
            self._due_in(seconds or 0.0)
            return
        if seconds is None:
            self._ended = True
        else:
            again, self._again = self._again, False
            self._due_in(0.0 if again else seconds)

    def _switch(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        process = self._process
        process.background = self
        self._go.release()
        self._back.acquire()
        process.background = None
        if self._error is not None:
            process.world.errors.append(f"{process.name}: a thread ended: {self._error!r}")
            self._ended, self._error = True, None

    def _run(self) -> None:
        while True:
            self._go.acquire()
            if self._killed:
                break
            self._in_round = True
            try:
                self._said = ("done", self._once())
            except Killed:
                break
            except BaseException as error:  # noqa: BLE001 - it is reported
                self._error, self._said = error, ("done", None)
            self._in_round = False
            if self._said[1] is None:
                break
            self._back.release()
        self._back.release()

    def sleep(self, seconds: float) -> None:
        """Called in a round: everything else goes on for so long."""
        if self._hurries:
            self._process.spent += seconds
            return
        self._said = ("sleep", seconds)
        self._back.release()
        self._go.acquire()
        if self._killed:
            raise Killed

    def join(self, timeout_seconds: float | None = None) -> bool:
        """Has the rest done at once, and lets the loop wait for what it took."""
        if not self._process.alive:
            return True
        self._hurries = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for _ in range(1000):
            if self._ended:
                return True
            self._switch()
            if self._said == ("done", None):
                self._ended = True
        return False

    def kill(self) -> None:
        """Ends the thread where it is."""
        self._killed = self._ended = True
        thread, self._thread = self._thread, None
        if thread is not None and thread.is_alive():
            self._go.release()
            thread.join()
