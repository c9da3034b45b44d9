"""What tracing costs a call in the router: CPU µs in one process, no network. Knows the router's parts, no transport.

    python -m tests.benchmarks.tracing

Rounds alternate between the ways, so that a busy machine is busy for all of them; the least of each is shown.
"""

import argparse
import asyncio
import random
import time
from collections.abc import Callable
from typing import cast

from abfleet_log.writer.decision_log import DecisionLog
from abfleet_process.tracing import otlp
from abfleet_process.tracing.spans import Resource, Span
from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_router.calls.spans import CallTracer
from abfleet_transport.call import Metadata

from tests.router.bench import Bench, fake
from tests.router.fakes import FakeCall, Sent, turns, worker_answer

TOGETHER = 100
USERS = [f"user-{number}" for number in range(TOGETHER)]
PAYLOADS = [RecommendRequest(item_ids=[1, 2, 3, 10, 15], user_id=user).SerializeToString() for user in USERS]
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-"


class NoLog:
    """Takes lines and keeps none."""

    def append(self, line: bytes) -> None:
        """Drops it."""


class Way:
    """A router that traces, or does not; `spans` is what it would have sent."""

    def __init__(self, ratio: float | None, metadata: Metadata = ()) -> None:
        self.spans: list[Span] = []
        self.metadata = metadata
        tracer = None
        if ratio is not None:
            chance = random.Random(1)
            tracer = CallTracer(self.spans.append, ratio, draw=chance.random, bits=chance.getrandbits)
        self.bench = Bench(tracer=tracer)
        self.bench.router._records._log = cast(DecisionLog, NoLog())

    async def round(self, calls: int) -> float:
        """CPU µs a call, of the router's own work: what stands for workers answers outside of the measured time."""
        bench, spent = self.bench, 0.0
        for _ in range(calls // TOGETHER):
            arriving = [FakeCall(payload, bench.clock.now, None, self.metadata) for payload in PAYLOADS]
            begun = time.process_time()
            bench.router.on_calls(arriving)  # type: ignore[arg-type]
            await turns(2)
            spent += time.process_time() - begun
            waiting: list[tuple[Sent, bytes]] = [
                (sent, worker_answer(one.version, sent.requests)) for one, sent in bench.open_batches()
            ]
            begun = time.process_time()
            for sent, answer in waiting:
                sent.answer(answer)
            await turns(3)
            spent += time.process_time() - begun
            for one in bench.made:
                fake(one).sent.clear()
            self.spans.clear()
        return spent / calls * 1e6


WAYS: dict[str, Callable[[], Way]] = {
    "off": lambda: Way(None),
    "off, and the caller has a trace": lambda: Way(None, (("traceparent", TRACEPARENT + "01"),)),
    "on, nothing sampled (0)": lambda: Way(0.0),
    "on, a hundredth sampled (0.01)": lambda: Way(0.01),
    "on, the caller does not sample": lambda: Way(1.0, (("traceparent", TRACEPARENT + "00"),)),
    "on, everything sampled (1)": lambda: Way(1.0),
}


async def measure(rounds: int, calls: int) -> dict[str, float]:
    """The least of the rounds by way."""
    ways = {name: make() for name, make in WAYS.items()}
    for way in ways.values():
        await way.bench.open()
        await way.round(calls // 10)
    least = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            least[name] = min(least[name], await way.round(calls))
    for way in ways.values():
        await way.bench.close()
    return least


def encoding() -> float:
    """CPU µs for one span in the exporter's thread."""
    spans: list[Span] = []
    tracer = CallTracer(spans.append, 1.0, draw=lambda: 0.0, bits=random.Random(1).getrandbits)

    async def some() -> None:
        bench = Bench(tracer=tracer)
        await bench.open()
        await bench.arrive(*(bench.call(user) for user in USERS))
        await bench.run_dry()
        await bench.close()

    asyncio.run(some())
    least = float("inf")
    for _ in range(20):
        begun = time.process_time()
        otlp.request(Resource({"service.name": "abfleet-router"}), spans)
        least = min(least, time.process_time() - begun)
    return least / len(spans) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=5000, help="in a round")
    arguments = parser.parse_args()
    least = asyncio.run(measure(arguments.rounds, arguments.calls))
    for name, microseconds in least.items():
        print(f"{name:34} {microseconds:6.2f} µs a call  {microseconds - least['off']:+6.2f}")
    print(f"{'encoding, in a thread of its own':34} {encoding():6.2f} µs a span")


if __name__ == "__main__":
    main()
