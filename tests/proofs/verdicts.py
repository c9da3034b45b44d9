"""From a running fleet to a verdict: `abfleet up`, `abfleet traffic --as-real`, `abfleet analyze`, and nothing between.

Four truths, each with a plan of seconds: a group whose lists are clicked more often must be shipped; one that differs
in nothing must not; one whose model is broken, so that it fails or answers nothing, must be rolled back; and where
lines of a group are lost on their way to the analysis, it must refuse. `./run prove verdicts` tries each on a fleet of
its own and analyses while traffic flows, until the verdict is there; the suite has three of them on one fleet.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

from tests.support.broken_models import Kind, broken_model
from tests.support.fleet import MODELS, ROOT
from tests.support.tiny_model import add_version
from tests.support.up import Up, run_abfleet, without_flags

NAME = "homepage-ranking"
LOST_SHARE = 0.4
"""Of one group's users, all of whose lines are lost."""


def main() -> int:
    """Everything at full length; an assertion ends it."""
    plan: dict[str, str | float] = {"effect": 0.2, "look": "2s", "minimum": "14s", "horizon": "60s"}
    with tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name:
        base = Path(name)
        traffic = ("--rate", "100", "--duration", "50", "--users", "3000")
        halves = {"control": ("v1.2.3", 50.0), "treatment": ("v1.3.0-beta", 50.0)}
        print(scenario(base / "ship", halves, plan, "ship", (*traffic, "--effect", "treatment=0.8")), flush=True)
        print(scenario(base / "nothing", halves, plan, "stop_no_effect", traffic), flush=True)
        kinds: tuple[Kind, ...] = ("raises", "empty")
        for kind in kinds:
            models = registry(base / f"models-{kind}", {"v1.3.0-beta": kind})
            print(scenario(base / kind, halves, plan, "roll_back", traffic, models=models), flush=True)
        print(scenario(base / "lost", halves, plan, "refuse", traffic, losing="treatment"), flush=True)
    return 0


def registry(folder: Path, broken: Mapping[str, Kind]) -> Path:
    """The registry that ships, with these versions replaced by broken models."""
    shutil.copytree(MODELS, folder, symlinks=True)
    for version, kind in broken.items():
        shutil.rmtree(folder / version)
        add_version(folder, version, broken_model(kind))
    return folder


def experiments(groups: Mapping[str, tuple[str, float]], plan: Mapping[str, str | float]) -> str:
    """An experiments file: group to version and weight."""
    versions = sorted({version for version, _ in groups.values()} | {"v1.2.3"})
    ranking = {
        "name": NAME,
        "salt": "recommender-2026-11",
        "groups": [{"name": name, "model": version, "weight": weight} for name, (version, weight) in groups.items()],
        "metrics": {"primary": "ctr", "guardrails": [{"name": "error_rate", "points": 0.05}]},
        "plan": dict(plan),
    }
    models = {version: {"target": f"dns:///{version.replace('.', '-')}.invalid:1"} for version in versions}
    return json.dumps({"version": 1, "default": "v1.2.3", "models": models, "experiments": [ranking]}, indent=1)


def scenario(
    folder: Path,
    groups: Mapping[str, tuple[str, float]],
    plan: Mapping[str, str | float],
    expected: str,
    traffic: Sequence[str],
    *,
    models: Path = MODELS,
    losing: str | None = None,
) -> str:
    """Runs a fleet of its own under traffic and analyses on and on, until the verdict is the expected one.

    `losing`: the group whose lines are lost on their way.
    """
    folder.mkdir()
    seen: list[str] = []
    with Up(folder, models, experiments=experiments(groups, plan)) as up:
        up.ready()
        with calling(up.address, *traffic) as under_way:
            begun = time.monotonic()
            while seen[-1:] != [expected]:
                ended = not under_way()
                found = analysed(up, losing=losing)
                if found is not None and seen[-1:] != [found["decision"]["verdict"]]:
                    seen.append(found["decision"]["verdict"])
                if ended:
                    break
            took = time.monotonic() - begun
    assert found is not None
    assert seen[-1] == expected, f"{folder.name}: {seen}: {found['decision']}"
    return f"{folder.name}: {' → '.join(seen)} after {took:.0f} s: {found['decision']['reasons'][0]}"


@contextmanager
def calling(address: str, *flags: str) -> Iterator[Callable[[], bool]]:
    """`abfleet traffic --as-real` beside what is done meanwhile; the function says whether it still runs."""
    command = [sys.executable, "-m", "abfleet", "traffic", "--address", address, "--as-real", "--delay", "0.3", *flags]
    process = subprocess.Popen(
        command, cwd=ROOT, env=without_flags(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        yield lambda: process.poll() is None
    except BaseException:
        process.kill()
        raise
    finally:
        process.terminate()
        process.communicate()


def analysed(up: Up, *, losing: str | None = None, share: float = LOST_SHARE) -> dict[str, Any] | None:
    """What `abfleet analyze` says of the fleet's log at this moment; None before there is one."""
    logs = up.folder / "logs"
    if losing is not None:
        logs = with_loss(logs, up.folder / "lossy", losing, share=share)
    if not any(logs.glob("decisions-*")):
        return None
    words = ("--logs", str(logs), "--experiments", str(up.experiments_path), "--json")
    done = run_abfleet("analyze", *words, folder=up.folder)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["experiments"]
    document: dict[str, Any] = found
    return document


def with_loss(logs: Path, target: Path, group: str, *, share: float) -> Path:
    """A copy of the log without any line of a share of one group's users, as a broken collector leaves it."""
    target.mkdir(exist_ok=True)
    pattern = re.compile(rb'"user_id":"([^"]*)"')
    lost_group = b'"group":"%s"' % group.encode()
    for path in logs.glob("decisions-*.jsonl"):
        lines = path.read_bytes().splitlines(keepends=True)
        gone = {
            user[1]
            for line in lines
            if lost_group in line and (user := pattern.search(line)) and crc32(user[1]) % 100 < share * 100
        }
        kept = [line for line in lines if not ((user := pattern.search(line)) and user[1] in gone)]
        (target / path.name).write_bytes(b"".join(kept))
    return target


if __name__ == "__main__":
    raise SystemExit(main())
