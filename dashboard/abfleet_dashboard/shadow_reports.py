"""Keeps the newest comparison of answers in the shadow, while somebody looks at it.

Its page alone needs it, and it reads the whole log: so it is made only while that page is asked for, in the process
that makes the reports, and never sooner after the last one than that one took.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Protocol

import structlog
from abfleet_analysis.shadow.compare import ShadowReport
from abfleet_log.tools.actions import STATE_FILE
from abfleet_process.file_state import FileStates, file_states

from abfleet_dashboard.pacing import Pacing
from abfleet_dashboard.settings import DashboardSettings
from abfleet_dashboard.tasks import AnalysisFailed, ShadowDone, ShadowTask
from abfleet_dashboard.visits import Visits

log = structlog.get_logger("abfleet.dashboard")

POLL_SECONDS: Final = 0.5
UNWATCHED_SECONDS: Final = 3600.0


class Comparisons(Protocol):
    """The interface of the process that compares."""

    async def compare(self, task: ShadowTask) -> ShadowDone | AnalysisFailed:
        """The comparisons, or why there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowStatus:
    """The newest comparisons.

    Attributes:
        number: One more with each change. made_at: When these were begun, UTC. seconds: What they took.
        problem: Why the newest attempt failed.
    """

    number: int = 0
    report: ShadowReport | None = None
    made_at: datetime | None = None
    seconds: float = 0.0
    problem: str | None = None


class ShadowKeeper:
    """Changed only by `keep` and `poll`, on the event loop. visits: Of the page that shows it."""

    def __init__(
        self,
        settings: DashboardSettings,
        analyst: Comparisons,
        visits: Visits,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._analyst = analyst
        self._visits = visits
        self._now = now
        self.status = ShadowStatus()
        self._compared: FileStates | None = None
        self._pacing = Pacing(clock)

    async def keep(self) -> None:
        """Polls while the page is looked at, until it is cancelled."""
        while True:
            if self._visits.watched:
                await self.poll()
            watched = self._visits.watched
            await self._visits.pause(
                min(self._settings.refresh_seconds, POLL_SECONDS) if watched else UNWATCHED_SECONDS
            )

    async def poll(self) -> None:
        """Compares anew if the log has changed and it is time."""
        settings = self._settings
        mark = await asyncio.to_thread(file_states, settings.logs, without=(STATE_FILE,))
        if mark == self._compared or not self._pacing.due(max(settings.refresh_seconds, self.status.seconds)):
            return
        began_at = self._now()
        task = ShadowTask(logs=settings.logs, memory_limit_bytes=settings.memory_limit_bytes)
        try:
            answer = await self._analyst.compare(task)
        finally:
            self._pacing.end()
        status, number = self.status, self.status.number + 1
        self._pacing.count(failed=isinstance(answer, AnalysisFailed) and not answer.expected)
        if isinstance(answer, ShadowDone):
            self._compared = mark
            self.status = ShadowStatus(
                number=number, report=answer.report, made_at=began_at, seconds=answer.seconds, problem=None
            )
            return
        if answer.reason != status.problem:
            log.warning("no comparison of shadow calls", reason=answer.reason)
        self._compared = mark if answer.expected else None
        self.status = replace(status, number=number, problem=answer.reason)
