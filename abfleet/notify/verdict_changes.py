"""Changes of verdicts between two reports, and of the files that a report depends on.

A report is its JSON document (`abfleet analyze --json`). An experiment that was never notified counts as one that keeps
running, so that the first report notifies only what is decided.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

KEEP_RUNNING = "keep_running"


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What was concluded of an experiment: its verdict, the group that this is about, and each treatment's verdict.

    Treatments that keep running are not listed. `version` is the one that an interleaving's users prefer.
    """

    verdict: str = KEEP_RUNNING
    group: str | None = None
    treatments: Mapping[str, str] = field(default_factory=dict)
    version: str | None = None


@dataclass(frozen=True, slots=True)
class VerdictChange:
    """A change from one conclusion to another; the same change always has the same `id`."""

    id: str
    experiment: str
    before: Conclusion
    now: Conclusion
    reasons: tuple[str, ...]
    as_of: str | None

    def sentence(self) -> str:
        """The change as one line for people: time, experiment, both verdicts and the first reason."""
        whom = self.now.group or self.now.version
        about = f" {whom}" if whom else ""
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
            **_as_dict(self.now),
            "reasons": list(self.reasons),
            "before": _as_dict(self.before),
        }


def _as_dict(conclusion: Conclusion) -> dict[str, Any]:
    """What receivers get of it; `version` is there where the verdict names one."""
    found = {"verdict": conclusion.verdict, "group": conclusion.group, "groups": dict(conclusion.treatments)}
    return found if conclusion.version is None else found | {"version": conclusion.version}


def conclusions(document: Mapping[str, Any]) -> dict[str, Conclusion]:
    """The conclusion of each experiment of a report, by name."""
    found = {}
    for experiment in document["experiments"]:
        decision = experiment["decision"]
        treatments = {
            group["name"]: group["decision"]
            for group in experiment["groups"]
            if group["decision"] not in (None, KEEP_RUNNING)
        }
        found[experiment["name"]] = Conclusion(
            decision["verdict"], decision["group"], treatments, decision.get("version")
        )
    return found


def changes(notified: Mapping[str, Conclusion], document: Mapping[str, Any]) -> list[VerdictChange]:
    """The changes in a report since what was notified. Experiments that the report lacks do not count as changed."""
    reasons = {one["name"]: tuple(one["decision"]["reasons"]) for one in document["experiments"]}
    found = []
    for name, now in conclusions(document).items():
        before = notified.get(name, Conclusion())
        # While an experiment keeps running, a change of its group is no news.
        if now == before or (now.verdict == before.verdict == KEEP_RUNNING and now.treatments == before.treatments):
            continue
        parts = [name, _parts(before), _parts(now), document["as_of"]]
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
        found.append(VerdictChange(digest, name, before, now, reasons[name], document["as_of"]))
    return found


def _parts(conclusion: Conclusion) -> dict[str, Any]:
    """What makes the `id` of a change: as it was before there were versions, where there is none."""
    found = asdict(conclusion)
    if found["version"] is None:
        del found["version"]
    return found
