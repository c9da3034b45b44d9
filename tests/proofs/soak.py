"""A fleet that keeps half of the machine busy, for an hour or as asked: nothing of it grows, and it gets no slower.

`./run prove soak [--minutes M] [--rate R]` finds out how many calls a second that takes, sends so many (or what is
asked) on a schedule that does not wait for answers, and prints a sample each minute: calls, p99, and memory,
descriptors and threads of the router and of each worker. It judges the slopes of those after the first fifth.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression, median

import psutil
from abfleet_protos.recommender_pb2 import RecommendRequest

from tests.benchmarks.load import METHOD_PATH
from tests.benchmarks.sender import Request, Sender, percentile, poisson_schedule
from tests.proofs.exactly_once import histories
from tests.support.fleet import VERSIONS, Fleet, experiments_file

WARM_SHARE = 0.2
GROWTH_SHARE = 0.05
"""Of the median: what a slope may come to over the whole time. Single readings go up and down by as much."""
LEAST_GROWTH_MB = 5.0
P99_TIMES = 3.0
"""Median of the last third against that of the first; a busy machine moves single ones by more."""
USERS = 10_000
CONNECTIONS, AT_ONCE, PROBE_CALLS, PROBE_SECONDS = 30, 120, 60_000, 8.0
HEAD = "".join(f"{name:>10}" for name in ("minute", "calls", "failed", "p99 ms")) + "  MB, descriptors and threads of"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a process has at a moment."""

    resident_mb: float
    descriptors: int
    threads: int

    def __str__(self) -> str:
        return f"{self.resident_mb:.1f}/{self.descriptors}/{self.threads}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One minute, or what stands for one."""

    minute: float
    calls: int
    failures: Mapping[int, int]
    """By gRPC status; of calls that got none, by what the sender has in its place."""
    p99_ms: float
    held: Mapping[str, Held]
    """By the name of the process."""

    @property
    def failed(self) -> int:
        """Calls of this minute."""
        return sum(self.failures.values())

    def text(self) -> str:
        """A line of the table."""
        cells = (f"{self.minute:.1f}", str(self.calls), str(self.failed), f"{self.p99_ms:.1f}")
        held = "".join(f"  {name} {value}" for name, value in self.held.items())
        return "".join(f"{cell:>10}" for cell in cells) + held


def growth(samples: Sequence[Sample], value: Callable[[Sample], float]) -> float:
    """What the fitted line comes to from the first sample to the last."""
    minutes = [one.minute for one in samples]
    return linear_regression(minutes, [value(one) for one in samples]).slope * (minutes[-1] - minutes[0])


def grows(warm: Sequence[Sample], name: str) -> list[str]:
    """What of a process does."""
    found = []
    grown_mb = growth(warm, lambda one: one.held[name].resident_mb)
    usual_mb = median(one.held[name].resident_mb for one in warm)
    if grown_mb > max(LEAST_GROWTH_MB, GROWTH_SHARE * usual_mb):
        found.append(f"memory grows by {grown_mb:.1f} MB over the time, at {usual_mb:.0f} MB")
    counts: tuple[tuple[str, Callable[[Sample], float]], ...] = (
        ("descriptors", lambda one: one.held[name].descriptors),
        ("threads", lambda one: one.held[name].threads),
    )
    for what, value in counts:
        if (grown := growth(warm, value)) > max(2.0, GROWTH_SHARE * median(map(value, warm))):
            found.append(f"{what} grow by {grown:.1f} over the time")
    return found


def held(process: psutil.Process) -> Held:
    """What it has now."""
    return Held(
        resident_mb=process.memory_info().rss / 1e6, descriptors=process.num_fds(), threads=process.num_threads()
    )


