"""What the report says of an experiment, as far as the autopilot acts by it; made beside the loop. Reads the log."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog
from abfleet_analysis.analyse import analyse
from abfleet_analysis.decision.verdicts import GroupDecision, Verdict
from abfleet_analysis.periods.allocation_periods import microseconds, moment
from abfleet_analysis.reading.open_log import LogError
from abfleet_analysis.report.report import ExperimentReport
from abfleet_experiments.config import Config
from abfleet_statistics import guardrails

from abfleet_autopilot.acts import ReportVerdict, TreatmentVerdict

PAUSE_SECONDS: Final = 10.0
"""Between two reports of an experiment, whatever asks for them."""


def verdict_of(logs: Path, config: Config, name: str, as_of: datetime, memory_limit_bytes: int) -> ReportVerdict | None:
    """The report of an experiment as of a moment; None where the log has nothing of it. Raises LogError."""
    report = analyse([logs], config, as_of=as_of, only=name, memory_limit_bytes=memory_limit_bytes)
    found = next((one for one in report.experiments if one.name == name), None)
    return None if found is None or report.as_of is None else _verdict(found, report.as_of)


def _verdict(report: ExperimentReport, as_of: datetime) -> ReportVerdict:
    looks, decision = report.gathered.looks, report.decision
    done, planned = looks.calendar.done, looks.calendar.planned
    now = microseconds(as_of)
    times = [microseconds(looks.at(number)) for number in range(1, done + 1)]
    refused = decision.verdict is Verdict.REFUSE
    return ReportVerdict(
        as_of=now,
        look=times[-1] if times else None,
        next_look=microseconds(looks.at(done + 1)) if done < planned else None,
        verdict=str(decision.verdict),
        winner=decision.group if decision.verdict is Verdict.SHIP else None,
        broken=decision.reasons if refused else (),
        treatments={one.group: _treatment(report, one, times, now) for one in decision.groups},
        reasons=decision.reasons,
    )


def _treatment(report: ExperimentReport, decision: GroupDecision, times: list[int], now: int) -> TreatmentVerdict:
    since = now
    for at, verdict in zip(reversed(times), reversed(decision.history), strict=False):
        if verdict is not decision.verdict:
            break
        since = at
    acting = any(one.rule.role == "guardrail" and one.e_value >= 1 / guardrails.ALPHA for one in decision.metrics)
    evidence = report.gathered.evidence
    answers, place = evidence.answers, evidence.groups.index(decision.group)
    absent = answers is not None and answers.absent(-1, place)
    return TreatmentVerdict(str(decision.verdict), since, not acting and not absent, decision.reasons)


class Reporter:
    """Makes reports in a thread, one at a time. Changed only by its methods, in the loop's thread."""

    def __init__(self, logs: Path, memory_limit_bytes: int, wall: Callable[[], float]) -> None:
        self._logs = logs
        self._memory = memory_limit_bytes
        self._wall = wall
        self._pool = ThreadPoolExecutor(1, "report")
        self._running: tuple[str, Future[ReportVerdict | None]] | None = None
        self._made: dict[str, float] = {}

    def close(self) -> None:
        """Waits for none."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def running(self) -> bool:
        """Whether a report is being made."""
        return self._running is not None

    def ask(self, config: Config, name: str, as_of_us: int) -> None:
        """Has a report made, unless one is being made or was just made."""
        if self._running is None and self._wall() - self._made.get(name, 0.0) >= PAUSE_SECONDS and as_of_us:
            self._made[name] = self._wall()
            arguments = (self._logs, config, name, moment(as_of_us), self._memory)
            self._running = name, self._pool.submit(verdict_of, *arguments)

    def ready(self, *, wait: bool = False) -> tuple[str, ReportVerdict] | None:
        """The report that has been made since, with the experiment's name; wait: until there is none to wait for."""
        if self._running is None or not (wait or self._running[1].done()):
            return None
        name, future = self._running
        self._running = None
        try:
            verdict = future.result()
        except (LogError, KeyError) as error:
            structlog.get_logger("abfleet.autopilot").warning("no report could be made", of=name, error=str(error))
            return None
        return None if verdict is None else (name, verdict)
