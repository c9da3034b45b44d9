"""`abfleet up` with an autopilot, 300 calls a second, and a treatment whose worker goes bad at a known call.

`./run prove autopilot [--harm wrong,silent] [--rate 300] [--absent 60] [--share 0.1] [--minutes 15]`. Twice: the
worker begins to give wrong answers in a tenth of its calls, and it stops answering. It says how long it took from the
line with which the evidence sufficed to the routers' `allocation` line (at most 10 s), how many calls of control's
users failed (none), how many calls a caller saw fail at all, and how many users were harmed. The worker is the real one
that `up` starts, with its service bent. The first case takes some ten minutes: no fewer blocks of evidence are enough.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.support.fleet import experiments_file, replace, wait_until
from tests.support.load import Load
from tests.support.up import Up, tiny_models

TREATMENT, VERSION = "experiment", "v1.3.0-beta"
MOST_SECONDS = 10.0
STEADY_CALLS = 3000
"""Before the worker goes bad: ten seconds at 300 a second."""
BENT = """\
import os, sys
from pathlib import Path
words = Path("/proc/self/cmdline").read_bytes().split(b"\\0")
if b"abfleet_worker" in words and VERSION.encode() in words:
    from abfleet_worker import app
    from tests.support.bent_worker import Bend, bent_service
    app.ModelService = bent_service(Bend(Path(BEND)))
"""
"""What the interpreter runs at its start: in the treatment's worker alone it bends the service."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 where each halt came in time and no call of control failed."""
    parser = argparse.ArgumentParser(prog="./run prove autopilot", description=__doc__)
    parser.add_argument("--harm", default="silent,wrong")
    parser.add_argument("--rate", type=float, default=300)
    parser.add_argument("--absent", type=int, default=60, metavar="SECONDS")
    parser.add_argument("--share", type=float, default=0.1, help="of the wrong answers")
    parser.add_argument("--minutes", type=float, default=15, help="until a halt is missed")
    given = parser.parse_args(arguments)
    right = [case(harm, given) for harm in given.harm.split(",")]
    return 0 if all(right) else 1


def case(harm: str, given: argparse.Namespace) -> bool:
    """One kind of harm: whether all went as it should."""
    how = {"silent": {"hang": True}, "wrong": {"fail_share": given.share}}[harm]
    text = experiments_file(
        *(50, 50, 0),
        metrics={"primary": "ctr", "guardrails": ["error_rate"]},
        autopilot={"absent": f"{given.absent}s"},
    )
    with tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name:
        folder, bend = Path(name), Path(name) / "bend.json"
        registry = tiny_models(folder / "models")
        with bent(folder / "site", bend), Up(folder, registry, experiments=text) as up:
            up.ready()
            up.wait_for("the autopilot watches homepage-ranking")
            load = Load(up.address, rate=given.rate, prefix=harm, users=1_000_000)
            asyncio.run(load.until(story(load, folder, bend, how, given.minutes * 60)))
            begun = bend.stat().st_mtime
        return told(harm, load, folder / "logs", begun)


@contextmanager
def bent(site: Path, bend: Path) -> Iterator[None]:
    """Processes that are started within it bend the treatment's worker as the file says."""
    site.mkdir()
    (site / "sitecustomize.py").write_text(f"VERSION, BEND = {VERSION!r}, {str(bend)!r}\n{BENT}")
    before = os.environ.get("PYTHONPATH")
    here = str(Path(__file__).resolve().parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join([str(site), *([before] if before else []), here])
    try:
        yield
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


async def story(load: Load, folder: Path, bend: Path, how: dict[str, Any], seconds: float) -> None:
    """Good calls, then harm, until it is halted and some more calls have come."""
    await asyncio.to_thread(wait_until, lambda: len(load.answers) >= STEADY_CALLS, "calls before it", 180.0)
    replace(bend, json.dumps(how))
    print(f"{how} from call {len(load.answers):,} on, {time.strftime('%H:%M:%S')}", flush=True)
    await asyncio.to_thread(wait_until, lambda: any(halts(folder / "logs")), "the halt", seconds)
    before = len(load.answers)
    await asyncio.to_thread(wait_until, lambda: len(load.answers) >= before + 1000, "calls after it", 60.0)


def halts(logs: Path) -> Iterator[dict[str, Any]]:
    """Lines by which routers take the experiment out of force; read from the files' ends, which grow fast."""
    for path in logs.glob("decisions-*.jsonl"):
        if path.stat().st_size:
            yield from (one for one in lines(path, {"allocation"}) if not one["traffic"])


def lines(path: Path, events: set[str]) -> Iterator[dict[str, Any]]:
    """The lines of some kinds."""
    marks = [f'"event":"{event}"'.encode() for event in events]
    with path.open("rb") as file:
        for raw in file:
            if any(mark in raw[:60] for mark in marks) and raw.endswith(b"\n"):
                yield json.loads(raw)


def told(harm: str, load: Load, logs: Path, begun: float) -> bool:
    """Says what the log has; whether it is as it should be."""
    (path,) = logs.glob("actions-*.jsonl")
    action, done = [json.loads(line) for line in path.read_text().splitlines()]
    halted = next(halts(logs))
    calls = [one for log in logs.glob("decisions-*.jsonl") for one in lines(log, {"exposure"})]
    control = [one for one in calls if one["group"] == "control"]
    failed = [one for one in control if one["status"] != "OK" or one["fallback"]]
    harmed = {
        one["user_id"] for one in calls if one["group"] == TREATMENT and (one["fallback"] or one["status"] != "OK")
    }
    took = at(halted["ts"]) - at(action["as_of"])
    print(f"{harm}: {action['action']} {action['group']}, {done['outcome']}: {action['reasons'][0]}")
    print(f"  from harm to the sufficient line  {(at(action['as_of']) - begun) / 60:.1f} min")
    print(f"  from that line to the allocation  {took:.1f} s (at most {MOST_SECONDS:g})")
    print(f"  calls of control's users failed   {len(failed):,} of {len(control):,}")
    print(f"  calls that a caller saw fail      {len(load.errors):,} of {len(calls):,}")
    print(f"  users harmed                      {len(harmed):,}", flush=True)
    return took <= MOST_SECONDS and not failed and done["outcome"] == "edited" and action["group"] == TREATMENT


def at(ts: str) -> float:
    """Seconds since 1970."""
    return datetime.fromisoformat(ts).timestamp()


if __name__ == "__main__":
    raise SystemExit(main())
