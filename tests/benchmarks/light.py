"""What a call costs when there is little to do: CPU by process, wake-ups and latency at fixed rates, and one by one.

At a low rate a batch holds one call, and each hand-over wakes a thread that was asleep: what saturating load never
shows. Paths take turns in short rounds, and each round begins with another one, so that a ratio of figures of one round
stands on the same machine. A round on a busy machine shows itself: the sender is late.
"""

import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from tests.benchmarks import measure
from tests.benchmarks.fleets import Fleet, fleet
from tests.benchmarks.load import User
from tests.benchmarks.paths import PATHS, Running, Stage, our_router
from tests.benchmarks.processes import Child
from tests.benchmarks.sender import Sender, percentile, poisson_schedule

RATES = (100.0, 1_000.0, 5_000.0)
"""Calls a second."""
BEFORE = "before"
"""Name of our router from another checkout."""
_CONNECTIONS = 20
_WARM_UP_CALLS = 500
_SINGLES = 300
PEERS = ("haproxy", "envoy", BEFORE)
"""What our figures are divided by, where they run."""


@dataclass(frozen=True, slots=True)
class Light:
    """One path in one round at one rate. Times of CPU are µs a call; latencies count from when a call was due."""

    path: str
    rate: float
    router_us: float
    workers_us: float
    wakes: float
    """Times that a thread of router or workers went to sleep, a call."""
    p50_ms: float
    p99_ms: float
    single_p50_us: float
    """One call at a time."""
    late_p99_ms: float
    """How late the sender itself was."""
    not_ok: int

    @property
    def core_percent(self) -> float:
        return self.router_us * self.rate / 1e4


@dataclass(frozen=True, slots=True)
class Spent:
    """What threads have spent so far: times asleep, and CPU seconds."""

    sleeps: int
    cpu_seconds: float


def run(
    directory: Path,
    *,
    paths: Sequence[str],
    rates: Sequence[float],
    rounds: int,
    seconds: float,
    pinned: bool,
    before: Path | None,
    router_flags: Sequence[str],
    say: Callable[[str], None],
) -> list[Light]:
    """Measures every path at every rate, `rounds` times for `seconds` each.

    pinned: The router has the first core to itself; workers and sender share the others.
    before: A checkout whose router is measured as a path of its own; None for none.
    """
    found: list[Light] = []
    with fleet("identity", directory) as workers, ExitStack() as stack:
        running = list(_started(Stage(directory, workers.ports, router_flags=tuple(router_flags)), paths, before))
        for one in running:
            if one.router is not None:
                stack.callback(one.router.stop)
        if pinned:
            stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
            _pin(running, workers)
        users = {one.name: measure.find_users(one, workers) for one in running}
        for rate in rates:
            for number in range(rounds):
                turn = number % len(running)
                for one in [*running[turn:], *running[:turn]]:
                    say(f"{one.name}: {rate:g} calls/s, round {number + 1} of {rounds}")
                    found.append(_measure(one, workers, users[one.name], rate, seconds, seed=number))
    return found


def _started(stage: Stage, paths: Sequence[str], before: Path | None) -> Iterator[Running]:
    for path in PATHS:
        if path.name in paths and path.missing() is None:
            yield path.start(stage)
    if before is not None:
        yield our_router(stage, transport="native", name=BEFORE, root=before)


def _measure(
    running: Running, workers: Fleet, users: Sequence[User], rate: float, seconds: float, *, seed: int
) -> Light:
    due = poisson_schedule(rate, seconds, seed=seed)
    routers = [running.router] if running.router else []
    single_us, _ = measure.one_at_a_time(users, calls=_SINGLES)
    sender = Sender([user.request for user in users], connections=_CONNECTIONS)
    try:
        sender.in_flight(_WARM_UP_CALLS, at_once=20)  # connections and caches warm
        router_before, workers_before = spent(routers), spent(workers.children)
        outcome = sender.on_schedule(due)
        router_after, workers_after = spent(routers), spent(workers.children)
    finally:
        sender.close()
    calls = len(due)
    sleeps = router_after.sleeps - router_before.sleeps + workers_after.sleeps - workers_before.sleeps
    return Light(
        path=running.name,
        rate=rate,
        router_us=(router_after.cpu_seconds - router_before.cpu_seconds) / calls * 1e6,
        workers_us=(workers_after.cpu_seconds - workers_before.cpu_seconds) / calls * 1e6,
        wakes=sleeps / calls,
        p50_ms=percentile(outcome.latencies_ms, 50),
        p99_ms=percentile(outcome.latencies_ms, 99),
        single_p50_us=single_us,
        late_p99_ms=percentile(outcome.late_ms, 99),
        not_ok=calls - outcome.ok,
    )


