"""Kills an act before each of its system calls, one after the other, and tells what came of it. Run as a program.

`python killed_act.py SCRATCH ACTION EDITED`: for each point it lays out a file and a folder, forks, kills the child by
SIGKILL before its n-th call that changes or opens something, and prints a JSON line: the point, what the child was
about to do, and what is there after the next autopilot has begun. EDITED is when a person edits the file: `never`,
`between` the kill and the next autopilot, or `during` the act, just before the names are exchanged. Ends at the first
point that the child does not reach. Imports no library with threads, so that it may fork.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from abfleet_autopilot.acting.action_log import ActionLog, read_actions
from abfleet_autopilot.acting.actor import Actor
from abfleet_autopilot.acts import Action, IntendedAction
from abfleet_experiments.file.load import load_text
from abfleet_log.files import WriterIdentity
from abfleet_process import atomic_file

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


def die_before(point: int, tell: int) -> None:
    """From now on, the `point`-th call that changes or opens something, or waits for the disk, is not made."""
    calls = 0

    def count(what: str) -> None:
        nonlocal calls
        calls += 1
        if calls == point:
            os.write(tell, what.encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            count(name)  # no audit event tells of it
            return real(*arguments)

        return call

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in TOUCHES:
            count(event)

    for name in ("fsync", "write"):
        setattr(os, name, counted(f"os.{name}", getattr(os, name)))
    atomic_file.exchange = counted("exchange", atomic_file.exchange)
    sys.addaudithook(hook)


def edited_during(path: Path) -> None:
    """A person edits the file after its last comparison with what was read."""
    real = atomic_file.exchange

    def exchange(one: Path, other: Path) -> bool:
        if PERSON not in path.read_text() and PERSON not in one.read_text():
            add_words(path)
        return real(one, other)

    atomic_file.exchange = exchange


def killed(root: Path, act: IntendedAction, point: int, *, during: bool) -> str | None:
    """What the child was about to do when it was killed; None where it came to its end."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if during:
                edited_during(root / "f.yaml")
            die_before(point, writing)
            actor(root, 1).act(act, NOW)
        except BaseException as error:  # noqa: BLE001 - the parent is to hear of whatever it is
            os.write(writing, f"failed: {error!r}".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        what = told.read()
    os.waitpid(child, 0)
    return what or None


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
        what = killed(root, act, point, during=edited == "during")
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
