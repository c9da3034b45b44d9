"""Where the time goes when there is little to do: how often a call wakes each process, and what it costs there.

At a low rate a call meets idle threads: each hand-over wakes one, and that, not the work, is most of its CPU and of
its latency. `python -m tests.benchmarks.wakeups --rate 1000` sends an open-loop load through each path in short rounds,
in turns, and prints for each process the times that its threads slept and were woken, and CPU µs, a call. A round on a
busy machine shows itself: the sender is late.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import measure
from tests.benchmarks.fleets import Fleet, fleet
from tests.benchmarks.measure import User
from tests.benchmarks.paths import PATHS, Running, Stage
from tests.benchmarks.processes import Child
from tests.benchmarks.sender import Outcome, Sender, percentile, poisson_schedule


@dataclass(frozen=True, slots=True)
class Spent:
    """What threads have spent so far: times asleep, and CPU seconds."""

    sleeps: int
    cpu_seconds: float


def main(arguments: Sequence[str]) -> int:
    """Measures and prints; always 0: figures, not a verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=1000, help="calls a second [1000]")
    parser.add_argument("--seconds", type=float, default=5, help="of a round [5]")
    parser.add_argument("--rounds", type=int, default=5, help="of each path [5]")
    parser.add_argument("--paths", default="native,envoy", help="as for the benchmark [native,envoy]")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="abfleet-bench-") as name, fleet("identity", Path(name)) as workers:
        stage = Stage(Path(name), workers.ports)
        started: list[Running] = []
        try:
            for path in PATHS:
                if path.name in options.paths.split(",") and path.missing() is None:
                    started.append(path.start(stage))
            users = [measure.find_users(running, workers) for running in started]
            for number in range(options.rounds):
                for running, its_users in zip(started, users, strict=True):
                    due = poisson_schedule(options.rate, options.seconds, seed=number)
                    show(running, workers, its_users, due)
        finally:
            for running in started:
                if running.router is not None:
                    running.router.stop()
    return 0


def show(running: Running, workers: Fleet, users: Sequence[User], due: Sequence[float]) -> None:
    """One round of one path, as one line."""
    processes = {"router": [running.router] if running.router else [], "workers": list(workers.children)}
    sender = Sender([user.request for user in users], connections=20)
    try:
        sender.in_flight(500, at_once=20)  # connections and caches warm
        before = {name: spent(children) for name, children in processes.items()}
        outcome: Outcome = sender.on_schedule(due)
        after = {name: spent(children) for name, children in processes.items()}
    finally:
        sender.close()
    calls = len(due)
    each = ", ".join(
        f"{name} {(after[name].sleeps - before[name].sleeps) / calls:.2f} wakes "
        f"{(after[name].cpu_seconds - before[name].cpu_seconds) / calls * 1e6:.0f} µs"
        for name in processes
    )
    latencies = outcome.latencies_ms
    print(
        f"{running.name:<8} {each}; p50 {percentile(latencies, 50):.2f} ms, p99 {percentile(latencies, 99):.2f} ms, "
        f"sender late p99 {percentile(outcome.late_ms, 99):.2f} ms, not OK {calls - outcome.ok}",
        flush=True,
    )


def spent(children: Sequence[Child]) -> Spent:
    """All threads of these processes and of their children."""
    sleeps, cpu_seconds = 0, 0.0
    for child in children:
        for process in child.members():
            times = process.cpu_times()
            cpu_seconds += times.user + times.system
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                with suppress(OSError):  # it has ended
                    status = (thread / "status").read_text()
                    sleeps += int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    return Spent(sleeps, cpu_seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
