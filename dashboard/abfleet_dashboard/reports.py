"""Keeps the newest report, with its age and the reason why there is no newer one.

An analysis begins when the log, the experiments file or the registry has changed since the last one, and never before
as much time has passed as the last one took: it has at most half of the time. While nobody watches it is rarer.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Protocol

import structlog
from abfleet_analysis.report.report import Report
from abfleet_experiments.config import Config
from abfleet_experiments.file.errors import ConfigErrors
from abfleet_experiments.file.load import load
from abfleet_log.tools.actions import STATE_FILE
from abfleet_process.file_state import FileStates, file_states

from abfleet_dashboard.pacing import Pacing
from abfleet_dashboard.settings import DashboardSettings
from abfleet_dashboard.tasks import AnalysisDone, AnalysisFailed, AnalysisTask
from abfleet_dashboard.visits import Visits

log = structlog.get_logger("abfleet.dashboard")

POLL_SECONDS: Final = 0.5
"""Between polls of the files while somebody waits: an analysis that may begin does not wait for long."""
UNWATCHED_SECONDS: Final = 30.0
"""Between analyses that nobody waits for: who comes sees a report younger than a minute, and soon a newer one."""
RELEASE_AFTER_SECONDS: Final = 120.0
"""Without a task for so long the process that analyses is ended; the next one takes some seconds more."""


class Analyses(Protocol):
    """The interface of the process that makes reports."""

    async def ask(self, task: AnalysisTask) -> AnalysisDone | AnalysisFailed:
        """The report, or why there is none."""

    async def release(self) -> None:
        """Frees the analysis' memory, because no task will come for a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportStatus:
    """The newest report and the state of its analysis.

    Attributes:
        number: One more with each change of what follows, but for `current_at`.
        current_at: When the report was last known to say all that the log does, UTC.
        seconds: What the last report took.
        problem: Why the newest analysis failed.
        config_errors: Why the file on disk is not `config`.
    """

    number: int = 0
    report: Report | None = None
    current_at: datetime | None = None
    seconds: float = 0.0
    problem: str | None = None
    config: Config | None = None
    config_errors: tuple[str, ...] = ()


class ReportKeeper:
    """Changed only by `keep`, on the event loop."""

    def __init__(
        self,
        settings: DashboardSettings,
        analyst: Analyses,
        visits: Visits,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._analyst = analyst
        self._visits = visits
        self._clock = clock
        self._now = now
        self.status = ReportStatus()
        self._analysed: tuple[FileStates, Config] | None = None  # by the last attempt, unless it is to be repeated
        self._config_mark: FileStates | None = None
        self._pacing = Pacing(clock)
        self._began: float | None = None

    @property
    def working_seconds(self) -> float:
        """How long the analysis under way has taken up to now; 0 while there is none."""
        return 0.0 if self._began is None else self._clock() - self._began

    async def keep(self) -> None:
        """Polls until it is cancelled: at the full rate while somebody watches, more rarely otherwise."""
        while True:
            await self.poll()
            refresh = self._settings.refresh_seconds
            await self._visits.pause(min(refresh, POLL_SECONDS) if self._visits.watched else refresh)

    async def poll(self) -> None:
        """Reads what has changed, and has it analysed if it is time."""
        await self._follow_config()
        config = self.status.config
        if config is None:
            return
        read = (*self._settings.logs, self._settings.registry / "registry.json")
        mark = await asyncio.to_thread(file_states, read, without=(STATE_FILE,))
        if self._analysed == (mark, config):
            if self.status.problem is None:
                self.status = replace(self.status, current_at=self._now())
            if self._pacing.idle_seconds > RELEASE_AFTER_SECONDS:
                await self._analyst.release()
            return
        refresh, took = self._settings.refresh_seconds, self.status.seconds
        if self._pacing.due(pause_seconds(refresh=refresh, took=took, watched=self._visits.watched)):
            await self._analyse(mark, config)

    async def _follow_config(self) -> None:
        settings = self._settings
        files = [settings.experiments, *([settings.fleet] if settings.fleet else [])]
        mark = await asyncio.to_thread(file_states, files)
        if mark == self._config_mark:
            return
        self._config_mark = mark
        try:
            config = await asyncio.to_thread(load, settings.experiments, settings.fleet)
        except ConfigErrors as error:
            self._update(config_errors=tuple(str(one) for one in error.errors))
        else:
            self._update(config=config, config_errors=())

    async def _analyse(self, mark: FileStates, config: Config) -> None:
        settings = self._settings
        began_at, self._began = self._now(), self._clock()
        task = AnalysisTask(
            logs=settings.logs,
            config=config,
            registry=settings.registry,
            memory_limit_bytes=settings.memory_limit_bytes,
        )
        try:
            answer = await self._analyst.ask(task)
        finally:
            self._pacing.end()
            self._began = None
        self._pacing.count(failed=isinstance(answer, AnalysisFailed) and not answer.expected)
        if isinstance(answer, AnalysisDone):
            self._analysed = (mark, config)
            self._update(report=answer.report, current_at=began_at, seconds=answer.seconds, problem=None)
            return
        if answer.reason != self.status.problem:
            log.warning("no report", reason=answer.reason)
        self._analysed = (mark, config) if answer.expected else None
        self._update(problem=answer.reason)

    def _update(self, **news: object) -> None:
        self.status = replace(self.status, number=self.status.number + 1, **news)  # type: ignore[arg-type]


def pause_seconds(*, refresh: float, took: float, watched: bool) -> float:
    """How long after one analysis the next one may begin."""
    return max(refresh, took, 0.0 if watched else UNWATCHED_SECONDS)
