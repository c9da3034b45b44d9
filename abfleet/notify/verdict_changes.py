"""What has changed between two reports, and whether there is anything new to read. Knows documents, no terminal.

A report is its JSON document (`abfleet analyze --json`). An experiment that was never told of counts as one that keeps
running, so that the first report tells of what is decided, and not of everything that is there.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

KEEP_RUNNING = "keep_running"


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What was concluded of an experiment: its verdict, the group that this is about, and each treatment's verdict.

    Treatments that keep running are not listed.
    """

    verdict: str = KEEP_RUNNING
    group: str | None = None
    treatments: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VerdictChange:
    """From one conclusion to another; `id` is the same whenever and wherever the same change is seen."""

    id: str
    experiment: str
    before: Conclusion
    now: Conclusion
    reasons: tuple[str, ...]
    as_of: str | None

    def sentence(self) -> str:
        """The change as one line for people: time, experiment, both verdicts and the first reason."""
        about = f" {self.now.group}" if self.now.group else ""
        why = f": {self.reasons[0]}" if self.reasons else ""
        return f"{self.as_of} {self.experiment}: {self.before.verdict} → {self.now.verdict}{about}{why}"

    def message(self) -> dict[str, Any]:
        """The JSON document that receivers get; docs/notifications.md describes its keys."""
        return {
            "schema": 1,
            "event": "verdict",
            "id": self.id,
            "as_of": self.as_of,
            "experiment": self.experiment,
            **_said(self.now),
            "reasons": list(self.reasons),
            "before": _said(self.before),
        }


def _said(conclusion: Conclusion) -> dict[str, Any]:
    return {"verdict": conclusion.verdict, "group": conclusion.group, "groups": dict(conclusion.treatments)}


def conclusions(document: Mapping[str, Any]) -> dict[str, Conclusion]:
    """Of each experiment of a report, by name."""
    found = {}
    for experiment in document["experiments"]:
        decision = experiment["decision"]
        treatments = {
            group["name"]: group["decision"]
            for group in experiment["groups"]
            if group["decision"] not in (None, KEEP_RUNNING)
        }
        found[experiment["name"]] = Conclusion(decision["verdict"], decision["group"], treatments)
    return found


def changes(told: Mapping[str, Conclusion], document: Mapping[str, Any]) -> list[VerdictChange]:
    """What a report says that was not told yet. Experiments that are missing from the report are left as they were."""
    reasons = {one["name"]: tuple(one["decision"]["reasons"]) for one in document["experiments"]}
    found = []
    for name, now in conclusions(document).items():
        before = told.get(name, Conclusion())
        # While an experiment keeps running, whom that is about says nothing.
        if now == before or (now.verdict == before.verdict == KEEP_RUNNING and now.treatments == before.treatments):
            continue
        parts = [name, asdict(before), asdict(now), document["as_of"]]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
        found.append(VerdictChange(digest, name, before, now, reasons[name], document["as_of"]))
    return found


def fingerprint(paths: Sequence[Path]) -> object:
    """Equal for two moments between which no file of these, or in these folders, has changed."""
    return tuple(sorted(_facts(paths)))


def _facts(paths: Iterable[Path]) -> Iterable[tuple[str, int, int]]:
    for path in paths:
        inside = path.rglob("*") if path.is_dir() else [path]
        for file in inside:
            try:
                stat = file.stat()
            except OSError:  # it has just been compressed, or is not there yet
                continue
            yield str(file), stat.st_mtime_ns, stat.st_size
