"""A straightforward grpc.aio router: parse, hash, forward one unary call, log. What one writes first; knows no batches.

Usage: `python -m tests.benchmarks.aio_router --listen 127.0.0.1:PORT --log FILE --target V=HOST:PORT …` with three
targets in the order of the groups; says `ready` when it listens.
"""

import argparse
import asyncio
import json
import signal
import time
from collections.abc import Sequence
from typing import TextIO

import grpc
import mmh3
from abfleet_protos.recommender_pb2 import RecommendRequest, RecommendResponse
from abfleet_protos.recommender_pb2_grpc import (
    RecommenderServicer,
    RecommenderStub,
    add_RecommenderServicer_to_server,
)

_GROUPS = ("control", "experiment", "canary")
_SALT = "homepage-ranking-2026-11"
_FLUSH_INTERVAL_S = 0.05


class Router(RecommenderServicer):
    """Forwards each call to the worker of the user's group. Holds its channels; changed by nobody."""

    def __init__(self, targets: Sequence[tuple[str, str]], log: TextIO) -> None:
        self._versions = [version for version, _ in targets]
        self._stubs = [RecommenderStub(grpc.aio.insecure_channel(address)) for _, address in targets]
        self._log = log

    async def Recommend(self, request: RecommendRequest, context: grpc.aio.ServicerContext) -> RecommendResponse:
        began = time.monotonic()
        bucket = mmh3.hash(f"{_SALT}:{request.user_id}", 0, signed=False) * 10_000 >> 32
        group = 0 if bucket < 7_000 else 1 if bucket < 9_000 else 2
        response = await self._stubs[group].Recommend(request)
        entry = {
            "ts": time.time(),
            "user_id": request.user_id,
            "group": _GROUPS[group],
            "bucket": bucket,
            "model_version": self._versions[group],
            "latency_ms": (time.monotonic() - began) * 1e3,
            "items": list(response.item_ids),
        }
        self._log.write(json.dumps(entry) + "\n")
        return response


async def serve(listen: str, targets: Sequence[tuple[str, str]], log_path: str) -> None:
    """Answers until the process is told to stop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with open(log_path, "w", encoding="utf-8", buffering=1 << 16) as log:
        server = grpc.aio.server()
        add_RecommenderServicer_to_server(Router(targets, log), server)
        server.add_insecure_port(listen)
        await server.start()
        print(f"ready {listen}", flush=True)
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), _FLUSH_INTERVAL_S)
            except TimeoutError:
                log.flush()
        await server.stop(grace=0.5)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--target", required=True, action="append", help="VERSION=HOST:PORT")
    options = parser.parse_args(argv)
    targets = [tuple(target.split("=", 1)) for target in options.target]
    asyncio.run(serve(options.listen, targets, options.log))


if __name__ == "__main__":
    main()
