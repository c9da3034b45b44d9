"""What the decision log costs: the router's CPU at saturation with it, and without a single line of it.

    python -m tests.benchmarks.log_share [--rounds N] [--in-flight N] [--transport native|grpcio]

Two routers over the same identity workers take the same load in turns: the one that ships, logging to files (encoding,
gathering, the writer's thread, the kernel's part of its writes), and `unlogged_router`, which differs in nothing else.
The share is 1 − without / with for each round; the median of the rounds counts, because a busy machine hits both.
"""

import argparse
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import measure
from tests.benchmarks.fleets import fleet
from tests.benchmarks.paths import Stage, h2load, our_router

BOUND = 0.15
"""Of the router's CPU, at most."""
WARM_UP_CALLS, CALLS = 5_000, 60_000


@dataclass(frozen=True, slots=True)
class Round:
    """One pass of each, one after the other: CPU µs a call of the router's process, and calls a second."""

    with_us: float
    without_us: float
    with_rate: float
    without_rate: float

    @property
    def share(self) -> float:
        """Of the router's CPU that is the log's."""
        return 1 - self.without_us / self.with_us


def main(arguments: list[str]) -> int:
    """Measures and prints; 1 when the share is over its bound, 2 where the load cannot be made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="alternations [9]")
    parser.add_argument("--in-flight", type=int, default=120, help="calls at a time [120]")
    parser.add_argument("--transport", choices=("native", "grpcio"), default="native")
    options = parser.parse_args(arguments)
    if h2load() is None:
        print("h2load is not installed (Debian: nghttp2-client); it makes the load", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="abfleet-bench-") as name:
        rounds = rounds_of(Path(name), options.rounds, options.in_flight, options.transport)
    for one in rounds:
        print(f"with {one.with_us:5.1f} µs a call, without {one.without_us:5.1f} µs: {one.share:6.1%}")
    share = statistics.median(one.share for one in rounds)
    medians = [
        statistics.median(getattr(one, field) for one in rounds)
        for field in ("with_us", "without_us", "with_rate", "without_rate")
    ]
    print(
        f"{options.transport}, {options.in_flight} in flight, medians of {len(rounds)} rounds: "
        f"{medians[0]:.1f} µs with, {medians[1]:.1f} µs without, {medians[2]:.0f} and {medians[3]:.0f} calls/s; "
        f"the log's share of the router's CPU is {share:.1%} (bound {BOUND:.0%})"
    )
    return int(share > BOUND)


def rounds_of(directory: Path, rounds: int, in_flight: int, transport: str, calls: int = CALLS) -> list[Round]:
    """Alternates the two routers. Raises WrongAnswers when one does not answer, or logs when it must not."""
    with ExitStack() as stack:
        workers = stack.enter_context(fleet("identity", directory))
        stage = Stage(directory, workers.ports)
        ways = []
        for name, module in (("with", "abfleet_router"), ("without", "tests.benchmarks.unlogged_router")):
            running = our_router(stage, transport=transport, name=name, module=module)
            assert running.router is not None
            stack.callback(running.router.stop)
            users = measure.find_users(running, workers)
            lines = measure.log_lines_a_call(running, users, calls=600, at_once=60)
            if (lines >= 1) is not (name == "with") or (name == "without" and lines):
                raise measure.WrongAnswers(f"{name}: {lines:g} lines a call")
            ways.append((running, users))
        done = []
        for number in range(rounds + 1):  # the first is a warm-up
            passes = [
                measure.saturated(
                    running,
                    workers,
                    users,
                    calls=calls if number else WARM_UP_CALLS,
                    in_flight=in_flight,
                    directory=directory,
                )
                for running, users in (ways if number % 2 else ways[::-1])
            ]
            with_it, without = passes if number % 2 else passes[::-1]
            if number:
                done.append(Round(with_it.router_us, without.router_us, with_it.calls_per_s, without.calls_per_s))
    return done


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
