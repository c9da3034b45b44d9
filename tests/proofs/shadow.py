"""What a version in the shadow costs users: their p99 with it and without it, in turn, over the same calls.

`./run prove shadow [--pairs N] [--seconds S] [--rate R]` runs pairs of passes with 10 % and with 100 % of the calls
asked again, at half of the rate that the machine carries if each call is made twice. The median ratio of the p99s of a
pair must be at most 1.05 and 1.2; also printed are its interval (bootstrap over pairs), the CPU that router and workers
spend a call, and how many calls were sent in the shadow or shed. It says something on a quiet machine alone.
"""

import argparse
import json
import random
import re
import statistics
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from abfleet_experiments.file.load import load_text
from abfleet_protos.recommender_pb2 import RecommendRequest

from tests.benchmarks.load import METHOD_PATH
from tests.benchmarks.sender import Request, Sender, percentile, poisson_schedule
from tests.proofs.exactly_once import histories
from tests.support.fleet import Fleet, experiments_file, wait_until

SERVED, SHADOWED = "v1.2.3", "v1.4.0-rc1"
BOUNDS = {10: 1.05, 100: 1.2}
CONNECTIONS, AT_ONCE, CALLS = 20, 64, 6_000
DRAWS = 4_000


def shadowed(percent: int) -> str:
    """Everybody gets one version, and another is asked with so many percent of the calls; 0: the key is not there."""
    file = json.loads(experiments_file(100, 0, 0))
    return json.dumps(file if not percent else file | {"shadow": [{"model": SHADOWED, "percent": percent}]})


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass: milliseconds, µs of CPU a call, calls that were not answered with OK."""

    p99_ms: float
    cpu_us: float
    not_ok: int


class Shadowed:
    """A fleet whose share of calls in the shadow can be changed while it runs."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        port = int(fleet.address.rpartition(":")[2])
        requests = [
            Request.of(
                port=port,
                path=METHOD_PATH,
                payload=RecommendRequest(item_ids=row, user_id=f"user-{n}", limit=10).SerializeToString(),
                headers={},
            )
            for n, row in enumerate(histories(1)[:500])
        ]
        self._sender = Sender(requests, connections=CONNECTIONS)

    def use(self, percent: int) -> None:
        """Puts a share into force, and lets caches become warm."""
        text = shadowed(percent)
        revision = load_text(text).revision
        self._fleet.edit(text)
        wait_until(lambda: self._fleet.status().config.revision == revision, f"{percent} % in force")
        self._sender.in_flight(500, at_once=10)

    def capacity(self) -> float:
        """Calls a second that the fleet answers as fast as it can."""
        outcome = self._sender.in_flight(CALLS, at_once=AT_ONCE)
        return outcome.ok / outcome.elapsed_s

    def run(self, percent: int, due: Sequence[float]) -> Pass:
        """One pass on a schedule."""
        self.use(percent)
        before = self._cpu_seconds()
        outcome = self._sender.on_schedule(due)
        spent = self._cpu_seconds() - before
        return Pass(percentile(outcome.latencies_ms, 99), 1e6 * spent / len(due), len(due) - outcome.ok)

    def asked(self) -> tuple[int, int]:
        """Calls that were sent in the shadow so far, and calls that were dropped instead."""
        with urllib.request.urlopen(f"http://{self._fleet.metrics_address}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        sent, shed = (
            sum(
                int(float(value))
                for value in re.findall(rf"^abfleet_shadow_{name}_total\S* (\S+)$", text, re.MULTILINE)
            )
            for name in ("sent", "shed")
        )
        return sent, shed

    def _cpu_seconds(self) -> float:
        processes = [self._fleet.router, *self._fleet.workers.values()]
        times = [psutil.Process(one.popen.pid).cpu_times() for one in processes if one is not None]
        return sum(one.user + one.system for one in times)


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """Of their median, 95 %, by bootstrap."""
    draw = random.Random(1)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(DRAWS))
    return medians[DRAWS // 40], medians[-DRAWS // 40]


def compare(fleet: Shadowed, percent: int, pairs: int, rate: float, seconds: float) -> float:
    """Runs the pairs and prints what came out; gives the median ratio of the p99s, inf where more calls failed with
    the shadow than without."""
    ratios, cpu, not_ok = [], [], {0: 0, percent: 0}
    before = fleet.asked()
    for pair in range(pairs):
        due = poisson_schedule(rate, seconds, seed=pair)
        order = (0, percent) if pair % 2 else (percent, 0)
        passes = {share: fleet.run(share, due) for share in order}
        ratios.append(passes[percent].p99_ms / passes[0].p99_ms)
        cpu.append(passes[percent].cpu_us / passes[0].cpu_us)
        for share, one in passes.items():
            not_ok[share] += one.not_ok
    median, (low, high) = statistics.median(ratios), interval(ratios)
    sent, shed = (now - then for now, then in zip(fleet.asked(), before, strict=True))
    print(
        f"{percent:3} %: p99 {median:.3f} × ({low:.3f} to {high:.3f}), CPU of the fleet {statistics.median(cpu):.2f} ×,"
        f" {not_ok[percent]} calls not answered, without it {not_ok[0]}; in the shadow {sent:,} sent, {shed:,} shed",
        flush=True,
    )
    return median if not_ok[percent] <= not_ok[0] else float("inf")


def main() -> int:
    """Exit code 1 where a bound is missed."""
    parser = argparse.ArgumentParser(prog="./run prove shadow", description=__doc__)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rate", type=float, help="calls a second; else half of what is carried if each is made twice")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        Fleet(Path(folder), experiments=shadowed(0), versions=(SERVED, SHADOWED)) as fleet,
    ):
        fleet.wait_for_serving(SHADOWED)
        measured = Shadowed(fleet)
        measured.use(0)
        rate = options.rate or measured.capacity() / 4
        print(f"{rate:.0f} calls a second, {options.pairs} pairs of {options.seconds:g} s", flush=True)
        found = {percent: compare(measured, percent, options.pairs, rate, options.seconds) for percent in BOUNDS}
    missed = [percent for percent, bound in BOUNDS.items() if not found[percent] <= bound]
    for percent in missed:
        print(f"missed: {percent} % may cost {BOUNDS[percent]} ×")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
