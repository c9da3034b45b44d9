"""The whole loop over made-up services whose truth is known: how soon harm is halted, how often health is.

The product's own core is given the calls that its evidence rests on: each one that failed or was slow, and of the
others as many as keep a version from being absent and as fill the groups of a step. No files, and no report, which here
finds no fault. Users are ever new; those who come back only make bad events rarer.

Beside it stand fixed thresholds as controllers of rollouts have them: an error rate of more than 1 % in five minutes.
"""

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
from abfleet_analysis.decision.metrics import Failure
from abfleet_experiments import change
from abfleet_experiments.allocation import allocation_in_force
from abfleet_experiments.config import Config
from abfleet_experiments.file.load import load_text

from abfleet_autopilot.acts import Action, ReportVerdict
from abfleet_autopilot.core import Core
from abfleet_autopilot.lines import NOT_KNOWN, SECOND_US, Allocated, CountedCall, moment

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
DAYS: Final = 28
START: Final = datetime(2026, 12, 1, tzinfo=UTC)
START_US: Final = int(START.timestamp()) * SECOND_US
GIVEN: Final = 60.0
"""Seconds between two of the good calls that the core is given; there is always one before harm begins."""
MOST_BAD: Final = 0.01
CHECKS: Final = 5
"""Minutes with more than MOST_BAD after which fixed thresholds roll back, as in Flagger's examples."""
SLOW_MS: Final = 200.0
FILE: Final = """\
version: 1
default: v1
models: {v1: {target: "127.0.0.1:1"}, v2: {target: "127.0.0.1:2"}}
experiments:
  - name: e
    groups: [{name: control, model: v1, weight: 87.5}, {name: canary, model: v2, weight: 12.5}]
    ramp: [{at: 2026-11-30T00:00:00Z, traffic: TRAFFIC, control: 87.5, canary: 12.5}]
    metrics: {guardrails: [error_rate, {name: response_time_p95, threshold_ms: 200}]}
    autopilot: AUTOPILOT
"""
SHARES: Final = {"control": 0.875, "canary": 0.125}


@dataclass(frozen=True, slots=True)
class Service:
    """What happens to calls.

    Attributes:
        rate: Calls a second of both groups together.
        wrong, slow: Share of calls with a wrong, a slow answer, of control and of the canary once harm has begun.
        harm_at: When the canary's begin, in seconds; before that it is as control.
        absent: Whether it answers nothing from then on.
        outages_a_day: Of each version, one replica each, 0.2 to 60 s long.
    """

    rate: float = 1.0
    wrong: tuple[float, float] = (0.0, 0.0)
    slow: tuple[float, float] = (0.0, 0.0)
    harm_at: float = 0.0
    absent: bool = False
    outages_a_day: float = 0.0

    @property
    def harms(self) -> bool:
        """Whether the canary is worse than control at all."""
        return self.absent or self.wrong[1] != self.wrong[0] or self.slow[1] != self.slow[0]


@dataclass(frozen=True, slots=True)
class PilotScenario:
    """A service, and what is promised of it.

    Attributes:
        days: How long a run takes at most.
        most_halted: Share of runs; None promises nothing. median_minutes: From harm to the halt, at most.
        least_at_the_top: Share of runs in which traffic reaches 100 %.
    """

    name: str
    story: str
    service: Service
    days: float = DAYS
    autopilot: str = "{}"
    most_halted: float | None = None
    median_minutes: float | None = None
    least_at_the_top: float | None = None


@dataclass(frozen=True, slots=True)
class Flight:
    """What came of one run.

    Attributes:
        halted: Seconds from the beginning of harm; None if it was not. fixed: The same by fixed thresholds.
        harmed: The canary's users with a bad event because of harm until then. traffic: In percent, at the end.
    """

    halted: float | None
    fixed: float | None
    harmed: int
    traffic: float


