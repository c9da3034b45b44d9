"""Lines of a decision log as routers write them, for tests of what reads them."""

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from abfleet_experiments.assign import Assigner
from abfleet_experiments.file.load import load_text

CONFIG_TEXT = """
version: 1
default: v1
models: {v1: {target: "127.0.0.1:1"}, v2: {target: "127.0.0.1:2"}}
experiments:
  - name: ranking
    groups: [{name: control, model: v1, weight: 50}, {name: treatment, model: v2, weight: 50}]
"""
CONFIG = load_text(CONFIG_TEXT)
START = datetime(2026, 11, 1, 12, tzinfo=UTC)
ASSIGNER = Assigner(CONFIG, START)


def stamp(seconds: float) -> str:
    """So many seconds after the start."""
    return (START + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def exposure(number: int, user: str = "user-1", **changes: Any) -> dict[str, Any]:
    """A call that was answered; one a second."""
    arm, bucket = ASSIGNER.assign(user, {})
    return {
        "schema": 1,
        "event": "exposure",
        "ts": stamp(number),
        "request_id": f"r-{number}",
        "user_id": user,
        "bucket": bucket,
        "layer": arm.layer,
        "experiment": arm.experiment,
        "group": arm.group,
        "reason": arm.reason,
        "allocation": arm.allocation,
        "propensity": arm.propensity,
        "model_version": arm.model_version,
        "config_revision": CONFIG.revision,
        "router": "router-1",
        "served_version": arm.model_version,
        "fallback": None,
        "attempts": 1,
        "status": "OK",
        "latency_ms": 1.25,
        "items": [3, 2, 1],
        "history_length": 2,
        "attributes": {},
        "synthetic": False,
        "trace_id": None,
        "client": None,
        **changes,
    }


def shadow(number: int, user: str | None = "user-1", **changes: Any) -> dict[str, Any]:
    """The call of the same number asked again of v2."""
    return {
        "schema": 1,
        "event": "shadow",
        "ts": stamp(number + 0.1),
        "request_id": f"r-{number}",
        "user_id": user,
        "version": "v2",
        "primary": "v1",
        "items": [3, 1],
        "status": "OK",
        "latency_ms": 3.0,
        "config_revision": CONFIG.revision,
        "router": "router-1",
        **changes,
    }


def outcome(number: int, user: str | None = "user-1", **changes: Any) -> dict[str, Any]:
    """A click on the answer of the same number."""
    return {
        "schema": 1,
        "event": "outcome",
        "ts": stamp(number + 0.5),
        "received_ts": stamp(number + 0.7),
        "outcome_id": f"o-{number}",
        "request_id": f"r-{number}",
        "user_id": user,
        "type": "click",
        "item_id": 3,
        "value": None,
        "currency": None,
        **changes,
    }


def put(folder: Path, lines: list[dict[str, Any]], *, number: int = 1, tail: bytes = b"") -> Path:
    """A log file that its router has left, with `tail` after its last line."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"decisions-{socket.gethostname()}-20261101T12000{number}000000Z-1.jsonl"
    path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines) + tail)
    return path