def _pin(running: Sequence[Running], workers: Fleet) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise OSError("pinning needs at least two cores, and this machine has one")
    for child in workers.children:
        _pin_threads(child, set(cores[1:]))
    for one in running:
        if one.router is not None:
            _pin_threads(one.router, {cores[0]})
    os.sched_setaffinity(0, set(cores[1:]))


def _pin_threads(child: Child, cores: set[int]) -> None:
    for process in child.members():
        for thread in Path(f"/proc/{process.pid}/task").iterdir():
            with suppress(ProcessLookupError):  # it has ended
                os.sched_setaffinity(int(thread.name), cores)


def spent(children: Sequence[Child]) -> Spent:
    """All threads of these processes and of their children."""
    sleeps, cpu_seconds = 0, 0.0
    for child in children:
        for process in child.members():
            times = process.cpu_times()
            cpu_seconds += times.user + times.system
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                with suppress(OSError):  # it has ended
                    status = (thread / "status").read_text()
                    sleeps += int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return Spent(sleeps, cpu_seconds)


# --- what it says -----------------------------------------------------------------------------------------------------

_FIGURES = (
    ("router: CPU µs a call", "router_us", 0),
    ("router: % of a core", "core_percent", 1),
    ("workers: CPU µs a call", "workers_us", 0),
    ("wakes a call", "wakes", 1),
    ("p50 ms", "p50_ms", 2),
    ("p99 ms", "p99_ms", 2),
    ("one at a time: p50 µs", "single_p50_us", 0),
    ("sender late: p99 ms", "late_p99_ms", 2),
    ("not OK", "not_ok", 0),
)
_COMPARED = ("router_us", "p50_ms", "p99_ms", "single_p50_us")


def table(found: Sequence[Light]) -> Table:
    """A column for each path, rows for each rate: medians over the rounds, then ratios."""
    names = list(dict.fromkeys(one.path for one in found))
    shown = Table(title="identity workers, light load", title_justify="left")
    shown.add_column("calls/s", no_wrap=True)
    for name in names:
        shown.add_column(name, justify="right")
    for rate in dict.fromkeys(one.rate for one in found):
        for at, (label, figure, digits) in enumerate(_FIGURES):
            cells = [f"{_median(found, name, rate, figure):,.{digits}f}" for name in names]
            shown.add_row(f"{rate:,.0f}: {label}", *cells, end_section=at == len(_FIGURES) - 1)
        for peer in (name for name in PEERS if name in names):
            for figure in _COMPARED:
                cells = [f"{ratio(found, name, peer, rate, figure):.2f}" for name in names]
                label = next(text for text, of, _ in _FIGURES if of == figure)
                shown.add_row(f"{rate:,.0f}: {label} × {peer}", *cells, end_section=figure == _COMPARED[-1])
    return shown


def ratio(found: Sequence[Light], path: str, other: str, rate: float, figure: str) -> float:
    """The median over the rounds of path / other, both of the same round; nan where one was not measured."""
    pairs = zip(_values(found, path, rate, figure), _values(found, other, rate, figure), strict=False)
    ratios = [one / two for one, two in pairs if two]
    return statistics.median(ratios) if ratios else float("nan")


def _median(found: Sequence[Light], path: str, rate: float, figure: str) -> float:
    return statistics.median(_values(found, path, rate, figure))


def _values(found: Sequence[Light], path: str, rate: float, figure: str) -> list[float]:
    return [float(getattr(one, figure)) for one in found if one.path == path and one.rate == rate]
