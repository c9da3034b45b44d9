"""The lines of what was done: written and put on disk before the file is touched, so that a kill leaves no riddle.

`action` says what is about to be done, `action_done` that it is; one that is not done yet is finished by whoever comes
next. In between, `action_retried` says that the file was another one meanwhile, and `action_applied` that the command
has taken the new file. Files are `actions-HOST-START-PID.jsonl`, JSON lines as those of the decision log.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import orjson
from abfleet_experiments.config import time_text
from abfleet_log.files import WriterIdentity
from abfleet_log.schema import SCHEMA
from abfleet_log.tools.read_lines import ACTIONS_PREFIX, parsed

from abfleet_autopilot.acts import Action, IntendedAction

ACTION, RETRIED, APPLIED, DONE = "action", "action_retried", "action_applied", "action_done"
OUTCOMES: Final = ("edited", "applied", "found", "given_up")
"""How an action came to its end: by an edit, by the command, found done by another, or overtaken by a person's edit."""


@dataclass(slots=True)
class Written:
    """An action as the files have it. Changed only while they are read, and by `now_is`.

    Attributes:
        read_hash, written_hash: SHA-256 of the experiments file before and after, in hex.
        applied: When the command last took it. outcome: Empty while it is not done.
    """

    id: str
    at: datetime
    act: IntendedAction
    revision_before: str
    revision_after: str
    read_hash: str
    written_hash: str
    applied: list[datetime] = field(default_factory=list)
    outcome: str = ""

    def now_is(self, read_hash: str, written_hash: str, revision_after: str) -> None:
        """It is made from another text than at first."""
        self.read_hash, self.written_hash, self.revision_after = read_hash, written_hash, revision_after


class ActionLog:
    """The folder of actions. `write` makes a file at the first line and puts each line on disk."""

    def __init__(self, folder: Path, identity: WriterIdentity) -> None:
        self._folder = folder
        self._identity = identity
        self._path: Path | None = None  # changed only by `write`

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self._folder

    def write(self, event: str, at: datetime, members: Mapping[str, Any]) -> None:
        """Appends a line and waits until it is on disk. Raises OSError."""
        line = orjson.dumps({"schema": SCHEMA, "event": event, "ts": _ts(at), **members}) + b"\n"
        new = self._path is None
        if self._path is None:
            name = self._identity.name(at.timestamp()).partition("-")[2]
            self._path = self._folder / f"{ACTIONS_PREFIX}{name}"
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            os.write(file, line)
            os.fsync(file)
        finally:
            os.close(file)
        if new:
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def read_actions(folder: Path) -> list[Written]:
    """All actions of a folder in order of time, with what became of them. A torn line is none. Raises OSError."""
    found: dict[str, Written] = {}
    later: list[Mapping[str, Any]] = []
    for line in _lines(folder):
        if line.get("event") == ACTION:
            written = _written(line)
            if written is not None:
                found.setdefault(written.id, written)
        elif line.get("event") in (RETRIED, APPLIED, DONE):
            later.append(line)
    for line in later:
        written = found.get(str(line.get("id")))
        if written is None:
            continue
        if line["event"] == DONE:
            written.outcome = str(line.get("outcome") or "edited")
        elif line["event"] == RETRIED:
            written.now_is(line["read_sha256"], line["written_sha256"], line["revision_after"])
        else:
            written.applied.append(_time(str(line["ts"])))
    return sorted(found.values(), key=lambda one: (one.at, one.id))


def _lines(folder: Path) -> Iterator[Mapping[str, Any]]:
    for path in sorted(folder.glob(f"{ACTIONS_PREFIX}*.jsonl")):
        for raw in path.read_bytes().split(b"\n"):
            line = parsed(raw)
            if line is not None:
                yield line


def _written(line: Mapping[str, Any]) -> Written | None:
    try:
        traffic = line.get("traffic")
        act = IntendedAction(
            Action(line["action"]),
            line["experiment"],
            line["group"],
            int(line["as_of_us"]),
            tuple(line["reasons"]),
            line["figures"],
            None if traffic is None else round(100 * traffic),
        )
        hashes = line["read_sha256"], line["written_sha256"]
        return Written(line["id"], _time(line["ts"]), act, line["revision_before"], line["revision_after"], *hashes)
    except (KeyError, TypeError, ValueError):
        return None


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _ts(at: datetime) -> str:
    text = time_text(at)
    return text if "." in text else f"{text[:-1]}.000000Z"
