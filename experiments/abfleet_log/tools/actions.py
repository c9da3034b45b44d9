"""What the autopilot has done, and what it waits for: read from the files that it writes. Writes and decides nothing.

Files `actions-*.jsonl` have a line for each act, before it is made, and one when it is done; `autopilot.json` beside
them has what holds for now. They stand in the log's folder, or in one of their own.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import orjson

from abfleet_log.tools.read_lines import ACTIONS_PREFIX, parsed

ACTION, RETRIED, APPLIED, DONE = "action", "action_retried", "action_applied", "action_done"
"""The events of an act."""
KINDS: Final = ("halt", "climb", "conclude")
_VERBS: Final = {
    "halt": ("halted", "halting", "halt"),
    "climb": ("raised traffic to", "raising traffic to", "raise traffic to"),
    "conclude": ("concluded with", "concluding with", "conclude with"),
}
OUTCOMES: Final = ("edited", "applied", "found", "given_up")
"""How an action came to its end: by an edit, by the command, found done by another, or overtaken by a person's edit."""
STATE_FILE: Final = "autopilot.json"
STATE_EVERY: Final = timedelta(seconds=10)
"""It is written so often at least, so that its age says whether an autopilot runs."""
SILENT_AFTER: Final = 6 * STATE_EVERY


@dataclass(slots=True)
class RecordedAction:
    """An act as the files have it. Changed only while they are read, and by `now_is`.

    Attributes:
        at: When it was written down. as_of_us: The line by which the evidence sufficed, microseconds since 1970.
        group: Whom it is about; None where traffic climbs. traffic: Percent, of a climb's step.
        before, after: What the experiment had and has: `enabled`, `traffic`, `weights`; `default` once it has ended.
        read_hash, written_hash: SHA-256 of the experiments file before and after, in hex.
        applied: When the command took it. outcome: One of OUTCOMES; empty while it is not done.
    """

    id: str
    at: datetime
    action: str
    experiment: str
    group: str | None
    traffic: float | None
    as_of_us: int
    reasons: Sequence[str]
    figures: Mapping[str, Any]
    revision_before: str
    revision_after: str
    read_hash: str
    written_hash: str
    by: str = ""
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    applied: list[datetime] = field(default_factory=list)
    outcome: str = ""

    def now_is(self, read_hash: str, written_hash: str, revision_after: str) -> None:
        """It is made from another text than at first."""
        self.read_hash, self.written_hash, self.revision_after = read_hash, written_hash, revision_after

    def words(self) -> str:
        """What was done, is being done or was not done, without the experiment's name."""
        done, doing, do = _VERBS[self.action]
        verb = {"": doing, "given_up": f"did not {do}"}.get(self.outcome, done)
        return f"{verb} {self.traffic or 0:g} %" if self.action == "climb" else f"{verb} {self.group}"

    def outcome_words(self) -> str:
        """What became of it."""
        return {
            "": "under way",
            "edited": "done",
            "applied": "done, by the command",
            "found": "done",
            "given_up": "somebody else's edit came first",
        }.get(self.outcome, self.outcome)

    def way_back(self) -> tuple[str, ...]:
        """The command with which a person undoes it, as words; none where there is nothing to undo."""
        if self.outcome == "given_up":
            return ()
        if self.action == "halt" and self.after.get("enabled") is False:
            return "abfleet", "resume", self.experiment
        if self.action == "halt":
            return "abfleet", "resume", self.experiment, str(self.group)
        before = self.before.get("traffic")
        if self.action == "climb" and isinstance(before, int | float):
            return "abfleet", "ramp", self.experiment, "--traffic", f"{before:g}"
        return ()


@dataclass(frozen=True, slots=True)
class AutopilotState:
    """What an autopilot said of itself the last time. at: When that was.

    Attributes:
        holds: By experiment, why its traffic does not climb now; empty where nothing holds it.
        evidence: By experiment, each guardrail of each treatment with its E, as (group, guardrail, E).
    """

    at: datetime
    by: str
    holds: Mapping[str, tuple[str, ...]]
    evidence: Mapping[str, tuple[tuple[str, str, float], ...]]

    def silent(self, now: datetime) -> bool:
        """Whether it is too old for its autopilot to be running."""
        return now - self.at > SILENT_AFTER

    def text(self) -> str:
        """As the file has it."""
        experiments = {
            name: {
                "holds": list(holds),
                "evidence": [
                    {"group": group, "guardrail": kind, "e": e} for group, kind, e in self.evidence.get(name, ())
                ],
            }
            for name, holds in self.holds.items()
        }
        document = {"schema": 1, "ts": _text(self.at), "by": self.by, "experiments": experiments}
        return orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n"


def action_files(folder: Path) -> list[Path]:
    """The files of a folder that have acts."""
    return sorted(folder.glob(f"{ACTIONS_PREFIX}*.jsonl"))


def read_actions(folder: Path) -> list[RecordedAction]:
    """All acts of a folder in order of time, with what became of them. A torn line is none. Raises OSError."""
    found: dict[str, RecordedAction] = {}
    later: list[Mapping[str, Any]] = []
    for line in _lines(action_files(folder)):
        if line.get("event") == ACTION:
            recorded = _recorded(line)
            if recorded is not None:
                found.setdefault(recorded.id, recorded)
        elif line.get("event") in (RETRIED, APPLIED, DONE):
            later.append(line)
    for line in later:
        recorded = found.get(str(line.get("id")))
        if recorded is None:
            continue
        if line["event"] == DONE:
            recorded.outcome = str(line.get("outcome") or "edited")
        elif line["event"] == RETRIED:
            recorded.now_is(line["read_sha256"], line["written_sha256"], line["revision_after"])
        else:
            recorded.applied.append(_time(str(line["ts"])))
    return sorted(found.values(), key=lambda one: (one.at, one.id))


def read_state(folder: Path) -> AutopilotState | None:
    """What the autopilot of a folder said last; None where none has, or where that cannot be read."""
    try:
        document = orjson.loads((folder / STATE_FILE).read_bytes())
        experiments = document["experiments"].items()
        return AutopilotState(
            _time(document["ts"]),
            str(document["by"]),
            {name: tuple(map(str, one["holds"])) for name, one in experiments},
            {
                name: tuple((str(e["group"]), str(e["guardrail"]), float(e["e"])) for e in one["evidence"])
                for name, one in experiments
            },
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _lines(paths: Iterable[Path]) -> Iterator[Mapping[str, Any]]:
    for path in paths:
        for raw in path.read_bytes().split(b"\n"):
            line = parsed(raw)
            if line is not None:
                yield line


def _recorded(line: Mapping[str, Any]) -> RecordedAction | None:
    try:
        if line["action"] not in KINDS:
            return None
        return RecordedAction(
            id=line["id"],
            at=_time(line["ts"]),
            action=line["action"],
            experiment=line["experiment"],
            group=line["group"],
            traffic=line.get("traffic"),
            as_of_us=int(line["as_of_us"]),
            reasons=tuple(line["reasons"]),
            figures=line["figures"],
            revision_before=line["revision_before"],
            revision_after=line["revision_after"],
            read_hash=line["read_sha256"],
            written_hash=line["written_sha256"],
            by=str(line.get("by") or ""),
            before=line.get("before") or {},
            after=line.get("after") or {},
        )
    except (KeyError, TypeError, ValueError):
        return None


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _text(at: datetime) -> str:
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")
