"""Kills a release before each of its system calls, one after the other, and tells what it left. Run as a program.

`python killed_release.py REGISTRY SCRATCH ACTION` copies the registry for each point, forks, kills the child with
SIGKILL before its n-th call that touches the copy, and prints a JSON line: the point, what the child was about to do,
what is wrong with the registry then, and what is wrong after the next release has begun. Ends at the first point that
the child does not reach. Imports no library with threads, so that it may fork.
"""

import json
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from abfleet_models.errors import RegistryError
from abfleet_models.registry import Registry
from abfleet_models.release import Release

from tests.support.killed_calls import killed

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
TOUCHES = frozenset({"open", "os.rename", "os.symlink", "os.remove", "os.mkdir", "os.rmdir", "fcntl.flock"})


def candidate(root: Path) -> dict[str, bytes]:
    """v9.0.0: the files of staging under another name."""
    folder = root / "v1.3.0-beta"
    files = {name: (folder / name).read_bytes() for name in ("model.onnx", "metadata.json", "metrics.json")}
    for name in ("metadata.json", "metrics.json"):
        files[name] = json.dumps(json.loads(files[name]) | {"version": "v9.0.0"}).encode()
    return files


def prepare(root: Path, action: str) -> None:
    """What an action needs to have happened before; `recover` a promotion that was killed once it was certain."""
    if action in ("rollback", "restore"):
        with Release.begin(root, now=NOW) as release:
            if action == "rollback":
                release.promote("v1.4.0-rc1", alias="production")
            else:
                release.archive("v1.4.0-rc1")
    elif action == "recover":
        point = 0
        while not (root / ".release.json").exists():
            point += 1
            assert killed(lambda: act(root, "promote"), point, events=TOUCHES), "a promotion writes no journal"


def act(root: Path, action: str) -> None:
    """One release."""
    actions: dict[str, Callable[[Release], object]] = {
        "promote": lambda release: release.promote("v1.4.0-rc1", alias="production"),
        "rollback": lambda release: release.rollback("production"),
        "archive": lambda release: release.archive("v1.4.0-rc1"),
        "restore": lambda release: release.restore("v1.4.0-rc1"),
        "add": lambda release: release.add(candidate(root)),
        "recover": lambda release: release.finished,
    }
    with Release.begin(root, now=NOW) as release:
        actions[action](release)


def problems(root: Path) -> list[str]:
    """What a worker or a person would find wrong."""
    registry = Registry(root)
    found = registry.check()
    try:
        for name in ("production", "staging", *registry.versions()):
            registry.resolve(name).read_verified()
        for name in registry.archived_versions():
            registry.archived(name).read_verified()
    except RegistryError as error:
        found.append(str(error))
    return found


def state(root: Path) -> dict[str, Any]:
    """All that a release changes."""
    registry = Registry(root)
    log = json.loads((root / "registry.json").read_text())["log"]
    return {
        "aliases": registry.aliases(),
        "versions": registry.versions(),
        "archived": registry.archived_versions(),
        "log": [(event["event"], event["version"], event.get("alias")) for event in log],
    }


def hidden(root: Path) -> list[str]:
    """What a release has prepared and not cleared away."""
    return sorted(path.name for folder in (root, root / "archive") for path in folder.glob(".*"))


def main(source: Path, scratch: Path, action: str) -> None:
    """Prints one line for each point."""
    prepared, done = scratch / "prepared", scratch / "done"
    shutil.copytree(source, prepared, symlinks=True)
    prepare(prepared, action)
    shutil.copytree(prepared, done, symlinks=True)
    act(done, action)
    outcomes = [state(prepared), state(done)]
    point, what = 0, ""
    while what is not None:
        point += 1
        root = scratch / f"copy-{point}"
        shutil.copytree(prepared, root, symlinks=True)
        what = killed(partial(act, root, action), point, events=TOUCHES)
        after_kill = problems(root)
        with Release.begin(root, now=NOW):
            pass
        after = problems(root) + [f"left behind: {name}" for name in hidden(root)]
        outcome = outcomes.index(state(root)) if state(root) in outcomes else None
        print(json.dumps({"before": what, "problems": after_kill, "after": after, "outcome": outcome}), flush=True)
        shutil.rmtree(root)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
