"""The calls of the Open Inference Protocol beside ModelInfer, which is a call like Recommend: how they are served.

Methods that only Triton has are not served, and so UNIMPLEMENTED.
"""

from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from abfleet_protos import inference_pb2 as inference

from abfleet_transport.grpcio.grpcio_server import add_methods

if TYPE_CHECKING:  # the stubs are generic, the class itself is not
    Context = grpc.aio.ServicerContext[Any, Any]
else:
    Context = grpc.aio.ServicerContext
SERVICE = inference.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
MODEL_INFER = f"/{SERVICE}/ModelInfer"
MODEL_READY = f"/{SERVICE}/ModelReady"
MODEL_METADATA = f"/{SERVICE}/ModelMetadata"


class OipAnswers(Protocol):
    """Who answers these calls."""

    def server_ready(self) -> bool:
        """Whether calls are taken."""

    async def model_ready(self, name: str, version: str, context: Context) -> bool: ...

    async def model_metadata(self, name: str, version: str, context: Context) -> inference.ModelMetadataResponse: ...


def add_oip(server: grpc.aio.Server, server_name: str, answers: OipAnswers) -> None:
    """Serves the methods on this server."""

    async def live(request: object, context: Context) -> Any:
        return inference.ServerLiveResponse(live=True)

    async def ready(request: object, context: Context) -> Any:
        return inference.ServerReadyResponse(ready=answers.server_ready())

    async def server_metadata(request: object, context: Context) -> Any:
        return inference.ServerMetadataResponse(name=server_name, version=_package_version())

    async def model_ready(request: Any, context: Context) -> Any:
        return inference.ModelReadyResponse(ready=await answers.model_ready(request.name, request.version, context))

    async def model_metadata(request: Any, context: Context) -> Any:
        return await answers.model_metadata(request.name, request.version, context)

    methods: list[tuple[str, Callable[[Any, Context], Awaitable[Any]], Any, Any]] = [
        ("ServerLive", live, inference.ServerLiveRequest, inference.ServerLiveResponse),
        ("ServerReady", ready, inference.ServerReadyRequest, inference.ServerReadyResponse),
        ("ServerMetadata", server_metadata, inference.ServerMetadataRequest, inference.ServerMetadataResponse),
        ("ModelReady", model_ready, inference.ModelReadyRequest, inference.ModelReadyResponse),
        ("ModelMetadata", model_metadata, inference.ModelMetadataRequest, inference.ModelMetadataResponse),
    ]
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            act, request_deserializer=asked.FromString, response_serializer=answer.SerializeToString
        )
        for name, act, asked, answer in methods
    }
    add_methods(server, SERVICE, handlers)


def _package_version() -> str:
    try:
        return version("abfleet")
    except PackageNotFoundError:  # run from its sources
        return "unknown"
