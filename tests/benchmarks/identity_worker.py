"""A worker that answers at once: the cost of the path without a model. Knows the contracts, loads nothing.

Serves `Recommender/Recommend`, the batched RPC, health (Check and Watch) and its own counts, all on the native front,
so that the workers are the fastest that Python offers to every path alike. Usage:
`python -m tests.benchmarks.identity_worker --listen 127.0.0.1:PORT --version v1.2.3`; says `ready` when it listens.
"""

import argparse
import signal
import struct
import sys
import time
from collections.abc import Sequence

from abfleet_protos.recommender_pb2 import RecommendResponse
from abfleet_protos.worker_pb2 import RecommendBatchRequest, RecommendBatchResponse
from pygrpc_native import EVENT_CALL, NativeGrpcFront

COUNTS_METHOD = "/bench.Identity/Counts"
COUNTS = struct.Struct(">QQQ")
"""Answer of the counts method: unary calls, batches, calls inside batches."""

_METHODS = [
    ("/Recommender/Recommend", False),
    ("/abfleet.worker.v1.Worker/RecommendBatch", False),
    ("/grpc.health.v1.Health/Check", False),
    ("/grpc.health.v1.Health/Watch", True),
    (COUNTS_METHOD, False),
]
_SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}


def serve(listen: str, version: str) -> None:
    """Answers until the process is told to stop."""
    items, scores = range(100, 110), [1.0 - rank / 10 for rank in range(10)]
    alone = RecommendResponse(item_ids=items, scores=scores, model_version=version).SerializeToString()
    item = RecommendBatchResponse(
        responses=[RecommendResponse(item_ids=items, scores=scores).SerializeToString()]
    ).SerializeToString()
    head = RecommendBatchResponse(model_version=version).SerializeToString()
    front = NativeGrpcFront(listen, _METHODS, io_threads=1, max_concurrent_streams=8192)
    front.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    print(f"ready {listen}", flush=True)
    unary = batches = batched = 0
    # The timeout lets a signal in.
    while (events := front.recv_batch(256, 200)) is not None:
        began = time.perf_counter()
        for kind, call, method, payload, _ in events:
            if kind != EVENT_CALL:
                continue
            if method == 0:
                unary += 1
                front.respond(call, alone)
            elif method == 1:
                count = len(RecommendBatchRequest.FromString(payload).requests)
                batches, batched = batches + 1, batched + count
                elapsed = RecommendBatchResponse(elapsed_us=int((time.perf_counter() - began) * 1e6))
                # A repeated field's entries stand one after another in the encoding, so the answer is a plain product.
                front.respond(call, head + item * count + elapsed.SerializeToString())
            elif method == 2:
                front.respond(call, _SERVING)
            elif method == 3:
                front.stream_send(call, _SERVING)
            else:
                front.respond(call, COUNTS.pack(unary, batches, batched))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--version", required=True)
    options = parser.parse_args(argv)
    serve(options.listen, options.version)


if __name__ == "__main__":
    main()
