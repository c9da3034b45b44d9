"""More calls than a router can read: how many of them are answered in time, and what becomes of the others.

`python -m tests.benchmarks.flood --rates 10000,20000` offers each rate for some seconds, open loop, to a router with
identity workers, and prints what came of the calls, with the latency of those that were answered. Where the proof
`overload` has workers that are too slow, here it is the router's own event loop that has too much to do.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks import measure
from tests.benchmarks.fleets import fleet
from tests.benchmarks.paths import Stage, our_router


def main(arguments: Sequence[str]) -> int:
    """Measures and prints; always 0: figures, not a verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", default="5000,10000,20000,30000", help="calls a second [5000,10000,20000,30000]")
    parser.add_argument("--seconds", type=float, default=4, help="of each rate [4]")
    parser.add_argument("--transport", choices=("native", "grpcio"), default="native")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="abfleet-bench-") as name, fleet("identity", Path(name)) as workers:
        router = our_router(Stage(Path(name), workers.ports), transport=options.transport, name=options.transport)
        try:
            users = measure.find_users(router, workers)
            for rate in map(float, options.rates.split(",")):
                found = measure.latency(router, workers, users, label="flood", rate=rate, seconds=options.seconds)
                print(
                    f"{rate:>8,.0f}/s offered: {found.achieved:>8,.0f}/s answered, p50 {found.p50_ms:.0f} ms, "
                    f"p99 {found.p99_ms:.0f} ms; others: {found.failures or 'none'} "
                    f"(router {found.router_us:.0f} µs a call, sender late by {found.sender_late_p99_ms:.0f} ms)",
                    flush=True,
                )
        finally:
            if router.router is not None:
                router.router.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
