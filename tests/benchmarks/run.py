"""The story of a run: start everything, alternate the paths, keep within the time. Knows no figures and prints none."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks import measure
from tests.benchmarks.fleets import Fleet, NoFleet, fleet, unbatched_fleet
from tests.benchmarks.load import User
from tests.benchmarks.measure import PathResult, WrongAnswers
from tests.benchmarks.paths import PATHS, Contestant, Running, Stage
from tests.benchmarks.processes import NotStarted

UNBATCHED = "envoy-unbatched"
_BROKEN = (WrongAnswers, NotStarted, OSError, ValueError)
_WARM_UP_CALLS = 900
_CHECK_CALLS = 1_500
_LEAST_CALLS, _MOST_CALLS = 1_200, 90_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and how long each part may take."""

    paths: tuple[str, ...]
    models: tuple[str, ...]
    in_flight: tuple[int, ...]
    """Calls under way in saturating passes; the first is the one that capacity and the main columns refer to."""
    rounds: int
    pass_cpu_s: float
    """Aim for the CPU time of one saturating pass: on a busy machine it takes longer, and its figures stay as exact."""
    latency_s: float
    latency_rounds: int
    singles: int
    """Calls made one at a time."""
    budget_s: float
    """After so long nothing new is begun; what was left out is noted."""
    fractions: tuple[float, ...] = (0.25, 0.5, 0.75)
    fixed_rate: float = 1_000.0
    router_flags: tuple[str, ...] = ()
    connections: int = 0
    """Idle connections that the memory is read under; 0 leaves that out."""


@dataclass(slots=True)
class ModelResult:
    """All paths with one model, in the order of the plan. Changed only by the run that fills it."""

    model: str
    paths: dict[str, PathResult] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    """Path or model -> what is missing for it."""
    failed: dict[str, str] = field(default_factory=dict)
    """Path or model -> how it failed though it is installed."""
    workers_mb: list[float] = field(default_factory=list)
    """Resident memory of each worker after all the load."""
    left_out: list[str] = field(default_factory=list)
    """What there was no time for."""

    @property
    def has_failures(self) -> bool:
        return bool(self.failed) or any(path.notes for path in self.paths.values())

    def ratio(self, path: str, other: str, in_flight: int, name: str = "total_us") -> float:
        """Returns the median over the rounds of path / other, each pair from the same round; nan without figures."""
        if path not in self.paths or other not in self.paths:
            return math.nan
        pairs = zip(self.paths[path].at(in_flight), self.paths[other].at(in_flight), strict=False)
        ratios = [getattr(one, name) / getattr(two, name) for one, two in pairs if getattr(two, name)]
        return statistics.median(ratios) if ratios else math.nan


@dataclass(slots=True)
class _Contender:
    """A running path with the workers behind it and its users. `out` is set by the run when the path misbehaves."""

    running: Running
    fleet: Fleet
    users: list[User]
    result: PathResult
    total_us: float
    """CPU µs a call of the last saturating pass: what the next one's length is planned with."""
    out: bool = False


Say = Callable[[str], None]


