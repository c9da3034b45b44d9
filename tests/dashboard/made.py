"""Reports to look at: prepared logs run through the analysis, and hand-made ones with all that a page can show."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any, cast

import numpy as np
from abfleet_analysis.analyse import analyse
from abfleet_analysis.decision.decide import decide
from abfleet_analysis.decision.preference import PreferenceEvidence, judge_preference
from abfleet_analysis.evidence.exclusion import WindowCalls
from abfleet_analysis.evidence.gather_evidence import GatheredEvidence, GroupFacts
from abfleet_analysis.evidence.gather_preference import gathered_preference
from abfleet_analysis.periods.allocation_periods import LoggedAllocation, Looks, microseconds
from abfleet_analysis.report.details import (
    BeforeFirstLook,
    Breakdown,
    ConfigChange,
    Details,
    MetricPath,
    MetricValues,
    Paths,
    Recommended,
    Slice,
    Traffic,
    VersionLists,
)
from abfleet_analysis.report.excluded import Excluded
from abfleet_analysis.report.report import ExperimentReport, LogFacts, Report
from abfleet_analysis.report.run_state import RunState, State
from abfleet_analysis.report.waiting import waiting, waiting_for_preference
from abfleet_analysis.simulation.scenarios import SCENARIOS
from abfleet_experiments.config import AnalysisPlan, Config, EndedExperiment, ExcludedWindow
from abfleet_experiments.file.load import load_text
from abfleet_protos.admin_pb2 import StatusResponse
from google.protobuf.json_format import ParseDict

from tests.analysis.log_lines import DAY, START, LogLines, file_text

FILE = file_text("conversion_rate", ("{name: error_rate, points: 0.01}",), ("revenue_per_user",))
VERSIONS = ("v1.2.3", "v1.3.0-beta", "v1.4.0-rc1")
HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{7*7}}${7*7}", "evil\u202egnp.exe\u200b")
"""Names that others chose."""


def prepared_log(
    *,
    rates: tuple[float, float] = (0.30, 0.30),
    errors: tuple[float, float] = (0.0, 0.0),
    lost: float = 0.0,
    days: int = 10,
    a_day: int = 400,
) -> LogLines:
    """Users who come evenly over some days, in two halves, and act exactly this often. `lost`: of the treatment's."""
    log = LogLines()
    for day in range(days):
        for index in range(a_day):
            group, turn = index % 2, index // 2 % 100
            if group and index // 2 * 37 % 100 < lost * 100:
                continue
            at = START + DAY * day + timedelta(seconds=86400 * index / a_day)
            status = "INTERNAL" if turn * 61 % 100 < errors[group] * 100 else "OK"
            user = f"u{day}-{index}"
            request = log.exposure(user, ("control", "treatment")[group], at, status=status)
            if turn < rates[group] * 100:
                log.outcome("conversion", user, request, at)
    return log


def report_of_log(log: LogLines, folder: Path, as_of: datetime | None = None) -> tuple[Report, Config]:
    """The analysis of a prepared log."""
    config = load_text(FILE)
    return analyse([log.write(folder)], config, as_of=as_of), config


def made_report(scenario: str = "planned-effect", seed: int = 5, name: str = "homepage-ranking") -> Report:
    """A report of a made-up experiment of three groups and 28 looks, with every kind of detail."""
    experiment = made_experiment(scenario, seed, name)
    concluded = (EndedExperiment("search-ranking", "control", START - DAY * 3),)
    return Report(made_times(28)[-1], LogFacts(2_104_377, 3, 120), (experiment,), concluded)


