"""The other calls of the Open Inference Protocol: whether the server and its model are ready, and what the model takes.

ModelInfer is not here: it is a call like Recommend. Methods that only Triton has are not served, and so UNIMPLEMENTED.
"""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import grpc
from abfleet_models.signature import Signature
from abfleet_protos import inference_pb2 as inference
from abfleet_transport.grpcio.grpcio_server import add_methods

from abfleet_worker.tensors.inferring import not_served

if TYPE_CHECKING:  # the stubs are generic, the class itself is not
    Context = grpc.aio.ServicerContext[Any, Any]
else:
    Context = grpc.aio.ServicerContext
SERVICE = inference.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
SERVER_NAME = "abfleet-worker"
PLATFORM = "onnxruntime_onnx"
"""Triton's name for what runs ONNX models."""


class OipServices:
    """Knows what is served by asking for it: a version may be changed for another one."""

    def __init__(
        self, *, name: str, alias: str, serving: Callable[[], tuple[str, Signature]], ready: Callable[[], bool]
    ) -> None:
        """`serving` gives the version that answers, and its signature; `ready` whether calls are taken."""
        self._name = name
        self._alias = alias
        self._serving = serving
        self._ready = ready

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serves the methods on this server."""
        methods: list[tuple[str, Callable[[Any, Context], Any], Any, Any]] = [
            ("ServerLive", self.server_live, inference.ServerLiveRequest, inference.ServerLiveResponse),
            ("ServerReady", self.server_ready, inference.ServerReadyRequest, inference.ServerReadyResponse),
            ("ModelReady", self.model_ready, inference.ModelReadyRequest, inference.ModelReadyResponse),
            ("ServerMetadata", self.server_metadata, inference.ServerMetadataRequest, inference.ServerMetadataResponse),
            ("ModelMetadata", self.model_metadata, inference.ModelMetadataRequest, inference.ModelMetadataResponse),
        ]
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                act, request_deserializer=asked.FromString, response_serializer=answer.SerializeToString
            )
            for name, act, asked, answer in methods
        }
        add_methods(server, SERVICE, handlers)

    async def server_live(self, request: object, context: Context) -> inference.ServerLiveResponse:
        return inference.ServerLiveResponse(live=True)

    async def server_ready(self, request: object, context: Context) -> inference.ServerReadyResponse:
        return inference.ServerReadyResponse(ready=self._ready())

    async def model_ready(self, request: inference.ModelReadyRequest, context: Context) -> inference.ModelReadyResponse:
        await self._check(request, context)
        return inference.ModelReadyResponse(ready=self._ready())

    async def server_metadata(self, request: object, context: Context) -> inference.ServerMetadataResponse:
        return inference.ServerMetadataResponse(name=SERVER_NAME, version=_package_version())

    async def model_metadata(
        self, request: inference.ModelMetadataRequest, context: Context
    ) -> inference.ModelMetadataResponse:
        served, signature = await self._check(request, context)
        answer = inference.ModelMetadataResponse(name=self._name, versions=[served], platform=PLATFORM)
        for tensors, specs in ((answer.inputs, signature.inputs), (answer.outputs, signature.outputs)):
            for spec in specs:
                tensors.add(name=spec.name, datatype=spec.datatype, shape=spec.sizes)
        return answer

    async def _check(self, request: Any, context: Context) -> tuple[str, Signature]:
        """The version that is served and its signature; ends the call with NOT_FOUND where it is another one."""
        served, signature = self._serving()
        problem = not_served(request.name, request.version, self._name, served, self._alias)
        if problem is not None:
            await context.abort(grpc.StatusCode.NOT_FOUND, problem.removeprefix("model_"))
        return served, signature


def _package_version() -> str:
    try:
        return version("abfleet")
    except PackageNotFoundError:  # run from its sources
        return "unknown"
