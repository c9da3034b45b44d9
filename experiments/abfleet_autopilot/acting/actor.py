"""Makes acts happen, once. One that was begun is finished, or found done, whenever this process was killed.

All of it happens under a lock of the actions' folder, so that of two autopilots one acts, and the other finds it done:

1. the file is read and the change is made in its text;
2. the action is written down and put on disk, with the hashes of both texts;
3. the names of the new file and of the old one are exchanged, and what came out is compared with what was read;
4. that it is done is written down.
"""

import fcntl
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import structlog
from abfleet_experiments.change import ChangeError
from abfleet_experiments.config import Config
from abfleet_experiments.file.errors import ConfigErrors
from abfleet_experiments.file.load import load_text
from abfleet_experiments.file.rewrite import RewriteError, rewrite
from abfleet_log.tools.actions import ACTION, APPLIED, DONE, RETRIED, RecordedAction, read_actions
from abfleet_process.atomic_file import FileChanged, exchange, replace_unchanged
from abfleet_process.backoff import backoff_seconds

from abfleet_autopilot.acting.action_log import ActionLog, act_of
from abfleet_autopilot.acting.applying import (
    FIRST_FAILED_SECONDS,
    FIRST_RETRY_SECONDS,
    LONGEST_RETRY_SECONDS,
    NotApplied,
    apply,
)
from abfleet_autopilot.acting.edits import changed, is_done, shares_of
from abfleet_autopilot.acts import Action, IntendedAction

LOCK: Final = ".actions.lock"
TRIES: Final = 5
"""To edit a file that somebody else edits at the same time; the next round tries again."""


class CannotAct(Exception):
    """An act cannot be made now; the message is for people."""


@dataclass(frozen=True, slots=True)
class Made:
    """An act that has come to its end. at: When its action was written down."""

    act: IntendedAction
    id: str
    at: datetime
    outcome: str


