"""A worker as most are written: one inference for each call, no batching. Knows the contracts and one ONNX file.

The yardstick for what batching in the workers saves. It is served by the native front, so that only the missing batch
sets it apart. Usage: `python -m tests.benchmarks.unbatched_worker --listen 127.0.0.1:PORT --version V --model FILE`.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from abfleet_models.runtime import onnxruntime
from abfleet_protos.recommender_pb2 import RecommendRequest, RecommendResponse
from pygrpc_native import EVENT_CALL, NativeGrpcFront

_DEFAULT_LIMIT = 10


def serve(listen: str, version: str, model: Path) -> None:
    """Answers until the process is told to stop."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    front = NativeGrpcFront(listen, [("/Recommender/Recommend", False)], io_threads=1, max_concurrent_streams=8192)
    front.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    print(f"ready {listen}", flush=True)
    while (events := front.recv_batch(256, 200)) is not None:
        for kind, call, _, payload, _ in events:
            if kind != EVENT_CALL:
                continue
            request = RecommendRequest.FromString(payload)
            history = np.array([request.item_ids], dtype=np.int64).reshape(1, -1)
            item_ids, scores = session.run(["item_ids", "scores"], {"history": history})
            limit = request.limit or _DEFAULT_LIMIT
            answer = RecommendResponse(
                item_ids=item_ids[0, :limit].tolist(), scores=scores[0, :limit].tolist(), model_version=version
            )
            front.respond(call, answer.SerializeToString())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--model", required=True, type=Path)
    options = parser.parse_args(argv)
    serve(options.listen, options.version, options.model)


if __name__ == "__main__":
    main()
