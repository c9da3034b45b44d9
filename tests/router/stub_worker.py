"""A worker on a real gRPC server, in the test's own loop: answers, lies, hangs or refuses, as the test says."""

import asyncio
from typing import Any

import grpc
from abfleet_protos.worker_pb2 import RecommendBatchRequest, RecommendBatchResponse
from abfleet_protos.worker_pb2_grpc import WorkerServicer, add_WorkerServicer_to_server
from abfleet_transport.health import HealthService

from tests.router.fakes import worker_answer


class StubWorker(WorkerServicer):
    """Serves one version on a port of its own."""

    def __init__(self, version: str = "v1", *, with_health: bool = True) -> None:
        self.version = version
        self.says: str | None = None
        """The version in its answers; its own by default."""
        self.port = 0
        self.health = HealthService([version])
        self.batches: list[int] = []
        self.hang = asyncio.Event()
        """Cleared, batches wait; set, as at first, they are answered."""
        self.hang.set()
        self.came = asyncio.Event()
        """A batch has come."""
        self.given_up = asyncio.Event()
        """The router has cancelled a batch."""
        self.refusal: grpc.StatusCode | None = None
        self._with_health = with_health
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self, *, serving: bool = True) -> "StubWorker":
        """Listens on any free port; a second time on the same one."""
        await self.health.set_serving(serving)
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        add_WorkerServicer_to_server(self, server)  # type: ignore[no-untyped-call]  # generated code has no types
        if self._with_health:
            self.health.add_to(server)
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        await server.start()
        self._server = server
        return self

    async def stop(self) -> None:
        """Goes at once: calls under way are cut."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(None)

    async def RecommendBatch(self, request: RecommendBatchRequest, context: Any) -> RecommendBatchResponse:
        self.batches.append(len(request.requests))
        self.came.set()
        if self.refusal is not None:
            await context.abort(self.refusal, "refused")
        try:
            await self.hang.wait()
        except asyncio.CancelledError:
            self.given_up.set()
            raise
        return RecommendBatchResponse.FromString(worker_answer(self.says or self.version, request.requests))
