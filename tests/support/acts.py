"""Acts of an autopilot as it writes them down, for tests of who shows them. Made by the autopilot's own writer."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from abfleet_autopilot.acting.action_log import ActionLog
from abfleet_log.files import WriterIdentity
from abfleet_log.tools.actions import ACTION, DONE, STATE_FILE, AutopilotState

AT = datetime(2026, 11, 28, 8, 0, tzinfo=UTC)
NAME = "homepage-ranking"
SHARES: dict[str, Any] = {"enabled": True, "traffic": 5.0, "weights": {"control": 80.0, "canary": 20.0}}

CLIMBED = (
    "5 % has been in force for 24.0 h with at least these users: control 1,204, canary 1,011",
    "error_rate in canary of 2.1 times control's would have been found with a probability of 80 %",
)
HALTED = (
    "error_rate guardrail: more in canary than the tolerated 1.25 times control's (E = 412, acts at 200)",
    "first bad events: 41 users of canary, 12 of control, where canary should have 20.0% of them (E = 822)",
)


def write_acts(folder: Path, *, name: str = NAME, at: datetime = AT, holds: tuple[str, ...] = ()) -> None:
    """A climb, one that a person came before, and a halt an hour later; and what is waited for since."""
    folder.mkdir(exist_ok=True)
    log = ActionLog(folder, WriterIdentity("h", 1))
    halted = {**SHARES, "traffic": 20.0, "weights": {"control": 100.0, "canary": 0.0}}
    climbed = {**SHARES, "traffic": 20.0}
    acts = (
        ("a1", "climb", None, 20.0, SHARES, climbed, "edited", CLIMBED),
        ("a2", "climb", None, 50.0, climbed, {**SHARES, "traffic": 50.0}, "given_up", CLIMBED),
        ("a3", "halt", "canary", None, climbed, halted, "edited", HALTED),
    )
    for hour, (key, action, group, traffic, before, after, outcome, reasons) in enumerate(acts):
        written = at + timedelta(hours=hour)
        members = {
            "id": key,
            "action": action,
            "experiment": name,
            "group": group,
            "traffic": traffic,
            "before": before,
            "after": after,
            "reasons": list(reasons),
            "figures": {"error_rate": {"e": 412.0}},
            "as_of_us": int(written.timestamp() * 1e6) - 500_000,
            "revision_before": "0a1b2c3d4e5f",
            "revision_after": "1a1b2c3d4e5f",
            "read_sha256": "0" * 64,
            "written_sha256": "1" * 64,
            "by": "autopilot h",
        }
        log.write(ACTION, written, members)
        log.write(DONE, written + timedelta(milliseconds=20), {"id": key, "outcome": outcome})
    write_state(folder, at + timedelta(hours=3), {name: holds})


def write_state(folder: Path, at: datetime, holds: dict[str, tuple[str, ...]]) -> None:
    """What an autopilot waits for at a moment."""
    evidence = dict.fromkeys(holds, (("canary", "error_rate", 1.25),))
    (folder / STATE_FILE).write_text(AutopilotState(at, "autopilot h", holds, evidence).text())