def scenarios() -> dict[str, PilotScenario]:
    """All of them by name."""
    errors, wrong = (0.01, 0.03), (0.01, 0.30)
    week = 7 * DAY
    ramp = "{ramp: {traffic: [1, 5, 20, 50, 100], hold: 24h, users: 1000}}"
    found = [
        PilotScenario(
            "healthy",
            "0.5 % wrong answers and 5 % slow ones in both versions, a call a second, 28 days",
            Service(wrong=(0.005, 0.005), slow=(0.05, 0.05)),
            most_halted=0.01,
        ),
        PilotScenario(
            "outages",
            "an outage a day of each version's one replica, 0.2 to 60 s, 40 calls a second, 28 days",
            Service(rate=40, outages_a_day=1.0),
            most_halted=0.01,
        ),
        PilotScenario(
            "errors",
            "1 % wrong answers become 3 % in the canary from the start, 40 calls a second",
            Service(rate=40, wrong=errors),
            days=1,
            median_minutes=15,
        ),
        PilotScenario(
            "errors-later",
            "the same after seven good days",
            Service(rate=40, wrong=errors, harm_at=week),
            days=8,
            median_minutes=30,
        ),
        PilotScenario(
            "wrong", "30 % wrong answers from the start", Service(rate=40, wrong=wrong), days=1, median_minutes=12
        ),
        PilotScenario(
            "wrong-later",
            "the same after seven good days",
            Service(rate=40, wrong=wrong, harm_at=week),
            days=8,
            median_minutes=25,
        ),
        PilotScenario(
            "absent",
            "the canary answers nothing after an hour",
            Service(rate=40, wrong=(0.01, 0.01), harm_at=HOUR, absent=True),
            days=1,
            median_minutes=10.5,
        ),
        PilotScenario(
            "slow",
            "response times are 1.3 times as long: 5 % slow answers become 13 %",
            Service(rate=40, slow=(0.05, 0.13)),
            days=1,
        ),
        PilotScenario(
            "ramp",
            "no effect, and traffic of 1, 5, 20, 50 and 100 %, each for a day or more; 40 calls a second at 100 %",
            Service(rate=40, wrong=(0.005, 0.005)),
            days=DAYS,
            autopilot=ramp,
            least_at_the_top=0.95,
        ),
    ]
    return {one.name: one for one in found}


def flights(scenario: PilotScenario, *, runs: int, seed: int) -> Iterator[Flight]:
    """So many runs; run number i depends on the seed and i alone."""
    for run in range(runs):
        yield _Run(scenario, np.random.default_rng([seed, run])).flown()


@dataclass(slots=True)
class _Run:
    """One run. Changed only by `flown`."""

    scenario: PilotScenario
    rng: np.random.Generator
    users: int = 0
    harmed: int = 0
    traffic: float = field(init=False, default=100.0)

    def flown(self) -> Flight:
        """Hour by hour, until a halt or the end."""
        scenario, service = self.scenario, self.scenario.service
        climbs = scenario.least_at_the_top is not None
        self.traffic = 1.0 if climbs else 100.0
        config = load_text(FILE.replace("TRAFFIC", f"{self.traffic:g}").replace("AUTOPILOT", scenario.autopilot))
        core = Core(config)
        core.take(_allocated(config, 0.0))
        evidence = core.evidence["e"]
        gone = {name: self._outages() for name in SHARES} if service.outages_a_day else {}
        halted, fixed, hour = None, self._fixed(), 0
        while halted is None and hour * HOUR < scenario.days * DAY:
            allocation = evidence.step.allocation if evidence.step is not None else ""
            for call in self._hour(hour * HOUR, allocation, gone):
                core.take(call)
                if service.harms and call.group == "canary" and call.at >= _us(service.harm_at):
                    self.harmed += not call.own or call.latency_ms > SLOW_MS
                treatment = evidence.treatments[1]
                if treatment.acted or treatment.absent is not None:
                    (act,) = core.acts(moment(call.at))
                    halted = (act.as_of - START_US) / SECOND_US - service.harm_at
                    break
            hour += 1
            core.tick(_us(hour * HOUR))
            if climbs and halted is None and self.traffic < 100:
                config = self._climb(core, config, hour * HOUR)
        return Flight(halted, fixed, self.harmed, self.traffic)

    def _climb(self, core: Core, config: Config, seconds: float) -> Config:
        now = _us(seconds)
        core.set_report("e", ReportVerdict(now, None, None, "keep_running", None, (), {}))
        for act in core.acts(moment(now)):
            assert act.action is Action.CLIMB
            assert act.traffic_bp is not None
            at = moment(now)
            config = change.ramped(config, "e", {}, traffic_bp=act.traffic_bp, at=at, now=at)
            core.set_config(config, now)
            core.take(_allocated(config, seconds))
            self.traffic = act.traffic_bp / 100
        return config

    def _hour(self, begin: float, allocation: str, gone: dict[str, list[tuple[float, float]]]) -> list[CountedCall]:
        """The calls of an hour that the core is given, in order of time."""
        service = self.scenario.service
        calls: list[CountedCall] = []
        rate = service.rate * self.traffic / 100
        add = _adder(calls, allocation, self._user)
        for group, share in SHARES.items():
            for low, high, harm in self._parts(begin, group):
                mine = rate * share
                which = 1 if harm else 0
                if harm and service.absent:
                    for at in self._times(mine, low, high):
                        add(group, at, Failure.ABSENT, NOT_KNOWN)
                    continue
                wrong = self._times(mine * service.wrong[which], low, high)
                slow = self._times(mine * service.slow[which], low, high)
                for at in wrong:
                    add(group, at, Failure.WRONG, NOT_KNOWN)
                for at in slow:
                    add(group, at, Failure.NONE, 2 * SLOW_MS)
                for at in (*np.arange(low, high, max(GIVEN, 1 / mine)).tolist(), high - 1e-3):
                    add(group, at, Failure.NONE, 1.0)
                if self.scenario.least_at_the_top is not None:  # as many as a step must have of each group
                    for at in self._times(min(mine, 200 / HOUR), low, high):
                        add(group, at, Failure.NONE, 1.0)
            for low, high in gone.get(group, ()):
                for at in self._times(rate * share, max(low, begin), min(high, begin + HOUR)):
                    add(group, at, Failure.ABSENT, NOT_KNOWN)
        calls.sort(key=lambda call: call.at)
        return calls

    def _parts(self, begin: float, group: str) -> list[tuple[float, float, bool]]:
        """The hour before and after the canary's harm begins."""
        end, at = begin + HOUR, self.scenario.service.harm_at
        if group == "control" or at >= end:
            return [(begin, end, False)]
        return [(begin, end, True)] if at <= begin else [(begin, at, False), (at, end, True)]

    def _times(self, rate: float, low: float, high: float) -> list[float]:
        """A Poisson process, ascending."""
        if high <= low or rate <= 0:
            return []
        number = self.rng.poisson(rate * (high - low))
        return np.sort(self.rng.uniform(low, high, number)).tolist()  # type: ignore[no-any-return]

    def _outages(self) -> list[tuple[float, float]]:
        days, service = self.scenario.days, self.scenario.service
        begins = self._times(service.outages_a_day / DAY, 0, days * DAY)
        return [(at, at + math.exp(self.rng.uniform(math.log(0.2), math.log(60)))) for at in begins]

    def _fixed(self) -> float | None:
        """When fixed thresholds have failed CHECKS of their minutes, from the beginning of harm."""
        service, minutes = self.scenario.service, int(self.scenario.days * DAY / MINUTE)
        calls = self.rng.poisson(service.rate * SHARES["canary"] * MINUTE, minutes)
        harm = np.arange(minutes) * MINUTE >= service.harm_at
        rate = np.where(harm, 1.0 if service.absent else service.wrong[1], service.wrong[0])
        bad = self.rng.binomial(calls, rate)
        failed = np.flatnonzero(bad > MOST_BAD * calls)
        return float(failed[CHECKS - 1] + 1) * MINUTE - service.harm_at if len(failed) >= CHECKS else None

    def _user(self) -> int:
        self.users += 1
        return self.users


