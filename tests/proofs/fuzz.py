"""A million mutated inputs for every parser that takes outside bytes: none crashes, hangs or keeps memory.

`./run prove fuzz [--inputs N] [--seconds S] [--seed TEXT] [TARGET…]` prints a line for each target, which runs in a
process of its own; the suite has a short form. An input follows from seed, target and number: the same again each time.
"""

import argparse
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
SILENT_SECONDS = 90.0
"""A process that has said nothing for so long hangs, and cannot even tell so itself; starting a fleet takes a while."""
HEAD = f"{'target':<22}" + "".join(f"{name:>10}" for name in ("inputs", "taken", "seconds", "warm MB", "last MB"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fuzzed:
    """What became of one target."""

    target: Target
    inputs: int = 0
    accepted: int = 0
    seconds: float = 0.0
    warm_mb: float = 0.0
    last_mb: float = 0.0
    notes: tuple[str, ...] = ()
    wrong: str = ""
    """Why it failed; empty if it did not."""

    def text(self) -> str:
        """A line of the table."""
        cells = (
            *(f"{count:,}" for count in (self.inputs, self.accepted)),
            *(f"{value:.0f}" for value in (self.seconds, self.warm_mb, self.last_mb)),
        )
        line = f"{self.target.name:<22}" + "".join(f"{cell:>10}" for cell in cells)
        line += "".join(f"  {note}" for note in self.notes)
        return f"{line}\n  BROKEN: {self.wrong}" if self.wrong else line


def fuzz(target: Target, *, seed: str, inputs: int, seconds: float) -> Fuzzed:
    """Tries a target in a process of its own, and judges it."""
    command = [sys.executable, "-m", "tests.fuzz.one", target.name, seed, str(inputs), str(seconds)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    said: queue.Queue[str | None] = queue.Queue()
    ended: list[str] = []

    def hear() -> None:
        for line in process.stdout or ():
            said.put(line)
        said.put(None)

    # Both are read all the time: a full pipe would stop the process.
    readers = [
        threading.Thread(target=hear, daemon=True),
        threading.Thread(target=lambda: ended.extend(list(process.stderr or ())[-40:]), daemon=True),
    ]
    for reader in readers:
        reader.start()
    told: dict[str, float] = {}
    notes: list[str] = []
    wrong = ""
    while True:
        try:
            line = said.get(timeout=SILENT_SECONDS)
        except queue.Empty:
            process.kill()
            wrong = f"it hangs after input {told.get('done', 0):.0f}"
            break
        if line is None:
            break
        members = json.loads(line) if line.startswith("{") else {}
        if "failed" in members:
            wrong = f"input {members['failed']}: {members['error']}"
        elif "router_mb" in members:
            notes.append(f"router {members['router_mb']} MB, {members['honest_calls']} honest calls answered")
        told |= members
    code = process.wait()
    for reader in readers:
        reader.join(5)
    if code and not wrong:
        wrong = f"exit code {code} after input {told.get('done', 0)}: {''.join(ended)[-1500:]}"
    return judged(target, told, tuple(notes), wrong)


def judged(target: Target, told: dict[str, float], notes: tuple[str, ...], wrong: str) -> Fuzzed:
    """With what the process said: an end without numbers, or with too much memory, is a failure too."""
    if "inputs" not in told:
        return Fuzzed(target=target, notes=notes, wrong=wrong or "it ended without a word")
    grown = told["last_mb"] - told["warm_mb"]
    if not wrong and grown > target.growth_mb:
        wrong = f"it has grown by {grown:.0f} MB; at most {target.growth_mb:.0f} are allowed"
    return Fuzzed(
        target=target,
        inputs=int(told["inputs"]),
        accepted=int(told["accepted"]),
        seconds=told["seconds"],
        warm_mb=told["warm_mb"],
        last_mb=told["last_mb"],
        notes=notes,
        wrong=wrong,
    )


def run(
    targets: Sequence[Target], *, seed: str, inputs: int, seconds: float, say: Callable[[str], None] = print
) -> list[Fuzzed]:
    """These, one after the other; each has its part of the `inputs` of all that there are, so that a run may be made in
    pieces."""
    whole = sum(target.inputs for target in TARGETS)
    found = []
    for target in targets:
        part = target.inputs / whole
        found.append(fuzz(target, seed=seed, inputs=max(target.each, round(inputs * part)), seconds=seconds))
        say(found[-1].text())
    return found


def main() -> int:
    """At full length, or the targets that are named."""
    parser = argparse.ArgumentParser(prog="./run prove fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of all targets together (1,000,000)")
    parser.add_argument("--seconds", type=float, default=300.0, help="at most, of each target (300)")
    parser.add_argument("--seed", default="1")
    parser.add_argument("target", nargs="*", help="names of targets (all)")
    got = parser.parse_args()
    unknown = set(got.target) - {target.name for target in TARGETS}
    if unknown:
        parser.error(f"target: {sorted(unknown)} not known; there are {[target.name for target in TARGETS]}")
    chosen = [target for target in TARGETS if not got.target or target.name in got.target]
    begun = time.monotonic()
    print(HEAD, flush=True)
    found = run(chosen, seed=got.seed, inputs=got.inputs, seconds=got.seconds, say=lambda line: print(line, flush=True))
    broken = sum(bool(one.wrong) for one in found)
    print(f"{sum(one.inputs for one in found):,} inputs in {time.monotonic() - begun:.0f} s, {broken} targets broken")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