def made_experiment(scenario: str, seed: int, name: str) -> ExperimentReport:
    """One made-up experiment."""
    evidence = SCENARIOS[scenario].draw(np.random.default_rng(seed))
    plan = AnalysisPlan()
    decision = decide(evidence, plan)
    times = made_times(evidence.calendar.done)
    users = evidence.users[-1]
    facts = tuple(
        GroupFacts(
            group,
            VERSIONS[index % 3],
            int(users[index]),
            int(users[index] * 3.1),
            index * 41,
            index * 17,
            int(users[index]),
        )
        for index, group in enumerate(evidence.groups)
    )
    looks = Looks(times, microseconds(START + DAY), 86_400_000_000, evidence.calendar)
    found = (LoggedAllocation("7f3a9c01b2d4", START, np.array([0.7, 0.2, 0.1]), "recommender-2026-11"),)
    gathered = GatheredEvidence(evidence, found, facts, looks)
    waits = waiting(gathered, decision, plan, running=True)
    window = ExcludedWindow(START + DAY * 3, START + DAY * 3.25, "a database was down")
    left_out = WindowCalls(window, dict.fromkeys(evidence.groups, 420), dict.fromkeys(evidence.groups, 300))
    excluded = Excluded((left_out,), 17, decision)
    state = RunState(State.RUNNING, START)
    report = ExperimentReport(name, plan, gathered, decision, state, waits, excluded=excluded)
    return dataclasses.replace(report, details=made_details(report, times))


def made_interleaving(
    scenario: str = "interleaving-better", seed: int = 5, name: str = "ranking-duel"
) -> ExperimentReport:
    """One made-up interleaving of 28 looks."""
    evidence = cast("PreferenceEvidence", SCENARIOS[scenario].draw(np.random.default_rng(seed)))
    evidence = dataclasses.replace(evidence, versions=VERSIONS[:2])
    plan, times = AnalysisPlan(), made_times(evidence.calendar.done)
    decision, preference = judge_preference(evidence, plan)
    looks = Looks(times, microseconds(START + DAY), 86_400_000_000, evidence.calendar)
    found = (LoggedAllocation("7f3a9c01b2d4", START, np.array([1.0]), "ranking-duel"),)
    gathered = gathered_preference(evidence, looks, found)
    waits = waiting_for_preference(gathered, decision, running=True)
    return ExperimentReport(
        name, plan, gathered, decision, RunState(State.RUNNING, START), waits, preference=preference
    )


def made_times(looks: int) -> tuple[datetime, ...]:
    """A look each midnight, and the moment of the report."""
    return (*(START + DAY * number for number in range(1, looks + 1)), START + DAY * looks + timedelta(hours=2))


def made_details(report: ExperimentReport, times: tuple[datetime, ...]) -> Details:
    """Details that fit the report's last numbers."""
    evidence, count = report.gathered.evidence, len(times)
    rng = np.random.default_rng(5)
    part = np.arange(1, count + 1) / count
    paths = []
    for group in report.decision.groups:
        for metric in group.metrics:
            base = abs(metric.baseline_value) or 1.0
            error = metric.standard_error / base / np.sqrt(part)
            path = metric.relative_difference + np.cumsum(rng.normal(0, 0.25, count))[::-1] * error / 3
            path[-1] = metric.relative_difference
            wide = error * 2.9
            decides = metric.rule.role == "primary"
            boundary = error * np.minimum(2.4 / np.sqrt(part), 8) * metric.rule.sign
            low, high = path - wide, path + wide
            low[:2] = high[:2] = math.nan
            paths.append(
                MetricPath(
                    metric.rule.name,
                    metric.rule.role,
                    metric.rule.direction,
                    group.group,
                    path,
                    low,
                    high,
                    boundary if decides else np.full(count, math.nan),
                    -boundary,
                    np.full(count, math.nan) if decides else np.cumsum(rng.normal(-0.05, 0.2, count)),
                )
            )
    calls = np.stack(
        [rng.poisson(900 * share * (1.3 + np.sin(np.arange(112) / 112 * 56 * np.pi))) for share in (0.7, 0.2, 0.1)], 1
    )
    return Details(
        paths=Paths(
            times,
            np.maximum(part[:, None] * evidence.users[-1][None, :], 1.0),
            np.clip(0.5 + np.cumsum(rng.normal(0, 0.05, count)), 0.02, 1),
            np.cumsum(rng.normal(-0.05, 0.25, count)),
            tuple(paths),
            made_values(report, count),
        ),
        traffic=Traffic(
            START,
            timedelta(hours=6),
            calls,
            calls // 400,
            calls // 900,
            calls // 400,
            START,
            START + timedelta(hours=6) * len(calls),
        ),
        breakdowns=made_breakdowns([group.group for group in report.decision.groups]),
        recommended=made_recommended(),
        changes=(
            ConfigChange(
                START + DAY * 12, "refused", "refused: experiments[0].groups: the weights sum to 110, not 100", None
            ),
            ConfigChange(
                START + DAY * 8, "allocation", "shares are now 70/20/10 of 100 % of users; 10.0 % moved", "0a1b2c3d4e5f"
            ),
            ConfigChange(START, "reload", "first configuration", "9f8e7d6c5b4a"),
        ),
    )


