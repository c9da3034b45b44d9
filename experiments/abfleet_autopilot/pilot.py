"""The autopilot at work: follows log and file, asks the core, and acts. Does IO by its parts; one thread calls it."""

import hashlib
import os
import socket
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import structlog
from abfleet_experiments.config import Config
from abfleet_experiments.file.errors import ConfigErrors
from abfleet_experiments.file.load import load
from abfleet_log.files import WriterIdentity
from abfleet_log.tools.actions import RecordedAction
from abfleet_process.file_state import file_state

from abfleet_autopilot.acting.action_log import ActionLog
from abfleet_autopilot.acting.actor import Actor, CannotAct, Made
from abfleet_autopilot.acts import Action, IntendedAction
from abfleet_autopilot.core import Core
from abfleet_autopilot.deciding import Decided
from abfleet_autopilot.following.log_feed import LogFeed
from abfleet_autopilot.lines import SECOND_US
from abfleet_autopilot.ordering import PATIENCE_US
from abfleet_autopilot.reporting import Reporter
from abfleet_autopilot.settings import AutopilotSettings
from abfleet_autopilot.telling import StateFile

PENDING_SECONDS: Final = 1.0
"""Between looks whether an act that was begun is in force by now."""
WORDS_SECONDS: Final = 60.0
"""Between two lines of the operational log about what an experiment waits for."""
MOST_ACTS: Final = 100
"""In one round; a file has no more treatments that could all be halted at once."""