class Run:
    """One run of the benchmark. Its deadline is set at the start."""

    def __init__(self, plan: Plan, directory: Path, say: Say) -> None:
        self._plan, self._directory, self._say = plan, directory, say
        self._deadline = time.monotonic() + plan.budget_s

    def model(self, model: str, *, share: float) -> ModelResult:
        """Measures every path with one model within `share` of the time that is left."""
        result = ModelResult(model)
        until = time.monotonic() + share * max(0.0, self._deadline - time.monotonic())
        directory = self._directory / model
        directory.mkdir()
        try:
            with ExitStack() as stack:
                workers = stack.enter_context(fleet(model, directory))
                contenders = list(self._contenders(stack, workers, directory, result))
                self._saturate(contenders, result, until - 0.45 * (until - time.monotonic()))
                self._time(contenders, result, until)
                self._weigh(contenders)
                result.workers_mb = [child.resident_mb() for child in workers.children]
        except NoFleet as error:
            result.skipped[model] = str(error)
        except NotStarted as error:
            result.failed[model] = str(error)
        return result

    def _contenders(
        self, stack: ExitStack, workers: Fleet, directory: Path, result: ModelResult
    ) -> Iterator[_Contender]:
        stage = Stage(directory, workers.ports, router_flags=self._plan.router_flags)
        for contestant in PATHS:
            if contestant.name not in self._plan.paths:
                continue
            if (reason := contestant.missing()) is not None:
                result.skipped[contestant.name] = reason
            else:
                with self._noting(result, contestant.name):
                    yield self._ready(stack, contestant, stage, workers, result, contestant.name)
        envoy = next(contestant for contestant in PATHS if contestant.name == "envoy")
        if workers.model_file is not None and "envoy" in self._plan.paths and envoy.missing() is None:
            with self._noting(result, UNBATCHED):
                plain = stack.enter_context(unbatched_fleet(workers.model_file, directory))
                apart = directory / "unbatched"
                apart.mkdir()
                yield self._ready(stack, envoy, Stage(apart, plain.ports), plain, result, UNBATCHED)

    def _ready(
        self,
        stack: ExitStack,
        contestant: Contestant,
        stage: Stage,
        workers: Fleet,
        result: ModelResult,
        name: str,
    ) -> _Contender:
        """Starts a path, finds its users, checks its answers under load, and learns about how fast it is."""
        self._say(f"{workers.model}: starting {name}")
        running = contestant.start(stage)
        if running.router is not None:
            stack.callback(running.router.stop)
        users = measure.find_users(running, workers)
        first = self._plan.in_flight[0]
        measure.check(running, users, calls=_CHECK_CALLS, at_once=first)
        warm = measure.saturated(
            running, workers, users, calls=_WARM_UP_CALLS, in_flight=first, directory=stage.directory
        )
        label = contestant.label if name != UNBATCHED else "Envoy, unbatched workers"
        result.paths[name] = PathResult(name, label)
        return _Contender(running, workers, users, result.paths[name], total_us=warm.total_us)

    def _saturate(self, contenders: Sequence[_Contender], result: ModelResult, until: float) -> None:
        levels = self._plan.in_flight if result.model == "identity" else self._plan.in_flight[:2]
        for in_flight in levels:
            for number in range(self._plan.rounds):
                if time.monotonic() > until and (number or in_flight != levels[0]):
                    result.left_out.append(f"{in_flight} in flight, round {number + 1}")
                    continue
                self._say(f"{result.model}: round {number + 1} of {self._plan.rounds}, {in_flight} in flight")
                # Each round begins with another path, so that none always follows the same neighbour.
                turn = number % len(contenders) if contenders else 0
                for contender in [*contenders[turn:], *contenders[:turn]]:
                    if not contender.out:
                        with self._watched(contender):
                            self._pass(contender, in_flight)

    def _pass(self, contender: _Contender, in_flight: int) -> None:
        calls = min(_MOST_CALLS, max(_LEAST_CALLS, int(self._plan.pass_cpu_s * 1e6 / max(1.0, contender.total_us))))
        figures = measure.saturated(
            contender.running,
            contender.fleet,
            contender.users,
            calls=calls,
            in_flight=in_flight,
            directory=self._directory,
        )
        contender.total_us = figures.total_us
        contender.result.saturated.append(figures)

    def _time(self, contenders: Sequence[_Contender], result: ModelResult, until: float) -> None:
        for contender in contenders:
            if not contender.out:
                with self._watched(contender):
                    figures = measure.one_at_a_time(contender.users, calls=self._plan.singles)
                    contender.result.one_at_a_time_p50_us, contender.result.one_at_a_time_mean_us = figures
        fixed = f"{self._plan.fixed_rate:g}/s"
        for number in range(self._plan.latency_rounds):
            for label in (fixed, *(f"{fraction:.0%}" for fraction in self._plan.fractions)):
                if time.monotonic() > until and (number or label != fixed):
                    result.left_out.append(f"latency at {label}, round {number + 1}")
                    continue
                self._say(f"{result.model}: latency at {label}, round {number + 1} of {self._plan.latency_rounds}")
                for contender in contenders:
                    if not contender.out:
                        with self._watched(contender):
                            self._timed_pass(contender, label)

    def _timed_pass(self, contender: _Contender, label: str) -> None:
        rate = self._plan.fixed_rate
        if label.endswith("%"):
            rate = int(label[:-1]) / 100 * contender.result.median(self._plan.in_flight[0], "calls_per_s")
        contender.result.latencies.append(
            measure.latency(
                contender.running,
                contender.fleet,
                contender.users,
                label=label,
                rate=rate,
                seconds=self._plan.latency_s,
            )
        )

    def _weigh(self, contenders: Sequence[_Contender]) -> None:
        for contender in contenders:
            if contender.running.router is not None and not contender.out:
                with self._watched(contender):
                    contender.result.log_lines_a_call = measure.log_lines_a_call(
                        contender.running, contender.users, calls=_CHECK_CALLS, at_once=self._plan.in_flight[0]
                    )
                    contender.result.resident_mb = measure.resident_mb(
                        contender.running.router, contender.users[0], connections=self._plan.connections
                    )

    @contextmanager
    def _noting(self, result: ModelResult, name: str) -> Iterator[None]:
        try:
            yield
        except _BROKEN as error:
            result.failed[name] = str(error)
            self._say(f"{result.model}: {name} failed: {error}")

    @contextmanager
    def _watched(self, contender: _Contender) -> Iterator[None]:
        """Notes what went wrong with a path, and leaves the path out from then on."""
        try:
            yield
        except _BROKEN as error:
            contender.out = True
            contender.result.notes.append(str(error))
            self._say(f"{contender.result.path} is out: {error}")