def made_values(report: ExperimentReport, count: int) -> tuple[MetricValues, ...]:
    """Each metric in each group, as it settles down to what it is."""
    rng, groups = np.random.default_rng(6), report.gathered.evidence.groups
    settling = 1 + rng.normal(0, 0.1, (count, len(groups))) / np.sqrt(np.arange(1, count + 1))[:, None]
    found = []
    for index, metric in enumerate(report.gathered.evidence.metrics):
        results = [group.metrics[index] for group in report.decision.groups]
        now = np.array([results[0].baseline_value, *(one.value for one in results)])
        found.append(MetricValues(metric.rule.name, now * settling))
    return tuple(found)


def made_before_first_look(report: ExperimentReport, hours: int = 9) -> BeforeFirstLook:
    """Hourly points of a first day."""
    users = np.arange(1, hours + 1)[:, None] * np.array([70.0, 20.0, 10.0][: len(report.gathered.evidence.groups)])
    times = tuple(START + timedelta(hours=hour + 1) for hour in range(hours))
    return BeforeFirstLook(timedelta(hours=1), times, users, made_values(report, hours))


def in_its_first_day(report: ExperimentReport, hours: int = 9) -> ExperimentReport:
    """The same experiment before its first look: points by the hour, and one time of the paths."""
    assert report.details is not None
    early = made_before_first_look(report, hours)
    paths = dataclasses.replace(
        report.details.paths,
        times=early.times[-1:],
        users=early.users[-1:],
        ratio_p=np.array([0.6]),
        ratio_log_e=np.array([0.1]),
        metrics=(),
        values=tuple(MetricValues(one.metric, one.values[-1:]) for one in early.values),
    )
    details = dataclasses.replace(report.details, paths=paths, before_first_look=early)
    return dataclasses.replace(report, details=details)


def made_breakdowns(groups: Sequence[str], labels: Sequence[str] = ("DE", "FR", "US", "")) -> tuple[Breakdown, ...]:
    """By country, by day and by what answered."""

    def one(label: str, group: str, lift: float, width: float, p: float) -> Slice:
        return Slice(label, group, 4210, 14730, 0.05 * (1 + lift), 0.05, lift, (lift - width, lift + width), p)

    places = [one(label, g, 0.06 + 0.03 * i, 0.09, 0.3 - 0.05 * i) for i, label in enumerate(labels) for g in groups]
    places[0] = dataclasses.replace(places[0], adjusted_p=0.004, relative_difference=0.19, interval=(0.1, 0.28))
    days = [one(f"day {day}", groups[0], 0.12 - 0.01 * day, 0.06 + 0.01 * day, 0.2) for day in range(7)]
    nan = math.nan
    served = [
        Slice("v1.3.0-beta", groups[0], 30_800, 0, 0.0541, nan, nan, (nan, nan), nan),
        Slice("v1.2.3 (fallback: timeout)", groups[0], 131, 0, 0.0312, nan, nan, (nan, nan), nan),
    ]
    return (
        Breakdown("attribute", "country", "conversion_rate", tuple(places), 3),
        Breakdown("day", "days since the first call", "conversion_rate", tuple(days), 0),
        Breakdown("served", "what really answered", "conversion_rate", tuple(served), 0),
    )


