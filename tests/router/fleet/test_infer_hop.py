"""ModelInfer over real sockets to a worker that keeps what it gets: the callers' bytes, batched or one by one."""

import asyncio
import random
import time
from typing import Any

import grpc
import pytest
from abfleet_protos.inference_pb2 import ModelInferRequest, ModelInferResponse
from abfleet_protos.worker_pb2 import InferBatchRequest, InferBatchResponse
from abfleet_protos.worker_pb2_grpc import WorkerServicer, add_WorkerServicer_to_server
from abfleet_router.fleet.batch import INFER
from abfleet_router.settings import RoutingSettings
from abfleet_transport.grpcio.grpcio_server import add_methods
from abfleet_transport.health import HealthService

from tests.router.fakes import FakeCall
from tests.router.live import LiveRouter
from tests.support.infer_messages import drawn

CALLS = 150


class Recorder(WorkerServicer):
    """Answers each request with a tensor of its size, and keeps the bytes; `batches`: whether it serves InferBatch."""

    def __init__(self, *, batches: bool) -> None:
        self.batches = batches
        self.refused = 0
        self.seen: list[bytes] = []
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])

    async def start(self) -> str:
        """Listens, and gives its address."""
        health = HealthService(["v1"])
        await health.set_serving(True)
        health.add_to(self._server)
        add_WorkerServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]  # generated code has no types
        service, method = INFER.alone[1:].split("/")
        add_methods(self._server, service, {method: grpc.unary_unary_rpc_method_handler(self.alone)})
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return f"127.0.0.1:{port}"

    async def stop(self) -> None:
        await self._server.stop(None)

    async def InferBatch(self, request: InferBatchRequest, context: Any) -> InferBatchResponse:
        if not self.batches:
            self.refused += 1
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such method")
        return InferBatchResponse(model_version="v1", responses=[self._answer(one) for one in request.requests])

    async def alone(self, payload: bytes, context: Any) -> bytes:
        """ModelInfer, unread."""
        return self._answer(payload) + ModelInferResponse(model_version="v1").SerializeToString()

    def _answer(self, payload: bytes) -> bytes:
        self.seen.append(payload)
        encoded: bytes = ModelInferResponse(raw_output_contents=[b"%d" % len(payload)]).SerializeToString()
        return encoded


@pytest.mark.parametrize("batches", [True, False])
async def test_a_worker_gets_the_callers_bytes(*, batches: bool) -> None:
    """Each request once and byte for byte; each caller gets the answer to its own."""
    generator = random.Random(20_261_130)
    worker = Recorder(batches=batches)
    calls = []
    patient = RoutingSettings(name="router-1", attempt_timeout_seconds=30)
    async with LiveRouter([await worker.start()], settings=patient) as live:
        for burst in range(10):
            now = time.monotonic()
            payloads = [drawn(generator, burst * 1000 + place) for place in range(CALLS // 10)]
            sent = [FakeCall(payload, now, now + 30, method=1) for payload in payloads]
            live.router.on_calls(list(sent))
            calls += list(zip(sent, payloads, strict=True))
            await asyncio.sleep(0.005)
        async with asyncio.timeout(30):
            while not all(call.answers for call, _ in calls):
                await asyncio.sleep(0.01)
    await worker.stop()
    assert sorted(worker.seen) == sorted(payload for _, payload in calls)
    for call, payload in calls:
        assert isinstance(call.only, bytes), call.only
        answer = ModelInferResponse.FromString(call.only)
        assert (answer.id, answer.model_version) == (ModelInferRequest.FromString(payload).id, "v1")
        assert list(answer.raw_output_contents) == [b"%d" % len(payload)]
    assert worker.refused == (0 if batches else 1)