def verdicts(samples: Sequence[Sample]) -> list[str]:
    """What is wrong; nothing, if nothing is."""
    warm = samples[int(len(samples) * WARM_SHARE) :]
    if len(warm) < 3:
        return [f"{len(warm)} samples after the warm-up; at least 3 are needed"]
    found = [
        f"{one.failed} calls failed in minute {one.minute:.1f}: {dict(one.failures)}" for one in samples if one.failed
    ]
    for name in warm[0].held:
        found += [f"{name}: {what}" for what in grows(warm, name)]
    third = max(1, len(warm) // 3)
    first, last = (median(one.p99_ms for one in part) for part in (warm[:third], warm[-third:]))
    if last > P99_TIMES * first:
        found.append(f"it gets slower: p99 {first:.1f} ms at first, {last:.1f} ms at the end")
    return found


def requests(port: int) -> list[Request]:
    """Calls of `USERS` users, each with one of the histories."""
    rows = histories(1)
    return [
        Request.of(
            port=port,
            path=METHOD_PATH,
            payload=RecommendRequest(item_ids=rows[number % len(rows)]).SerializeToString(),
            headers={"x-user-id": user},
        )
        for number, user in enumerate(f"soak-{number}" for number in range(USERS))
    ]


def half_load(calls: Sequence[Request], say: Callable[[str], None]) -> float:
    """Calls a second that keep half of the machine's cores busy, the sender of the calls included.

    Half of the most answers a second would be more than that: fewer calls at a time share less.
    """
    sender = Sender(calls, connections=CONNECTIONS)
    try:
        done = sender.in_flight(PROBE_CALLS, at_once=AT_ONCE)
        most = done.ok / done.elapsed_s
        psutil.cpu_percent()
        sender.on_schedule(poisson_schedule(most / 4, PROBE_SECONDS, seed=0), patience_s=0.1)
        busy = psutil.cpu_percent() / 100
    finally:
        sender.close()
    rate = min(most / 2, most / 4 * 0.5 / busy)
    say(
        f"it can take {most:.0f} calls/s, and {most / 4:.0f} keep {busy:.0%} of the machine busy; so {rate:.0f} calls/s"
    )
    return rate


def soak(
    folder: Path, *, minutes: float, rate: float | None, every_seconds: float, say: Callable[[str], None]
) -> list[Sample]:
    """Runs a fleet of one worker a version so long, at `rate` calls a second or what keeps half of the machine busy.

    Each sample has connections of its own, so that opening and closing them is part of what must not leak.
    """
    samples: list[Sample] = []
    with Fleet(folder, experiments=experiments_file(), router_flags=("--log-level", "error")) as fleet:
        for version in VERSIONS:
            fleet.wait_for_serving(version)
        assert fleet.router is not None
        processes = {"router": psutil.Process(fleet.router.popen.pid)}
        processes |= {version: psutil.Process(worker.popen.pid) for (version, _), worker in fleet.workers.items()}
        calls = requests(int(fleet.address.rpartition(":")[2]))
        if rate is None:
            rate = half_load(calls, say)
        for number in range(1, max(1, round(minutes * 60 / every_seconds)) + 1):
            sender = Sender(calls, connections=CONNECTIONS)
            try:
                seen = sender.on_schedule(poisson_schedule(rate, every_seconds, seed=number))
                has = {name: held(process) for name, process in processes.items()}
            finally:
                sender.close()
            samples.append(
                Sample(
                    minute=number * every_seconds / 60,
                    calls=seen.sent,
                    failures={status: count for status, count in seen.statuses.items() if status != 0},
                    p99_ms=percentile(seen.latencies_ms, 99),
                    held=has,
                )
            )
            say(samples[-1].text())
    return samples


def main() -> int:
    """An hour, or as asked."""
    parser = argparse.ArgumentParser(prog="./run prove soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (60)")
    parser.add_argument("--rate", type=float, help="calls a second (what keeps half of the machine busy)")
    got = parser.parse_args()
    every = min(60.0, got.minutes * 60 / 15)
    with tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name:
        print(HEAD, flush=True)
        samples = soak(
            Path(name),
            minutes=got.minutes,
            rate=got.rate,
            every_seconds=every,
            say=lambda line: print(line, flush=True),
        )
    wrong = verdicts(samples)
    print(f"{sum(one.calls for one in samples):,} calls; " + ("; ".join(wrong) or "nothing grows, nothing gets slower"))
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
