"""The router's answers to the Open Inference Protocol beside ModelInfer: which versions can serve, what they take.

The signature is a worker's answer to the same question.
"""

from collections.abc import Callable

import grpc
from abfleet_protos.inference_pb2 import ModelMetadataResponse
from abfleet_transport.call import Code
from abfleet_transport.oip import Context, add_oip
from google.protobuf.message import DecodeError

from abfleet_router.calls.infer_request import model_in_force
from abfleet_router.configuration.snapshot import Snapshot
from abfleet_router.errors import InvalidRequest
from abfleet_router.fleet.http2_client_stream import RpcFailed
from abfleet_router.fleet.model_metadata import metadata_of

SERVER_NAME = "abfleet-router"
ASK_SECONDS = 2.0
"""For a worker's answer, which stands in line with batches."""


class RouterOipServices:
    """Keeps nothing: every question is answered by the configuration in force then."""

    def __init__(self, snapshot: Callable[[], Snapshot | None], serving: Callable[[], bool]) -> None:
        """`serving`: whether health says that calls are taken."""
        self._snapshot = snapshot
        self._serving = serving

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serves the methods on this server."""
        add_oip(server, SERVER_NAME, self)

    def server_ready(self) -> bool:
        return self._serving()

    async def model_ready(self, name: str, version: str, context: Context) -> bool:
        return bool((await self._model(name, version, context)).default_pool.available)

    async def model_metadata(self, name: str, version: str, context: Context) -> ModelMetadataResponse:
        snapshot = await self._model(name, version, context)
        pool = snapshot.default_pool
        if not pool.available:
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"no worker of version {pool.version} can be asked")
        replica = pool.available[0]
        try:
            answer = await metadata_of(replica.link, replica.oip_model, ASK_SECONDS)
        except (RpcFailed, TimeoutError, DecodeError) as error:
            unknown = isinstance(error, RpcFailed) and error.code is Code.UNIMPLEMENTED
            status = grpc.StatusCode.UNIMPLEMENTED if unknown else grpc.StatusCode.UNAVAILABLE
            why = str(error) or "no answer in time"
            await context.abort(status, f"the worker of version {pool.version} does not say what it takes: {why}")
            raise AssertionError("abort raises") from error
        answer.name = snapshot.config.name
        del answer.versions[:]
        answer.versions.extend(snapshot.config.models)
        return answer

    async def _model(self, name: str, version: str, context: Context) -> Snapshot:
        """The configuration for a model of this name and version; ends the call where there is none."""
        snapshot = self._snapshot()
        if snapshot is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the router is starting: no configuration is in force yet")
            raise AssertionError("abort raises")
        try:
            return model_in_force(snapshot, name, version, "name", "version")
        except InvalidRequest as error:
            await context.abort(grpc.StatusCode[error.code.name], str(error))
            raise AssertionError("abort raises") from error
