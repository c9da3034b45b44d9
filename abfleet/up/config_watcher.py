"""Follows an experiments file, and returns each new configuration that is valid."""

import asyncio
from pathlib import Path

from abfleet_experiments.config import Config
from abfleet_experiments.file.errors import ConfigErrors
from abfleet_experiments.file.load import load
from abfleet_process.file_state import file_state

CONTENT_EVERY = 20
"""Polls between two readings of the whole file, for file systems whose times do not show every change."""


class ConfigWatcher:
    """Follows the experiments file and the fleet file over it. A file with mistakes counts as unchanged."""

    def __init__(self, experiments: Path, fleet: Path | None) -> None:
        self._files = (experiments, fleet) if fleet else (experiments,)
        self._experiments = experiments
        self._fleet = fleet
        self._seen: object = None
        self._polls = 0
        self._given: Config | None = None

    async def changed(self) -> Config | None:
        """The configuration, when it is another one than at the poll before; the first poll gives it too."""
        self._polls += 1
        seen = [file_state(path) for path in self._files]
        if seen == self._seen and self._polls % CONTENT_EVERY:
            return None
        self._seen = seen
        try:
            config = await asyncio.to_thread(load, self._experiments, self._fleet)
        except ConfigErrors:  # the router says what is wrong with it, and keeps the configuration in force
            return None
        if config == self._given:
            return None
        self._given = config
        return config
