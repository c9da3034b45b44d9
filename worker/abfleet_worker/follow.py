"""Follows an alias: notices that it points to another version, loads that version, and hands it over.

Whatever goes wrong with the new version, the one that serves goes on serving.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import structlog
from abfleet_models.registry import Registry, RegistryError

from abfleet_worker.errors import ModelLoadError
from abfleet_worker.metrics import FollowerCounters
from abfleet_worker.model import OnnxModel

log = structlog.get_logger("abfleet.worker.follow")

FIRST_RETRY_SECONDS, MOST_RETRY_SECONDS = 1.0, 60.0
"""A version that does not load is tried again, because its files may still be on their way; not at every poll, because
each try reads and hashes the whole file."""


class Follower:
    """Polls the alias. State is changed only on the event loop; loading runs on a thread."""

    def __init__(
        self,
        registry: Path,
        alias: str,
        *,
        serving: Callable[[], str],
        load: Callable[[str], OnnxModel],
        change: Callable[[OnnxModel], Awaitable[None]],
        counts: FollowerCounters,
        interval_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`serving` gives the version that serves, `load` opens a version, `change` lets it serve."""
        self._registry = Registry(registry)
        self._alias = alias
        self._serving = serving
        self._load = load
        self._change = change
        self._counts = counts
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._asked = asyncio.Event()
        self._problem = ""
        self._retry_at = 0.0
        self._retry_seconds = FIRST_RETRY_SECONDS
        self._failed = ""

    def ask(self) -> None:
        """Polls now, and tries again what has failed."""
        self._asked.set()

    async def run(self) -> None:
        """Polls every `interval_seconds`, and when asked, until it is cancelled."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._asked.wait(), self._interval_seconds or None)
            asked = self._asked.is_set()
            self._asked.clear()
            await self.poll(retry=asked)

    async def poll(self, *, retry: bool) -> None:
        """Polls once where the alias leads, and changes to that version; `retry`: also to one that has just failed."""
        try:
            wanted = (await asyncio.to_thread(self._registry.resolve, self._alias)).version
        except (RegistryError, OSError) as error:
            self._report(str(error))
            return
        self._counts.behind = wanted != self._serving()
        if not self._counts.behind:
            self._problem = self._failed = ""
            return
        if wanted != self._failed:
            self._retry_seconds = FIRST_RETRY_SECONDS
        elif not retry and self._clock() < self._retry_at:
            return
        try:
            # By its own name: should the alias move meanwhile, the next poll sees it.
            model = await asyncio.to_thread(self._load, wanted)
        except Exception as error:  # noqa: BLE001 - whatever it is: the version that serves must not be lost to it
            self._failed = wanted
            self._retry_at = self._clock() + self._retry_seconds
            self._retry_seconds = min(MOST_RETRY_SECONDS, 2 * self._retry_seconds)
            self._counts.failures += 1
            self._report(str(error) if isinstance(error, ModelLoadError) else repr(error)[:300])
            return
        was = self._serving()
        await self._change(model)
        self._counts.changes += 1
        self._counts.behind = False
        self._problem = self._failed = ""
        log.info(
            "model changed",
            alias=self._alias,
            was=was,
            version=model.version,
            sha256=model.sha256[:12],
            seconds=round(model.load_seconds, 3),
        )

    def _report(self, problem: str) -> None:
        """Logs a problem once, not at every poll."""
        if problem != self._problem:
            self._problem = problem
            log.error("cannot follow the alias", alias=self._alias, serving=self._serving(), error=problem)
