"""Mutated calls of the Open Inference Protocol: each has one answer, and none fails another.

`./run prove infer-fuzz [--messages N] [--seed TEXT]`. The suite has a short form, and `prove fuzz` a part of it.
"""

import argparse

from tests.fuzz.tensors import TARGETS
from tests.proofs.fuzz import HEAD, fuzz

MINUTES = 30.0
"""At most: a message costs less than a millisecond."""


def main() -> int:
    """At full length, in a process of its own."""
    parser = argparse.ArgumentParser(prog="./run prove infer-fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=200_000, help="(200,000)")
    parser.add_argument("--seed", default="1")
    got = parser.parse_args()
    print(HEAD, flush=True)
    found = [fuzz(target, seed=got.seed, inputs=got.messages, seconds=60 * MINUTES) for target in TARGETS]
    for one in found:
        print(one.text())
    return 1 if any(one.wrong for one in found) else 0


if __name__ == "__main__":
    raise SystemExit(main())
