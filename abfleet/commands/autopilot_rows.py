"""What the autopilot has done and waits for, as `abfleet status` shows it: lines for people, values for JSON."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from abfleet_experiments.config import time_text
from abfleet_log.tools.actions import AutopilotState, RecordedAction, read_actions, read_state

MOST_ACTS = 5
"""On a screen; JSON has all."""


def folder_beside(log_path: str) -> Path | None:
    """The folder of a router's log, where this machine has that file: its name has the router's host and process."""
    path = Path(log_path)
    return path.parent if path.is_file() else None


def autopilot_document(folder: Path | None, now: datetime) -> dict[str, Any] | None:
    """The key `autopilot`; None where no autopilot has written anything. Raises OSError."""
    actions, state = _read(folder)
    if not actions and state is None:
        return None
    return {
        "actions": [_action(one) for one in reversed(actions)],
        "state": None
        if state is None
        else {
            "as_of": time_text(state.at),
            "by": state.by,
            "silent": state.silent(now),
            "holds": {name: list(holds) for name, holds in state.holds.items()},
        },
    }


def autopilot_lines(folder: Path | None, now: datetime) -> Iterator[str]:
    """For people, the newest act first; nothing where no autopilot has written anything. Raises OSError."""
    actions, state = _read(folder)
    if not actions and state is None:
        return
    if state is None:
        yield "autopilot: has not said what it waits for"
    else:
        since = "silent since" if state.silent(now) else "as of"
        yield f"autopilot: {since} {time_text(state.at.replace(microsecond=0))}"
        for name, holds in state.holds.items():
            yield f"  {name} waits: {'; '.join(holds)}" if holds else f"  {name}: nothing holds it"
    for one in list(reversed(actions))[:MOST_ACTS]:
        at = time_text(one.at.replace(microsecond=0))
        yield f"  {at} {one.experiment}: {one.words()} ({one.outcome_words()}): {one.reasons[0] if one.reasons else ''}"
        if back := one.way_back():
            yield f"    to take over: {' '.join(back)}"
    if not actions:
        yield "  it has done nothing yet"


def _read(folder: Path | None) -> tuple[list[RecordedAction], AutopilotState | None]:
    return ([], None) if folder is None else (read_actions(folder), read_state(folder))


def _action(one: RecordedAction) -> dict[str, Any]:
    return {
        "id": one.id,
        "ts": time_text(one.at),
        "as_of": time_text(datetime.fromtimestamp(one.as_of_us / 1e6, UTC)),
        "experiment": one.experiment,
        "action": one.action,
        "group": one.group,
        "traffic": one.traffic,
        "before": dict(one.before),
        "after": dict(one.after),
        "reasons": list(one.reasons),
        "figures": dict(one.figures),
        "outcome": one.outcome or None,
        "by": one.by,
        "take_over": list(one.way_back()) or None,
    }