def _adder(
    calls: list[CountedCall], allocation: str, user: Callable[[], int]
) -> Callable[[str, float, Failure, float], None]:
    def add(group: str, at: float, failure: Failure, latency_ms: float) -> None:
        own = failure is Failure.NONE
        calls.append(CountedCall(_us(at), "r", "e", group, allocation, user(), failure, own, latency_ms, NOT_KNOWN))

    return add


def _allocated(config: Config, seconds: float) -> Allocated:
    (experiment,) = config.experiments
    found = allocation_in_force(experiment, START + timedelta(seconds=seconds))
    assert found is not None
    return Allocated(_us(seconds), "r", "e", found.id, found.traffic_bp / 100, SHARES, config.revision)


def _us(seconds: float) -> int:
    return START_US + int(seconds * SECOND_US)


@dataclass(frozen=True, slots=True)
class Summary:
    """What came of all runs of a scenario.

    Attributes:
        halted, fixed: Share of runs halted, by the autopilot and by fixed thresholds; `fixed_median` in minutes.
        median, ninetieth: Minutes from the beginning of harm to the halt, of those that were; None where none was.
        kept: Whether what is promised came about.
    """

    scenario: PilotScenario
    runs: int
    halted: float
    median: float | None
    ninetieth: float | None
    harmed: float
    at_the_top: float
    fixed: float
    fixed_median: float | None

    @property
    def kept(self) -> bool:
        """Counted, without leave for chance."""
        promised = self.scenario
        return (
            (promised.most_halted is None or self.halted <= promised.most_halted)
            and (
                promised.median_minutes is None
                or (self.halted == 1 and self.median is not None and self.median <= promised.median_minutes)
            )
            and (promised.least_at_the_top is None or self.at_the_top >= promised.least_at_the_top)
        )


def summary(scenario: PilotScenario, found: list[Flight]) -> Summary:
    """The runs of a scenario in numbers."""
    times = sorted(one.halted / MINUTE for one in found if one.halted is not None)
    fixed = [one.fixed / MINUTE for one in found if one.fixed is not None]
    after = [minutes for minutes in fixed if minutes > 0]  # the others were halted before there was anything
    return Summary(
        scenario=scenario,
        runs=len(found),
        halted=len(times) / len(found),
        median=statistics.median(times) if times else None,
        ninetieth=times[math.ceil(0.9 * len(times)) - 1] if times else None,
        harmed=statistics.mean(one.harmed for one in found),
        at_the_top=sum(one.traffic >= 100 for one in found) / len(found),
        fixed=len(fixed) / len(found),
        fixed_median=statistics.median(after) if after else None,
    )