class Actor:
    """Acts on one experiments file."""

    def __init__(
        self,
        file: Path,
        actions: ActionLog,
        *,
        by: str,
        apply_command: str | None = None,
        in_force: Callable[[str, datetime], bool] = lambda revision, since: False,
    ) -> None:
        """by: Who acts, for the action's line. in_force: Whether routers have put a revision in force since then."""
        self._file = file
        self._actions = actions
        self._by = by
        self._command = apply_command
        self._in_force = in_force
        self._command_failures = 0  # in a row; changed only by `_applied`, as is the next
        self._command_due: datetime | None = None
        self._log = structlog.get_logger("abfleet.autopilot")

    def actions(self) -> list[RecordedAction]:
        """All actions there are, of any autopilot."""
        return read_actions(self._actions.folder)

    def act(self, act: IntendedAction, now: datetime) -> Made | None:
        """Makes an act, unless it is done or under way. Raises CannotAct, and OSError."""
        with self._locked():
            for written in self.actions():
                under_way = written.experiment == act.experiment and not written.outcome
                if under_way and (written.action, written.group) == (act.action, act.group):
                    return self._finish(written, now)
            return self._make(act, now, None)

    def finish(self, now: datetime) -> list[Made]:
        """Finishes what was begun and is not done. Raises CannotAct, and OSError."""
        with self._locked():
            found = [self._finish(written, now) for written in self.actions() if not written.outcome]
        return [made for made in found if made is not None]

    # --- one act ------------------------------------------------------------------------------------------------------

    def _make(self, act: IntendedAction, now: datetime, written: RecordedAction | None) -> Made | None:
        """written: The action, where it is written down already."""
        for _ in range(TRIES):
            read = self._file.read_bytes()
            config = self._loaded(read)
            if is_done(config, act, now):
                return None if written is None else self._done(written, now, "applied" if written.applied else "found")
            try:
                # A second try is made as of the first one, so that what is applied twice is the same.
                new = changed(config, act, (now if written is None else written.at).replace(microsecond=0))
                text = rewrite(read.decode(), new).encode()
            except (ChangeError, KeyError) as error:
                return self._given_up(written, now, str(error))
            except RewriteError as error:
                raise CannotAct(f"{act.sentence()}: {error}") from error
            if written is None:
                written = self._write_down(act, now, config, new, read, text)
            elif (written.read_hash, written.written_hash) != (_hash(read), _hash(text)):
                self._note_retry(written, now, new.revision, read, text)
            if self._command is not None:
                return self._applied(written, now, text)
            try:
                replace_unchanged(self._target, read=read, content=text, fresh=self._fresh(written))
            except FileChanged:
                continue  # from what is there now
            return self._done(written, now, "edited")
        raise CannotAct(f"{act.sentence()}: {self._file} is being changed by somebody else; trying again")

    def _write_down(
        self, act: IntendedAction, now: datetime, before: Config, after: Config, read: bytes, text: bytes
    ) -> RecordedAction:
        hashes = _hash(read), _hash(text)
        parts = [act.action, act.experiment, act.group or "", str(act.as_of), before.revision, hashes[0]]
        identity = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
        at = max(now, now.replace(microsecond=0) + timedelta(seconds=1))
        members: dict[str, Any] = {
            "id": identity,
            "action": act.action,
            "experiment": act.experiment,
            "group": act.group,
            "traffic": None if act.traffic_bp is None else act.traffic_bp / 100,
            "before": shares_of(before, act, at),
            "after": shares_of(after, act, at),
            "reasons": list(act.reasons),
            "figures": dict(act.figures),
            "as_of": datetime.fromtimestamp(act.as_of / 1e6, UTC).isoformat(timespec="microseconds")[:26] + "Z",
            "as_of_us": act.as_of,
            "revision_before": before.revision,
            "revision_after": after.revision,
            "read_sha256": hashes[0],
            "written_sha256": hashes[1],
            "by": self._by,
        }
        self._actions.write(ACTION, now, members)
        return RecordedAction(
            identity,
            now,
            str(act.action),
            act.experiment,
            act.group,
            members["traffic"],
            act.as_of,
            act.reasons,
            act.figures,
            before.revision,
            after.revision,
            *hashes,
            by=self._by,
            before=members["before"],
            after=members["after"],
        )

    def _note_retry(self, written: RecordedAction, now: datetime, revision: str, read: bytes, text: bytes) -> None:
        written.now_is(_hash(read), _hash(text), revision)
        members = {
            "id": written.id,
            "revision_after": revision,
            "read_sha256": written.read_hash,
            "written_sha256": written.written_hash,
        }
        self._actions.write(RETRIED, now, members)

    def _finish(self, written: RecordedAction, now: datetime) -> Made | None:
        """An action that was begun, by whomever: what a kill has left is put in order first."""
        self._settle(written)
        if self._stands(written) or self._in_force(written.revision_after, written.at):
            return self._done(written, now, "applied" if written.applied else "found")
        anew = written.action == Action.HALT or self._command is not None or self._as_read(written)
        if not anew and not is_done(self._loaded(self._file.read_bytes()), act_of(written), now):
            # Somebody has edited the file since then: what they did not see coming does not come.
            return self._given_up(written, now, "the file was changed by somebody else before it could be done")
        return self._make(act_of(written), now, written)

    def _settle(self, written: RecordedAction) -> None:
        """After a kill around the exchange of names: nothing that somebody else wrote is lost."""
        fresh = self._fresh(written)
        fresh.with_name(f"{fresh.name}.partial").unlink(missing_ok=True)
        if not fresh.exists():
            return
        out = _hash(fresh.read_bytes())
        if self._stands(written) and out not in (written.read_hash, written.written_hash):
            exchange(fresh, self._target)  # an edit of the same moment had come out, and takes its name again
        elif out not in (written.read_hash, written.written_hash):
            kept = self._target.with_name(f"{self._target.name}.kept-{written.id}")
            fresh.replace(kept)
            self._log.error("an edit of the experiments file was overtaken by a newer one", path=str(kept))
            return
        fresh.unlink()

    def _applied(self, written: RecordedAction, now: datetime, text: bytes) -> Made | None:
        """Has the command take the file, unless it has taken it and routers still have time to show it."""
        if written.applied:
            wait = backoff_seconds(len(written.applied), first=FIRST_RETRY_SECONDS, most=LONGEST_RETRY_SECONDS)
            if (now - written.applied[-1]).total_seconds() < wait:
                return None
        if self._command_due is not None and now < self._command_due:
            return None
        assert self._command is not None
        try:
            apply(self._command, text, act_of(written).sentence())
        except NotApplied as error:
            self._command_failures += 1
            wait = backoff_seconds(self._command_failures, first=FIRST_FAILED_SECONDS, most=FIRST_RETRY_SECONDS)
            self._command_due = now + timedelta(seconds=wait)
            raise CannotAct(f"--apply-command: {error}; trying again in {wait:g} s") from error
        self._command_failures, self._command_due = 0, None
        self._actions.write(APPLIED, now, {"id": written.id})
        return None

    # --- parts --------------------------------------------------------------------------------------------------------

    def _done(self, written: RecordedAction, now: datetime, outcome: str) -> Made:
        self._actions.write(DONE, now, {"id": written.id, "outcome": outcome})
        return Made(act_of(written), written.id, written.at, outcome)

    def _given_up(self, written: RecordedAction | None, now: datetime, why: str) -> Made | None:
        self._log.warning("an act was given up", why=why)
        return None if written is None else self._done(written, now, "given_up")

    def _stands(self, written: RecordedAction) -> bool:
        """Whether the file is what the action made of it."""
        return _hash(self._file.read_bytes()) == written.written_hash

    def _as_read(self, written: RecordedAction) -> bool:
        return _hash(self._file.read_bytes()) == written.read_hash

    @property
    def _target(self) -> Path:
        return self._file.resolve()

    def _fresh(self, written: RecordedAction) -> Path:
        return self._target.with_name(f".{self._target.name}.{written.id}")

    def _loaded(self, read: bytes) -> Config:
        try:
            return load_text(read.decode(), name=str(self._file))
        except (ConfigErrors, UnicodeDecodeError) as error:
            raise CannotAct(f"{self._file} has mistakes, and nothing is changed in it: {error}") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._actions.folder.mkdir(parents=True, exist_ok=True)
        with (self._actions.folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