class Pilot:
    """Follows and acts. `begin` first, then `round` again and again. Changed only by these.

    Attributes:
        made: Acts by experiment, action and outcome. failures: Acts that could not be made, each try.
        decided: What the last round came to, by experiment.
    """

    def __init__(
        self,
        settings: AutopilotSettings,
        wall: Callable[[], float],
        *,
        say: Callable[[str], None] = lambda words: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """wall: Seconds since 1970. say: Takes a sentence for each act. stopping: Whether a replay is to be left."""
        self.made: Counter[tuple[str, str, str]] = Counter()
        self.failures = 0
        self.decided: dict[str, Decided] = {}
        self._settings = settings
        self._wall = wall
        self._say = say
        self._stopping = stopping
        self._log = structlog.get_logger("abfleet.autopilot")
        self._seen: object = None
        self._problem: str | None = None
        self.core = Core(self._load(), routers=settings.routers)
        self.feed = LogFeed(settings.logs)
        self._reporter = Reporter(settings.logs, settings.memory_limit_bytes, wall)
        identity = WriterIdentity(socket.gethostname(), os.getpid())
        by = f"autopilot {identity.host} {identity.process}"
        self._state_file = None if settings.once or settings.dry_run else StateFile(settings.actions, by)
        self._actor = Actor(
            settings.experiments,
            ActionLog(settings.actions, identity),
            by=by,
            apply_command=settings.apply_command,
            in_force=lambda revision, since: self.core.was_in_force(revision, since),
        )
        self._pending = True
        self._looked = 0.0
        self._told: dict[str, tuple[float, tuple[str, ...]]] = {}
        self._dry: set[str] = set()

    def close(self) -> None:
        """Ends what runs beside it."""
        self._reporter.close()

    # --- rounds -------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Replays the log. Raises ConfigErrors."""
        for written in self._actor.actions():
            self._remember(written)
        now = self._now_us()
        take = self.core.take
        for number, line in enumerate(self.feed.replay(now)):
            take(line)
            if not number % 10_000 and self._stopping():
                return
        if self._settings.once:
            for line in self.feed.rest():
                self.core.take(line)
        self.core.tick(self.core.newest if self._settings.once else now - PATIENCE_US)

    def round(self) -> None:
        """What has come since the last one, and what that asks for."""
        self._follow_file()
        if not self._settings.once:
            now = self._now_us()
            for line in self.feed.poll(now):
                self.core.take(line)
            self.core.tick(now - PATIENCE_US)
        self._take_report()
        made = self.made.total()
        for _ in range(MOST_ACTS):
            self.decided = self.core.decided(self._now(), self._faults())
            if not self._act([act for one in self.decided.values() for act in one.acts]):
                break
        self._finish()
        self._ask_for_reports()
        self._tell_holds()
        if self._state_file is not None:
            self._state_file.tell(self._wall(), self.core, self.decided, at_once=self.made.total() > made)

    def once(self) -> None:
        """Everything that the log asks for now, with reports where these are needed."""
        self.begin()
        for _ in range(MOST_ACTS):
            before = sum(self.made.values())
            self.round()
            if self._reporter.running:
                self._take_report(wait=True)
            elif sum(self.made.values()) == before:
                return

    # --- the file -----------------------------------------------------------------------------------------------------

    def _load(self) -> Config:
        self._seen = self._state()
        return load(self._settings.experiments, self._settings.fleet)

    def _state(self) -> object:
        paths = [self._settings.experiments, *([self._settings.fleet] if self._settings.fleet else [])]
        return [file_state(path) for path in paths]

    def _follow_file(self) -> None:
        if self._state() == self._seen:
            return
        try:
            config = self._load()
        except ConfigErrors as error:
            self._problem = f"the experiments file has mistakes: {str(error).splitlines()[0][:200]}"
            self._log.warning("the experiments file has mistakes; the old configuration stays", error=str(error))
            return
        self._problem = None
        if self.core.follows(config):
            self.core.set_config(config, self._now_us())
        else:
            self._log.info("what is watched has changed; the log is read again")
            self.core = Core(config, routers=self._settings.routers)
            self.feed = LogFeed(self._settings.logs)
            self.begin()

    # --- acts ---------------------------------------------------------------------------------------------------------

    def _act(self, acts: list[IntendedAction]) -> bool:
        """Makes the first of these; whether another one may follow at once."""
        for act in acts:
            if self._settings.dry_run:
                self._tell_dry(act)
                continue
            try:
                made = self._actor.act(act, self._now())
            except (CannotAct, OSError) as error:
                self._failed(error)
                continue
            if made is not None:
                self._done(made)
                return True
            self._pending = True
        return False

    def _finish(self) -> None:
        """What was begun and is not done, of whichever autopilot: after a kill, or while a command takes its time."""
        if self._settings.dry_run or not self._pending or self._wall() - self._looked < PENDING_SECONDS:
            return
        self._looked = self._wall()
        try:
            for made in self._actor.finish(self._now()):
                self._done(made)
            self._pending = any(not written.outcome for written in self._actor.actions())
        except (CannotAct, OSError) as error:
            self._failed(error)

    def _done(self, made: Made) -> None:
        act = made.act
        self.made[act.experiment, act.action, made.outcome] += 1
        self._log.info(
            "acted",
            experiment=act.experiment,
            group=act.group,
            action=str(act.action),
            outcome=made.outcome,
            reasons=list(act.reasons),
            id=made.id,
        )
        self._say(act.sentence())
        if act.action is Action.HALT and act.group is not None and made.outcome != "given_up":
            self.core.forget(act.experiment, act.group, _us(made.at))
        self._follow_file()

    def _remember(self, written: RecordedAction) -> None:
        halted = written.action == Action.HALT and written.outcome not in ("", "given_up")
        if halted and written.group is not None:
            self.core.forget(written.experiment, written.group, _us(written.at))

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        self._log.error("an act could not be made; it is tried again", error=str(error))

    def _tell_dry(self, act: IntendedAction) -> None:
        key = hashlib.sha256(f"{act.action}{act.experiment}{act.group}{act.traffic_bp}".encode()).hexdigest()
        if key not in self._dry:
            self._dry.add(key)
            self._say(f"would {act.sentence()}")

    # --- reports and words --------------------------------------------------------------------------------------------

    def _take_report(self, *, wait: bool = False) -> None:
        made = self._reporter.ready(wait=wait)
        if made is not None:
            self.core.set_report(*made)

    def _ask_for_reports(self) -> None:
        for name, decided in self.decided.items():
            if decided.report_wanted:
                self._reporter.ask(self.core.config, name, self.core.newest)

    def _faults(self) -> list[str]:
        return [*self.feed.faults(), *([self._problem] if self._problem else [])]

    def _tell_holds(self) -> None:
        now = self._wall()
        for name, decided in self.decided.items():
            last, words = self._told.get(name, (0.0, ()))
            if decided.holds != words and now - last >= WORDS_SECONDS:
                self._told[name] = now, decided.holds
                self._log.info("holding", experiment=name, why=list(decided.holds))

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._wall(), UTC)

    def _now_us(self) -> int:
        return int(self._wall() * SECOND_US)


def _us(at: datetime) -> int:
    return int(at.timestamp() * SECOND_US)
