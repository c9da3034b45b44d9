"""Lines for the core, call by call: what a service would have logged, drawn from a seed."""

import random
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

from abfleet_analysis.decision.metrics import Failure
from abfleet_autopilot.acts import IntendedAction, ReportVerdict, TreatmentVerdict
from abfleet_autopilot.core import Core
from abfleet_autopilot.lines import SECOND_US, Allocated, CountedCall, Line
from abfleet_experiments.allocation import allocation_in_force
from abfleet_experiments.config import Config
from abfleet_experiments.file.load import load_text

START = datetime(2026, 12, 1, tzinfo=UTC)
START_US = int(START.timestamp()) * SECOND_US
MINUTE = 60
FILE = """\
version: 1
default: v1
models: {v1: {target: "127.0.0.1:1"}, v2: {target: "127.0.0.1:2"}}
experiments:
  - name: e
    groups: [{name: control, model: v1, weight: 80}, {name: canary, model: v2, weight: 20}]
    ramp: [{at: 2026-11-30T00:00:00Z, traffic: 1, control: 80, canary: 20}]
    metrics: {guardrails: [error_rate, {name: response_time_p95, threshold_ms: 200}]}
    autopilot: AUTOPILOT
"""
Fate = Callable[[str, float, random.Random], tuple[Failure, float]]
"""What becomes of a group's call at so many seconds: how it fails, and its response time in ms."""


def config_of(autopilot: str = "{}") -> Config:
    return load_text(FILE.replace("AUTOPILOT", autopilot))


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def us(seconds: float) -> int:
    return START_US + int(seconds * SECOND_US)


def failing(rates: Mapping[str, float], failure: Failure = Failure.WRONG) -> Fate:
    """Calls of these groups fail at these rates."""

    def fate(group: str, _: float, rng: random.Random) -> tuple[Failure, float]:
        return (failure, -1.0) if rng.random() < rates.get(group, 0.0) else (Failure.NONE, 10.0)

    return fate


def allocated(config: Config, seconds: float, router: str = "r1") -> Allocated:
    """The line of a router that takes what is in force then."""
    (experiment,) = config.experiments
    found = allocation_in_force(experiment, at(seconds))
    assert found is not None
    names = [group.name for group in experiment.groups]
    weights = {name: share / 10_000 for name, share in zip(names, found.weights_bp, strict=True)}
    traffic = found.traffic_bp / 100 if experiment.enabled else 0.0
    return Allocated(us(seconds), router, "e", found.id, traffic, weights, config.revision)


def calls(
    config: Config, begin: float, end: float, fate: Fate, *, rate: float = 20.0, seed: int = 1, router: str = "r1"
) -> Iterator[Line]:
    """Calls of ever new users, `rate` a second, from one second to another."""
    rng = random.Random(seed)
    allocation = allocated(config, begin).allocation
    for number in range(int((end - begin) * rate)):
        seconds = begin + number / rate
        group = "canary" if rng.random() < 0.2 else "control"
        failure, latency = fate(group, seconds, rng)
        own = failure is Failure.NONE
        yield CountedCall(us(seconds), router, "e", group, allocation, rng.getrandbits(60), failure, own, latency, -1.0)


def fed(core: Core, lines: Iterator[Line], every: float = 10.0) -> list[IntendedAction]:
    """Acts that a core wants first, asked every so many seconds; none where it wants nothing to the end."""
    due = 0
    for line in lines:
        core.take(line)
        if line.at >= due:
            due = line.at + int(every * SECOND_US)
            core.tick(line.at)
            if acts := core.acts(at((line.at - START_US) / SECOND_US)):
                return acts
    return core.acts(at((core.newest - START_US) / SECOND_US)) if core.newest else []


def report(seconds: float, verdict: str = "keep_running", *, harm: bool = False, since: float = 0.0) -> ReportVerdict:
    """A report as of a second, of which the only treatment has the verdict."""
    broken = ("sample-ratio mismatch",) if verdict == "refuse" else ()
    winner = "canary" if verdict == "ship" else None
    treatments = {"canary": TreatmentVerdict(verdict, us(since), harm, ("because",))}
    return ReportVerdict(us(seconds), us(seconds), us(10**7), verdict, winner, broken, treatments, ("because",))
