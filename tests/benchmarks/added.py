"""Whether `abfleet_added_latency_seconds` tells the truth: beside what a caller measures, with and without the router.

The same calls go, one at a time and in turns, through the router and straight to the worker that would serve them. What
the router adds is the difference of the two means; what it says of itself is the mean of its own histogram over the
same calls. `python -m tests.benchmarks.added` prints both and their ratio.
"""

import argparse
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import grpc
from abfleet_protos.recommender_pb2 import RecommendRequest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.fleet import VERSIONS, Fleet, experiments_file

METRIC = "abfleet_added_latency_seconds"


def main(argv: list[str]) -> int:
    """Measures and prints; always 0: a figure, not a verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=3000, help="through each way [3000]")
    parser.add_argument("--transport", choices=("native", "grpcio"), default="native")
    options = parser.parse_args(argv)
    with (
        tempfile.TemporaryDirectory(prefix="abfleet-bench-") as name,
        Fleet(Path(name), experiments=experiments_file(), transport=options.transport) as fleet,
    ):
        for version in VERSIONS:
            fleet.wait_for_serving(version)
        said, seen, through, straight = measure(fleet, options.calls)
    print(
        f"{options.transport}: through the router {through * 1e6:.0f} µs, straight {straight * 1e6:.0f} µs; "
        f"added: seen {seen * 1e6:.0f} µs, said {said * 1e6:.0f} µs, ratio {said / seen:.2f}"
    )
    return 0


def measure(fleet: Fleet, calls: int) -> tuple[float, float, float, float]:
    """(said, seen, mean through the router, mean straight to the worker), in seconds."""
    payload = RecommendRequest(item_ids=[1, 2, 3, 10, 15]).SerializeToString()  # without a user: the default version
    with (
        grpc.insecure_channel(fleet.address) as router,
        grpc.insecure_channel(fleet.worker_addresses["v1.2.3", 0]) as worker,
    ):
        ways = [channel.unary_unary("/Recommender/Recommend") for channel in (router, worker)]
        for way in ways:
            for _ in range(300):
                way(payload, timeout=10)
        before = histogram(fleet)
        took: list[list[float]] = [[], []]
        for _ in range(calls):
            for way, times in zip(ways, took, strict=True):
                begun = time.perf_counter()
                way(payload, timeout=10)
                times.append(time.perf_counter() - begun)
        after = histogram(fleet)
    said = (after[0] - before[0]) / (after[1] - before[1])
    # Nothing is trimmed: the histogram's sum has every stall in it, and so must what it is compared with.
    through, straight = (statistics.fmean(times) for times in took)
    return said, through - straight, through, straight


def histogram(fleet: Fleet) -> tuple[float, float]:
    """(sum in seconds, count) of the router's own measurement."""
    with urllib.request.urlopen(f"http://{fleet.metrics_address}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        samples = {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}
    return samples[f"{METRIC}_sum"], samples[f"{METRIC}_count"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
