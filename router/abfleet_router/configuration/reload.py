"""Watches the experiments and fleet files: reads, checks, waits for workers, swaps the snapshot.

A wrong file never replaces a good one. A configuration comes into force whole, once every version that it adds has a
worker that serves; versions that are in force already never hold it up, so halting and ramping down go through.
"""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog
from abfleet_experiments.config import Config
from abfleet_experiments.file.errors import ConfigErrors
from abfleet_experiments.file.load import load
from abfleet_experiments.movement import Movement, movement
from abfleet_log.lines import event, timestamp
from abfleet_log.writer.decision_log import DecisionLog
from abfleet_process.file_state import file_state

from abfleet_router.configuration.snapshot import Snapshot, make_snapshot
from abfleet_router.fleet.fleet import Fleet
from abfleet_router.metrics import RouterMetrics

log = structlog.get_logger("abfleet.router.reload")

CONTENT_EVERY = 20
"""Polls between two readings of the whole content, for file systems where a change may leave times and sizes alike."""


@dataclass(slots=True)
class ReloadState:
    """What status shows; changed only by Reloader."""

    errors: tuple[str, ...] = ()
    """Why the file on disk is not in force: its mistakes, or the versions it waits for."""
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
        self._log = decision_log
        self._use = use
        self._router = router
        self._now = now
        self._current: Snapshot | None = None
        self._candidate: Config | None = None
        self._polls = 0
        self._settle_polls = settle_polls
        self._settling = 0
        self._unread = False
        self._numbers: object = None  # of the files when their content was last read: times, sizes, inodes
        self._contents: object = None  # digests of it
        self._one_at_a_time = asyncio.Lock()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are polled: the experiments file and, if there is one, the fleet file."""
        return (self._experiments, self._fleet_file) if self._fleet_file else (self._experiments,)

    @property
    def _revision(self) -> str | None:
        return self._current.revision if self._current else None

    async def start(self) -> None:
        """Reads the files for the first time and begins to connect. Raises ConfigErrors."""
        self._changed(read_content=True)
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
            self._polls += 1
            if self._changed(read_content=force or self._polls % CONTENT_EVERY == 0):
                self._settling = self._settle_polls
                self._unread = True
            elif self._settling:
                self._settling -= 1
            if force or (self._unread and not self._settling):
                self._unread, self._settling = False, 0
                await self._read()
            if self._candidate is not None:
                await self._activate_if_ready(self._candidate)
            if self._current is not None:
                due = self._current.assigner.next_change
                if due is not None and due <= self._now():
                    # A row of the running configuration, whatever the file says by now: a newer one that is wrong or
                    # waits for its workers must not hold up a ramp down.
                    await self._put_in_force(self._current.config)

    def _changed(self, *, read_content: bool) -> bool:
        """Whether the files' content is another than it was; it is read when asked or when their numbers differ."""
        numbers = tuple(file_state(path) for path in self.files)
        if not read_content and numbers == self._numbers:
            return False
        contents = tuple(_digest_of(path) for path in self.files)
        changed = contents != self._contents
        self._numbers, self._contents = numbers, contents
        return changed

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
        self._write_reload(self._revision, None, active=False, moved=None, errors=errors)

    def _stage(self, config: Config) -> None:
        """Connects to the versions that have no traffic yet; those that have keep their targets until it is in force.

        Not only to versions that are new to the file: one that was named before, without traffic, may have had no
        worker at its old targets, and this configuration would wait for it there for ever.
        """
        self.state.seen_revision = config.revision
        in_use = self._current.config.versions_in_use(self._now()) if self._current else frozenset()
        self._fleet.follow({v: model.target for v, model in config.models.items() if v not in in_use})
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
            waits = (f"revision {config.revision} waits for a worker that serves {', '.join(missing)}",)
            if waits != self.state.errors:
                self.state.errors = waits
                log.warning("configuration waits for workers", revision=config.revision, versions=missing)
                if self._current is not None:
                    self._write_reload(self._revision, config.revision, active=False, moved=None, errors=waits)
            return
        await self._activate(config)

    async def _activate(self, config: Config) -> None:
        self._fleet.follow({version: model.target for version, model in config.models.items()})
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
        self._write_allocations(snapshot, moving)
        if previous is None or previous.revision != snapshot.revision:
            self._write_conclusions(snapshot)
        if previous and moving and (previous.revision, previous.config.models) != (config.revision, config.models):
            moved = float(moving.moved)
            self._write_reload(previous.revision, config.revision, active=True, moved=moved, errors=())

    def _write_allocations(self, snapshot: Snapshot, moving: Movement | None) -> None:
        for allocation in snapshot.assigner.allocations:
            members = {
                "router": self._router,
                "config_revision": snapshot.revision,
                "experiment": allocation.experiment,
                "salt": allocation.salt,
                "allocation": allocation.allocation,
                "traffic": allocation.traffic,
                "weights": dict(allocation.weights),
                "moved": None if moving is None else moved_in(moving, allocation.experiment),
            }
            self._log.append(event("allocation", snapshot.activated.timestamp(), members))

    def _write_conclusions(self, snapshot: Snapshot) -> None:
        for one in snapshot.config.concluded:
            members = {
                "router": self._router,
                "config_revision": snapshot.revision,
                "experiment": one.experiment,
                "winner": one.winner,
                "concluded_at": timestamp(one.at.timestamp()).decode(),
            }
            self._log.append(event("conclusion", snapshot.activated.timestamp(), members))

    def _write_reload(
        self,
        old_revision: str | None,
        new_revision: str | None,
        *,
        active: bool,
        moved: float | None,
        errors: Sequence[str],
    ) -> None:
        members = {
            "router": self._router,
            "old_revision": old_revision,
            "new_revision": new_revision,
            "active": active,
            "moved": moved,
            "errors": list(errors),
        }
        self._log.append(event("reload", self._now().timestamp(), members))


def moved_in(moving: Movement, experiment: str) -> float:
    """The share of all users, 0 to 1, who enter an experiment, leave it or change their group in it."""
    flows = (flow for flow in moving.flows if experiment in (flow.before.experiment, flow.after.experiment))
    return float(sum(flow.share for flow in flows if flow.before[:2] != flow.after[:2]))


def _digest_of(path: Path) -> bytes | int | None:
    """Of the file's content; the error number where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        return error.errno
