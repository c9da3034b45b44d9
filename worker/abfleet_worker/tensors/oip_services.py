"""A worker's answers to the Open Inference Protocol beside ModelInfer: whether it is ready, what its model takes."""

from collections.abc import Callable

import grpc
from abfleet_models.signature import Signature
from abfleet_protos.inference_pb2 import ModelMetadataResponse
from abfleet_transport.oip import Context, add_oip

from abfleet_worker.tensors.inferring import not_served

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
        add_oip(server, SERVER_NAME, self)

    def server_ready(self) -> bool:
        return self._ready()

    async def model_ready(self, name: str, version: str, context: Context) -> bool:
        await self._check(name, version, context)
        return self._ready()

    async def model_metadata(self, name: str, version: str, context: Context) -> ModelMetadataResponse:
        served, signature = await self._check(name or self._name, version, context)
        answer = ModelMetadataResponse(name=self._name, versions=[served], platform=PLATFORM)
        for tensors, specs in ((answer.inputs, signature.inputs), (answer.outputs, signature.outputs)):
            for spec in specs:
                tensors.add(name=spec.name, datatype=spec.datatype, shape=spec.sizes)
        return answer

    async def _check(self, name: str, version: str, context: Context) -> tuple[str, Signature]:
        """The version that is served and its signature; ends the call with NOT_FOUND where it is another one."""
        served, signature = self._serving()
        problem = not_served(name, version, self._name, served, self._alias)
        if problem is not None:
            await context.abort(grpc.StatusCode.NOT_FOUND, problem.removeprefix("model_"))
        return served, signature
