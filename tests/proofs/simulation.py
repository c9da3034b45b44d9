"""Seeds of the simulated data path, one after the other; a seed that breaks an invariant is cut down to a short script.

`./run prove simulation [--seeds N] [--from SEED] [--seconds S]`; `--script FILE` runs one script, `--trace` prints all
that happens in it. The suite has a short form.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from tests.simulation.script import Script, loads, script_of
from tests.simulation.shrink import shrink
from tests.simulation.simulation import Outcome, run

PROGRESS_EVERY = 100


def report(outcome: Outcome, *, shortens: bool) -> None:
    """What is broken, and a script that shows it again."""
    print(f"seed {outcome.script.seed} breaks {len(outcome.broken)} times:")
    for sentence in outcome.broken[:5]:
        print(f"  {sentence}")
    script = outcome.script
    if shortens:
        script = shrink(script, outcome.broken[0], lambda shorter: run(shorter).broken)
        print(f"  {len(script.faults)} faults and {sum(one.calls for one in script.phases)} calls are enough:")
    print(script.dumps(), flush=True)


def main() -> int:
    """Runs seeds, or one script."""
    parser = argparse.ArgumentParser(prog="./run prove simulation", description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=1000, help="how many (1000)")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first of them (0)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="at most, of processor time")
    parser.add_argument("--script", type=Path, help="a script that this command has printed, `-`: from standard input")
    parser.add_argument("--trace", action="store_true", help="print all that happens")
    parser.add_argument(
        "--digests", action="store_true", help="print for each seed what it was: another run, another digest"
    )
    parser.add_argument("--as-found", action="store_true", help="do not shorten what breaks")
    got = parser.parse_args()
    if got.script is not None:
        text = sys.stdin.read() if str(got.script) == "-" else got.script.read_text(encoding="utf-8")
        return one(loads(text), trace=got.trace)
    if got.trace:
        return one(script_of(got.first), trace=True)
    begun, broken, calls, done, virtual, faults = time.process_time(), 0, 0, 0, 0.0, 0
    for seed in range(got.first, got.first + got.seeds):
        outcome = run(script_of(seed))
        done, calls, virtual = done + 1, calls + outcome.calls, virtual + outcome.seconds
        faults += len(outcome.script.faults)
        if got.digests:
            print(f"{seed}: digest {outcome.digest}, {len(outcome.broken)} broken", flush=True)
        if outcome.broken:
            broken += 1
            report(outcome, shortens=not got.as_found)
        spent = time.process_time() - begun
        if done % PROGRESS_EVERY == 0 or spent > got.seconds:
            print(f"{done} seeds, {broken} broken, {done / spent:.2f} a processor second", flush=True)
        if spent > got.seconds:
            break
    spent = time.process_time() - begun
    print(
        json.dumps(
            {
                "seeds": done,
                "broken": broken,
                "calls": calls,
                "faults": faults,
                "virtual_hours": round(virtual / 3600, 1),
                "cpu_seconds": round(spent, 1),
                "seeds_a_cpu_second": round(done / spent, 2),
            }
        )
    )
    return 1 if broken else 0


def one(script: Script, *, trace: bool) -> int:
    """Runs a script once."""
    outcome = run(script, keeps_trace=trace)
    for line in outcome.trace or ():
        print(line)
    for sentence in outcome.broken:
        print(sentence)
    print(f"{outcome.calls} calls, {outcome.ok} answered, trace {outcome.digest}, {len(outcome.broken)} broken")
    return 1 if outcome.broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
