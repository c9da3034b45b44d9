"""The standard health service, which every server of the fleet has."""

from collections.abc import Iterable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class HealthService:
    """grpc.health.v1 for the whole server (the empty name) and for each name that it is given."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]  # the stubs lack it
        self._names = {"", *names}  # changed only by set_names
        self.serving = False

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serves Check and Watch on this server."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def set_serving(self, serving: bool) -> None:
        """Every name has the same state: a server serves all of what it offers, or is on its way in or out."""
        self.serving = serving
        for name in sorted(self._names):
            await self._servicer.set(name, SERVING if serving else NOT_SERVING)

    async def set_names(self, names: Iterable[str]) -> None:
        """Replaces the names that are offered beside the whole server."""
        wanted = {"", *names}
        for gone in sorted(self._names - wanted):
            await self._servicer.set(gone, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
        self._names = wanted
        await self.set_serving(self.serving)
