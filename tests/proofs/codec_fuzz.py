"""Our HTTP/2 client against our HTTP/2 server, with mistakes among the bytes between them.

`./run prove codec-fuzz [SECONDS] [--seed TEXT]`. The suite has a short form, and `prove fuzz` a part of it. A trial
that failed is had again by `python -m tests.fuzz.one`, with its seed.
"""

import argparse
import resource

from tests.fuzz.codecs import TARGETS
from tests.proofs.fuzz import HEAD, fuzz

NO_END = 10**9
"""Trials: it is time that ends them."""


def main() -> int:
    """At full length, in a process of its own."""
    parser = argparse.ArgumentParser(prog="./run prove codec-fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("seconds", type=float, nargs="?", default=3600.0, help="(3,600)")
    parser.add_argument("--seed", default="1")
    got = parser.parse_args()
    print(HEAD, flush=True)
    found = [fuzz(target, seed=got.seed, inputs=NO_END, seconds=got.seconds) for target in TARGETS]
    for one in found:
        print(one.text())
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{used.ru_utime + used.ru_stime:.0f} s of CPU")
    return 1 if any(one.wrong for one in found) else 0


if __name__ == "__main__":
    raise SystemExit(main())
