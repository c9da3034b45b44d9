"""What the autopilot has done and waits for, from its files, read again when they have changed."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from abfleet_log.tools.actions import STATE_FILE, action_files, read_actions, read_state
from abfleet_process.file_state import FileStates, file_states

from abfleet_dashboard.situation import AutopilotFiles
from abfleet_dashboard.visits import Visits

UNWATCHED_SECONDS: Final = 30.0
"""Between polls while nobody watches."""


class AutopilotWatch:
    """The newest actions and the newest state. Changed only by `keep` and `poll`.

    Attributes:
        number: One more with each change.
    """

    def __init__(self, folders: Sequence[Path], refresh_seconds: float, visits: Visits) -> None:
        self._folders = folders
        self._refresh_seconds = refresh_seconds
        self._visits = visits
        self._seen: FileStates | None = None
        self.files = AutopilotFiles()
        self.number = 0

    async def keep(self) -> None:
        """Polls until it is cancelled, and at once when the first visitor comes."""
        while True:
            await self.poll()
            await self._visits.pause(self._refresh_seconds if self._visits.watched else UNWATCHED_SECONDS)

    async def poll(self) -> None:
        """Reads the files if they have changed."""
        seen = await asyncio.to_thread(_states, self._folders)
        if seen == self._seen:
            return
        found = await asyncio.to_thread(_read, self._folders)
        self._seen = seen
        if found != self.files:
            self.files = found
            self.number += 1


def _states(folders: Sequence[Path]) -> FileStates:
    return file_states(path for folder in folders for path in (*action_files(folder), folder / STATE_FILE))


def _read(folders: Sequence[Path]) -> AutopilotFiles:
    actions, states, problem = [], [], None
    for folder in folders:
        try:
            actions += read_actions(folder)
        except OSError as error:
            problem = f"{folder}: {error.strerror or error}"
        state = read_state(folder)
        if state is not None:
            states.append(state)
    newest = max(states, key=lambda one: one.at, default=None)
    return AutopilotFiles(tuple(sorted(actions, key=lambda one: (one.at, one.id))), newest, problem)
