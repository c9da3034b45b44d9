"""Kills an act before each of its system calls, one after the other, and tells what came of it. Run as a program.

`python killed_act.py SCRATCH ACTION EDITED`: for each point it lays out a file and a folder, forks, kills the child by
SIGKILL before its n-th call that changes or opens something, and prints a JSON line: the point, what the child was
about to do, and what is there after the next autopilot has begun. EDITED is when a person edits the file: `never`,
`between` the kill and the next autopilot, or `during` the act, just before the names are exchanged. Ends at the first
point that the child does not reach. Imports no library with threads, so that it may fork.
"""

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from abfleet_autopilot.acting.action_log import ActionLog
from abfleet_autopilot.acting.actor import Actor
from abfleet_autopilot.acts import Action, IntendedAction
from abfleet_experiments.file.load import load_text
from abfleet_log.files import WriterIdentity
from abfleet_log.tools.actions import read_actions
from abfleet_process import atomic_file

from tests.support.killed_calls import FSYNC, killed

NOW = datetime(2026, 12, 1, 8, 0, tzinfo=UTC)
FILE = """\
version: 1
default: v1
models: {v1: {target: "127.0.0.1:1"}, v2: {target: "127.0.0.1:2"}}
experiments:
  - name: e
    groups:
      - {name: control, model: v1, weight: 70}
      - {name: canary, model: v2, weight: 20}
      - {name: other, model: v2, weight: 10}
    ramp:
      - {at: 2026-11-30T00:00:00Z, traffic: 1, control: 70, canary: 20, other: 10}
    autopilot: {}
  - name: f
    layer: second
    groups: [{name: control, model: v1, weight: 50}, {name: canary, model: v2, weight: 50}]
    autopilot: {}
"""
PERSON = "# a person's words\n"
ACTS = {
    "halt": IntendedAction(Action.HALT, "e", "canary", 1, ("it harms",)),
    "off": IntendedAction(Action.HALT, "f", "canary", 1, ("it harms",)),
    "climb": IntendedAction(Action.CLIMB, "e", None, 1, ("it holds",), traffic_bp=500),
    "conclude": IntendedAction(Action.CONCLUDE, "f", "canary", 1, ("it is better",)),
}
TOUCHES = frozenset({"open", "os.rename", "os.remove", "os.mkdir", "fcntl.flock"})


def actor(root: Path, number: int) -> Actor:
    return Actor(root / "f.yaml", ActionLog(root / "actions", WriterIdentity("h", number)), by="autopilot h")


def add_words(path: Path) -> None:
    """A person's edit, by a rename as editors make it."""
    path.with_name("editor").write_text(path.read_text() + PERSON)
    path.with_name("editor").rename(path)


def edited_during(path: Path) -> None:
    """A person edits the file after its last comparison with what was read."""
    real = atomic_file.exchange

    def exchange(one: Path, other: Path) -> bool:
        if PERSON not in path.read_text() and PERSON not in one.read_text():
            add_words(path)
        return real(one, other)

    atomic_file.exchange = exchange


def killed_act(root: Path, act: IntendedAction, point: int, *, during: bool) -> str | None:
    """What the child was about to do when it was killed; None where it came to its end."""
    return killed(
        lambda: actor(root, 1).act(act, NOW),
        point,
        events=TOUCHES,
        calls=FSYNC | {"os.write": os, "exchange": atomic_file},
        first=lambda: edited_during(root / "f.yaml") if during else None,
    )


def meaning(text: str) -> dict[str, Any]:
    """What a file says, as far as acts change it."""
    config = load_text(text)
    return {
        "default": config.default,
        "names": [one.name for one in config.experiments],
        "enabled": [one.enabled for one in config.experiments],
        "rows": [[row.traffic_bp, *row.weights_bp] for one in config.experiments for row in one.ramp],
    }


def laid_out(root: Path) -> Path:
    (root / "actions").mkdir(parents=True)
    (root / "f.yaml").write_text(FILE)
    return root


def main(scratch: Path, action: str, edited: str) -> None:
    """Prints one line for each point."""
    act = ACTS[action]
    done = laid_out(scratch / "done")
    assert actor(done, 1).act(act, NOW) is not None
    both = [meaning(FILE), meaning((done / "f.yaml").read_text())]
    point, what = 0, ""
    while what is not None:
        point += 1
        root = laid_out(scratch / f"copy-{point}")
        what = killed_act(root, act, point, during=edited == "during")
        whole = meaning((root / "f.yaml").read_text()) in both
        if edited == "between":
            add_words(root / "f.yaml")
        later = NOW + timedelta(minutes=1)
        following = actor(root, 2)
        following.finish(later)
        following.act(act, later)
        following.finish(later)
        text = (root / "f.yaml").read_text()
        told = {
            "before": what,
            "whole": whole,
            "done": meaning(text) == both[1],
            "words": text.count(PERSON),
            "outcomes": [one.outcome for one in read_actions(root / "actions")],
            "left": sorted(path.name for path in root.iterdir() if path.name not in ("f.yaml", "actions", "editor")),
        }
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