def made_recommended() -> Recommended:
    """Three versions' lists."""
    offline = (
        (("ndcg@10", 0.0812), ("recall@10", 0.1204)),
        (("ndcg@10", 0.0967), ("recall@10", 0.1410), ("mrr", 0.0671)),
        (("ndcg@10", 0.0941),),
    )
    versions = tuple(
        VersionLists(
            version,
            96_000 // (index + 1),
            3120 - 600 * index,
            (0.32, 0.26, math.nan)[index],
            0.08 + 0.05 * index,
            tuple((100 + 7 * n + index, 0.3 / (n + 1)) for n in range(10)),
            offline[index],
        )
        for index, version in enumerate(VERSIONS)
    )
    return Recommended(versions, np.array([[1.0, 0.31, 0.24], [0.31, 1.0, 0.62], [0.24, 0.62, 1.0]]))


def renamed(value: Any, names: dict[str, str]) -> Any:
    """A report with other names, wherever they stand."""
    if isinstance(value, str) and not isinstance(value, Enum):
        return names.get(value, value)
    if isinstance(value, tuple | list):
        return type(value)(renamed(one, names) for one in value)
    if isinstance(value, dict):
        return {renamed(key, names): renamed(one, names) for key, one in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {one.name: renamed(getattr(value, one.name), names) for one in dataclasses.fields(value) if one.init}
        return dataclasses.replace(value, **fields)
    return value


def hostile_report() -> Report:
    """Every name that comes from a file, a log or a registry is an attack of its own kind."""
    first, second, third, fourth = HOSTILE
    return cast(
        Report,
        renamed(
            made_report(),
            {
                "homepage-ranking": first,
                "control": fourth,
                "experiment": second,
                "canary": third,
                "v1.2.3": second,
                "v1.3.0-beta": first,
                "v1.4.0-rc1": fourth,
                "conversion_rate": first,
                "error_rate": second,
                "slow_users": fourth,
                "country": second,
                "DE": first,
                "FR": third,
                "US": fourth,
                "ndcg@10": first,
                "mrr": fourth,
                "0a1b2c3d4e5f": second,
                "7f3a9c01b2d4": first,
                "a database was down": third,
                "first configuration": first + fourth,
            },
        ),
    )


def router_status(document: Mapping[str, Any] | None = None) -> StatusResponse:
    """A router's status, by its document."""
    return ParseDict(status_document() if document is None else document, StatusResponse())


def status_document() -> dict[str, Any]:
    """A router's status with something of everything: a healthy version, one with a worker missing, one with none."""
    latency = {"bounds_s": [0.001, 0.002, 0.005, 0.01], "counts": [0, 900, 90, 10, 0], "total_s": 1.9}
    shares = (("control", "v1.2.3", 0, 0), ("experiment", "v1.3.0-beta", 3, 12), ("canary", "v1.4.0-rc1", 0, 0))
    return {
        "router": "router-1",
        "serving": True,
        "uptime_s": 7312.25,
        "tasks": 12,
        "config": {
            "revision": "0a1b2c3d4e5f",
            "generation": 3,
            "activated": "2026-11-08T12:00:00+00:00",
            "seen_revision": "0a1b2c3d4e5f",
            "errors": [],
            "default": "v1.2.3",
        },
        "groups": [
            {
                "experiment": "homepage-ranking",
                "group": group,
                "model_version": version,
                "calls": 1000,
                "errors": errors,
                "fallbacks": fallbacks,
                "latency": latency,
            }
            for group, version, errors, fallbacks in shares
        ],
        "pools": [
            {
                "version": "v1.2.3",
                "available": 1,
                "ejections": 0,
                "replicas": [{"address": "127.0.0.1:50061", "health": "serving", "in": True, "load": 3}],
            },
            {
                "version": "v1.3.0-beta",
                "available": 1,
                "ejections": 2,
                "replicas": [
                    {"address": "127.0.0.1:50062", "health": "serving", "in": True, "load": 1},
                    {"address": "127.0.0.1:50065", "health": "serving", "in": False, "load": 0},
                ],
            },
            {
                "version": "v1.4.0-rc1",
                "available": 0,
                "ejections": 1,
                "replicas": [{"address": "127.0.0.1:50063", "health": "lost", "in": False, "load": 0}],
            },
        ],
        "waiting": {"calls": 2, "bytes": 100},
        "shed": 3,
        "rejected": 1,
        "retries": 7,
        "decision_log": {"path": "decisions.jsonl", "failing": False, "lines": 100120, "lost": 0, "buffered": 4},
    }
