"""The lines of what was done: written and put on disk before the file is touched, so that a kill leaves no riddle.

`action` says what is about to be done, `action_done` that it is; one that is not done yet is finished by whoever comes
next. In between, `action_retried` says that the file was another one meanwhile, and `action_applied` that the command
has taken the new file. Files are `actions-HOST-START-PID.jsonl`, JSON lines as those of the decision log.
"""

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
from abfleet_experiments.config import time_text
from abfleet_log.files import WriterIdentity
from abfleet_log.schema import SCHEMA
from abfleet_log.tools.actions import RecordedAction
from abfleet_log.tools.read_lines import ACTIONS_PREFIX

from abfleet_autopilot.acts import Action, IntendedAction


def act_of(recorded: RecordedAction) -> IntendedAction:
    """What was to be done by an action that is written down."""
    return IntendedAction(
        Action(recorded.action),
        recorded.experiment,
        recorded.group,
        recorded.as_of_us,
        tuple(recorded.reasons),
        recorded.figures,
        None if recorded.traffic is None else round(100 * recorded.traffic),
    )


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


def _ts(at: datetime) -> str:
    text = time_text(at)
    return text if "." in text else f"{text[:-1]}.000000Z"
