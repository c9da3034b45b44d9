"""What the autopilot says of itself in a file beside its actions, for whoever shows it. Does IO, and may fail."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import structlog
from abfleet_log.tools.actions import STATE_EVERY, STATE_FILE, AutopilotState
from abfleet_process.atomic_file import WriteError, write_whole

from abfleet_autopilot.core import Core
from abfleet_autopilot.deciding import Decided, e_value, standing


class StateFile:
    """The file `autopilot.json`. Changed only by `tell`."""

    def __init__(self, folder: Path, by: str) -> None:
        self._path = folder / STATE_FILE
        self._by = by
        self._told = 0.0
        self._problem = ""

    def tell(self, now: float, core: Core, decided: Mapping[str, Decided], *, at_once: bool) -> None:
        """Writes it if it is time, or at once. now: Seconds since 1970."""
        if not at_once and 0 <= now - self._told < STATE_EVERY.total_seconds():
            return
        self._told = now
        state = AutopilotState(
            datetime.fromtimestamp(now, UTC),
            self._by,
            {name: one.holds for name, one in decided.items()},
            {
                name: tuple((group, kind, e_value(counts.ln_e)) for kind, group, counts in standing(evidence))
                for name, evidence in core.evidence.items()
            },
        )
        try:
            write_whole(self._path, state.text())
        except WriteError as error:
            if str(error) != self._problem:
                structlog.get_logger("abfleet.autopilot").warning("its state could not be written", error=str(error))
            self._problem = str(error)
        else:
            self._problem = ""
