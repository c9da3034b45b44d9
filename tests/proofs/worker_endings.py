"""What a pool of one loses where its worker ends streams or says goodbye, beside grpcio's client on the same worker.

`./run prove worker-endings [--seconds S] [--every S]`: a worker in raw bytes ends one batch every 2 s in one way, a
router and a grpcio channel call it at the same rate in one run. No call may be lost that the channel would not have
lost, nor be answered twice. The suite has a short form.
"""

import argparse
import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass

import grpc
import structlog
from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_protos.worker_pb2 import RecommendBatchRequest

from tests.router.fakes import FakeCall
from tests.router.live import LiveRouter
from tests.support.fake_worker import Ending, FakeWorker

RESETS = tuple(Ending("reset", code) for code in range(14))
STATUSES = tuple(Ending("status", code) for code in (1, 2, 10, 13, 14))
GOODBYES = (Ending("goodbye"), Ending("last"))
METHOD = "/Worker/RecommendBatch"
BURST = 4
"""Calls that come together."""


@dataclass(slots=True)
class Lost:
    """What became of the calls."""

    ending: str
    calls: int = 0
    lost: int = 0
    twice: int = 0
    ended: int = 0
    grpcio_calls: int = 0
    grpcio_lost: int = 0
    grpcio_ended: int = 0

    @property
    def holds(self) -> bool:
        """Whether no more were lost than grpcio's client loses, and none was answered twice."""
        return self.lost <= self.grpcio_lost and not self.twice and self.ended > 0

    def text(self) -> str:
        """A line of the table."""
        return (
            f"{self.ending:<12}{self.calls:>8}{self.ended:>8}{self.lost:>8}{self.twice:>8}"
            f"{self.grpcio_calls:>14}{self.grpcio_ended:>8}{self.grpcio_lost:>8}"
        )


HEAD = f"{'ending':<12}{'calls':>8}{'ended':>8}{'lost':>8}{'twice':>8}{'grpcio calls':>14}{'ended':>8}{'lost':>8}"


class Every:
    """One batch in so many seconds is to end so."""

    def __init__(self, ending: Ending, seconds: float) -> None:
        self._ending, self._seconds = ending, seconds
        self._next = time.monotonic() + seconds

    def __call__(self) -> Ending | None:
        now = time.monotonic()
        if now < self._next:
            return None
        self._next = now + self._seconds
        return self._ending


async def run(ending: Ending, *, seconds: float, every: float, rate: float = 200.0) -> Lost:
    """Both callers for so long, each with a worker of the same kind."""
    async with FakeWorker() as ours, FakeWorker() as theirs, LiveRouter([ours.address]) as live:
        found = Lost(ending.name)
        worker = grpc.aio.insecure_channel(theirs.address, [("grpc.use_local_subchannel_pool", 1)])
        async with worker as channel:
            call = channel.unary_unary(METHOD)
            await call(_batch(1), timeout=30.0)
            ours.due, theirs.due = Every(ending, every), Every(ending, every)
            calls: list[FakeCall] = []
            asked: list[asyncio.Future[bytes]] = []
            begun = time.monotonic()
            while (now := time.monotonic()) < begun + seconds:
                calls += live.arrive(BURST)
                asked += [asyncio.ensure_future(_ask(call)) for _ in range(BURST)]
                await asyncio.sleep(max(0.0, now + BURST / rate - time.monotonic()))
            results = await asyncio.gather(*asked)
            async with asyncio.timeout(30):
                while not all(one.answers for one in calls):
                    await asyncio.sleep(0.01)
        lost = Counter(isinstance(one.answers[0], bytes) for one in calls)
        found.calls, found.lost, found.ended = len(calls), lost[False], ours.ended
        found.twice = sum(len(one.answers) > 1 for one in calls)
        found.grpcio_calls, found.grpcio_lost, found.grpcio_ended = len(results), results.count(False), theirs.ended
        return found


def _batch(number: int) -> bytes:
    request = RecommendRequest(item_ids=[number]).SerializeToString()
    return RecommendBatchRequest(requests=[request], timeout_ms=[2000]).SerializeToString()


async def _ask(call: "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]") -> bool:
    try:
        await call(_batch(1), timeout=2.0)
    except grpc.aio.AioRpcError:
        return False
    return True


def main() -> int:
    """All endings, one after the other."""
    parser = argparse.ArgumentParser(prog="./run prove worker-endings", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each ending (10)")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two batches that end so (2)")
    got = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    print(HEAD, flush=True)
    broken = 0
    for ending in (*RESETS, *STATUSES, *GOODBYES):
        found = asyncio.run(run(ending, seconds=got.seconds, every=got.every))
        print(found.text(), "" if found.holds else " BROKEN", flush=True)
        broken += not found.holds
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
