"""Watches the experiments and fleet files: reads, checks, waits for workers, swaps the snapshot.

A wrong file never replaces a good one. A configuration comes into force whole, once every version that it adds has a
worker that serves; versions that are in force already never hold it up, so halting and ramping down go through.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog
from abfleet_experiments.config import Config
from abfleet_experiments.file.errors import ConfigErrors
from abfleet_experiments.file.load import load
from abfleet_experiments.movement import movement
from abfleet_log.writer.decision_log import DecisionLog

from abfleet_router.configuration.change_lines import ChangeLines
from abfleet_router.configuration.changed_files import ChangedFiles
from abfleet_router.configuration.item_kinds import ItemKinds
from abfleet_router.configuration.snapshot import Snapshot, make_snapshot
from abfleet_router.fleet.fleet import Fleet
from abfleet_router.metrics import RouterMetrics

log = structlog.get_logger("abfleet.router.reload")


@dataclass(slots=True)
class ReloadState:
    """What status shows; changed only by Reloader."""

    errors: tuple[str, ...] = ()
    """Why the file on disk is not in force: its mistakes, the versions it waits for, or item ids that differ."""
    differing: tuple[str, ...] = ()
    """How the item ids of versions differ that are in force."""
    seen_revision: str | None = None
    """Of the newest file that could be read."""


class Reloader:
    """Runs on the event loop; reading and checking a file run in a thread."""

    def __init__(
        self,
        experiments: Path,
        fleet_file: Path | None,
        fleet: Fleet,
        metrics: RouterMetrics,
        decision_log: DecisionLog,
        use: Callable[[Snapshot], None],
        *,
        router: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        settle_polls: int = 0,
    ) -> None:
        """`settle_polls`: polls without a further change before a changed file is read, so that a save that is not
        atomic is not read half."""
        self.state = ReloadState()
        self._experiments = experiments
        self._fleet_file = fleet_file
        self._fleet = fleet
        self._metrics = metrics
        self._lines = ChangeLines(decision_log, router)
        self._use = use
        self._router = router
        self._now = now
        self._current: Snapshot | None = None
        self._candidate: Config | None = None
        self._kinds = ItemKinds()
        self._files = ChangedFiles([path for path in (experiments, fleet_file) if path is not None], settle_polls)
        self._one_at_a_time = asyncio.Lock()

    @property
    def _at(self) -> float:
        return self._now().timestamp()

    @property
    def _revision(self) -> str | None:
        return self._current.revision if self._current else None

    async def start(self) -> None:
        """Reads the files for the first time and begins to connect. Raises ConfigErrors."""
        self._files.poll(force=True)
        self._stage(await asyncio.to_thread(load, self._experiments, self._fleet_file))

    async def follow(self, interval_seconds: float) -> None:
        """Polls for changes until it is cancelled; an error in one poll does not end it."""
        while True:
            try:
                await self.poll()
            except Exception:  # an error here must not end the polling
                log.exception("the poll for a new configuration failed")
            await asyncio.sleep(interval_seconds)

    async def poll(self, *, force: bool = False) -> None:
        """One poll: of the files, of a configuration that waits, and of the clock."""
        async with self._one_at_a_time:
            if self._files.poll(force=force):
                await self._read()
            if self._candidate is not None:
                await self._activate_if_ready(self._candidate)
            if self._current is not None:
                due = self._current.assigner.next_change
                if due is not None and due <= self._now():
                    # A row of the running configuration, whatever the file says by now: a newer one that is wrong or
                    # waits for its workers must not hold up a ramp down.
                    await self._put_in_force(self._current.config)
                if self._candidate is None:
                    await self._watch_kinds(self._current.config)

    async def _read(self) -> None:
        try:
            config = await asyncio.to_thread(load, self._experiments, self._fleet_file)
        except ConfigErrors as error:
            self._refuse([str(one) for one in error.errors])
            return
        self.state.seen_revision = config.revision
        current = self._current
        if current is not None and (config.revision, config.models) == (current.revision, current.config.models):
            self.state.errors = ()
            self._candidate = None
            self._fleet.keep_only(current.config.models)
            return
        self._stage(config)

    def _refuse(self, errors: Sequence[str]) -> None:
        self.state.errors = tuple(errors)
        self._metrics.reload_failures += 1
        if self._current is not None and self._candidate is not None:
            # What waited is not in the file any more.
            self._candidate = None
            self._fleet.keep_only(self._current.config.models)
        log.error("configuration was refused", errors=errors)
        self._lines.reload(self._revision, None, at=self._at, active=False, errors=errors)

    def _stage(self, config: Config) -> None:
        """Connects to the versions that have no traffic yet; those that have keep their targets until it is in force.

        Not only to versions that are new to the file: one that was named before, without traffic, may have had no
        worker at its old targets, and this configuration would wait for it there for ever.
        """
        self.state.seen_revision = config.revision
        in_use = self._current.config.versions_in_use(self._now()) if self._current else frozenset()
        self._fleet.follow({v: model for v, model in config.models.items() if v not in in_use})
        self._kinds.forget()
        self._candidate = config

    def _missing(self, config: Config) -> list[str]:
        """Versions for which the configuration must wait: it needs them, and no replica of theirs may get calls."""
        now = self._now()
        if self._current is None:
            needed = {config.default}
        else:
            needed = set(config.versions_in_use(now)) - self._current.config.versions_in_use(now)
        return sorted(version for version in needed if not self._fleet.pools[version].available)

    async def _activate_if_ready(self, config: Config) -> None:
        if missing := self._missing(config):
            self._hold(config, f"waits for a worker that serves {', '.join(missing)}")
        elif difference := await self._kinds.find_difference(
            config, self._fleet.pools, before=self._current.config if self._current else None
        ):
            self._hold(config, f"is not in force: {difference}")
        else:
            await self._activate(config)

    def _hold(self, config: Config, why: str) -> None:
        """Keeps a configuration out of force for now."""
        reasons = (f"revision {config.revision} {why}",)
        if reasons != self.state.errors:
            self.state.errors = reasons
            log.warning("configuration is held back", revision=config.revision, reason=why)
            if self._current is not None:
                self._lines.reload(self._revision, config.revision, at=self._at, active=False, errors=reasons)

    async def _watch_kinds(self, config: Config) -> None:
        """Looks at versions in force whose workers came later: nothing is undone, and status says what is wrong."""
        difference = await self._kinds.find_difference(config, self._fleet.pools)
        found = () if difference is None else (difference,)
        if found and found != self.state.differing:
            log.error("versions in force have different item ids", reason=difference)
        self.state.differing = found

    async def _activate(self, config: Config) -> None:
        self._fleet.follow(config.models)
        self._candidate = None
        self.state.errors = ()
        await self._put_in_force(config)
        self._fleet.keep_only(config.models)

    async def _put_in_force(self, config: Config) -> None:
        """Compiles a configuration for this instant, swaps it in, and says so in the log."""
        previous, now = self._current, self._now()
        snapshot = make_snapshot(
            config,
            self._fleet.pools,
            self._metrics,
            router=self._router,
            generation=previous.generation + 1 if previous else 1,
            at=now,
        )
        self._use(snapshot)
        self._current = snapshot
        self._metrics.reloads += 1
        log.info("configuration is in force", revision=snapshot.revision, generation=snapshot.generation)
        moving = None
        if previous is not None:  # counted in a thread, after the swap: it may take longer than a call can wait
            moving = await asyncio.to_thread(movement, previous.config, previous.activated, config, now)
        self._lines.allocations(snapshot, moving)
        if previous is None or previous.revision != snapshot.revision:
            self._lines.conclusions(snapshot)
        if previous and moving and (previous.revision, previous.config.models) != (config.revision, config.models):
            moved = float(moving.moved)
            self._lines.reload(previous.revision, config.revision, at=self._at, active=True, moved=moved)
