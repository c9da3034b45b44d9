"""Makes decision logs line by line, as a router would write them. Knows the schema; draws nothing at random."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from abfleet_analysis.analyse import analyse
from abfleet_experiments.file.load import load_text
from abfleet_log.schema import problems

START = datetime(2026, 11, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SHARES = {"control": 0.5, "treatment": 0.5}
FILE = """
version: 1
default: v1
models:
  v1: {target: "127.0.0.1:1"}
  v2: {target: "127.0.0.1:2"}
experiments:
  - name: test
    groups:
      - {name: control, model: v1, weight: 50}
      - {name: treatment, model: v2, weight: 50}
    metrics: {primary: PRIMARY, guardrails: GUARDRAILS, secondary: SECONDARY}
    plan: {effect: 0.10, horizon: 28d, look: 1d, minimum: 7d}
METRICS
"""


def text_time(at: datetime) -> str:
    """As the log writes it."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass
class LogLines:
    """Lines in the order in which they were added; each is checked against the schema."""

    lines: list[dict[str, Any]] = field(default_factory=list)

    def exposure(self, user: str | None, group: str | None, at: datetime = START, **changed: Any) -> str:
        """Adds a call and returns its request id."""
        request = changed.pop("request_id", f"r{len(self.lines)}")
        line = {
            "schema": 1,
            "event": "exposure",
            "ts": text_time(at),
            "request_id": request,
            "user_id": user,
            "layer": "default" if group else None,
            "experiment": "test" if group else None,
            "group": group,
            "bucket": (0 if group == "treatment" else 9999) if group else None,
            "reason": "allocated" if group else "no_user_id" if user is None else "not_in_traffic",
            "allocation": "000000000001" if group else None,
            "propensity": SHARES.get(group or ""),
            "model_version": "v2" if group == "treatment" else "v1",
            "served_version": "v1",
            "fallback": None,
            "attempts": 1,
            "status": "OK",
            "latency_ms": 5.0,
            "items": [1, 2, 3],
            "history_length": 3,
            "attributes": {},
            "config_revision": "0" * 12,
            "synthetic": False,
            "trace_id": None,
            "client": None,
            "router": "router-1",
        }
        return self._add(line | changed)["request_id"]

    def outcome(
        self, kind: str, user: str | None = None, request: str | None = None, at: datetime = START, **changed: Any
    ) -> None:
        """Adds an outcome."""
        line = {
            "schema": 1,
            "event": "outcome",
            "ts": text_time(at),
            "received_ts": text_time(at),
            "outcome_id": f"o{len(self.lines)}",
            "request_id": request,
            "user_id": user,
            "type": kind,
            "item_id": None,
            "value": None,
            "currency": None,
        }
        self._add(line | changed)

    def allocation(
        self, identity: str, weights: dict[str, float], at: datetime = START, salt: str = "test", **changed: Any
    ) -> None:
        """Adds an allocation event; weights are percents."""
        line = {
            "schema": 1,
            "event": "allocation",
            "ts": text_time(at),
            "router": "router-1",
            "config_revision": "0" * 12,
            "experiment": "test",
            "salt": salt,
            "allocation": identity,
            "traffic": 100,
            "weights": weights,
            "moved": None,
        }
        self._add(line | changed)

    def conclusion(self, winner: str, concluded_at: str, at: datetime = START) -> None:
        """Adds a conclusion event of the experiment."""
        line = {
            "schema": 1,
            "event": "conclusion",
            "ts": text_time(at),
            "router": "router-1",
            "config_revision": "0" * 12,
            "experiment": "test",
            "winner": winner,
            "concluded_at": concluded_at,
        }
        self._add(line)

    def shadow(
        self, request: str, user: str | None, items: list[int] | None, at: datetime = START, **changed: Any
    ) -> None:
        """Adds the answer of v3 in the shadow of v1."""
        line = {
            "schema": 1,
            "event": "shadow",
            "ts": text_time(at),
            "request_id": request,
            "user_id": user,
            "version": "v3",
            "primary": "v1",
            "items": items,
            "status": "OK",
            "latency_ms": 8.0,
            "config_revision": "0" * 12,
            "router": "router-1",
        }
        self._add(line | changed)

    def lines_of(self, event: str) -> list[dict[str, Any]]:
        """The lines of one kind."""
        return [line for line in self.lines if line["event"] == event]

    def write(self, folder: Path, name: str = "decisions-host-20261101T000000-1.jsonl") -> Path:
        """Writes all lines into a file of the folder, and returns the folder."""
        text = "".join(json.dumps(line) + "\n" for line in self.lines)
        (folder / name).write_text(text, encoding="utf-8")
        return folder

    def _add(self, line: dict[str, Any]) -> dict[str, Any]:
        assert problems(line) == [], "tests write what the schema allows"
        self.lines.append(line)
        return line


def file_text(
    primary: str = "ctr", guardrails: Iterable[str] = (), secondary: Iterable[str] = (), metrics: str = ""
) -> str:
    """An experiments file with one experiment of two halves."""
    return (
        FILE.replace("PRIMARY", primary)
        .replace("GUARDRAILS", f"[{', '.join(guardrails)}]")
        .replace("SECONDARY", f"[{', '.join(secondary)}]")
        .replace("METRICS", metrics)
    )


def report_of(path: Path, text: str, as_of: datetime | None = None) -> dict[str, Any]:
    """The report of the log in a folder, through JSON as the command prints it."""
    answer: dict[str, Any] = json.loads(json.dumps(analyse([path], load_text(text), as_of=as_of).as_dict()))
    return answer


def only(report: dict[str, Any]) -> dict[str, Any]:
    """The one experiment of a report."""
    (experiment,) = report["experiments"]
    return dict(experiment)


def metric(report: dict[str, Any], name: str, group: str = "treatment") -> dict[str, Any]:
    """One metric of a report's only experiment."""
    (found,) = [m for m in only(report)["metrics"] if m["name"] == name and m["group"] == group]
    return dict(found)
