"""A server of the Open Inference Protocol that is not ours: for what the router does with Triton, MLServer or KServe.

Callers say by parameters how it is to answer, as parameters travel: `fail` (a status code's name), `as_version`. As a
process: `python -m tests.support.oip_server ADDRESS [VERSION] [SIGNATURE]`.
"""

import asyncio
import signal
import struct
import sys
from typing import Any

import grpc
from abfleet_protos import inference_pb2 as inference
from abfleet_protos.inference_pb2_grpc import GRPCInferenceServiceServicer, add_GRPCInferenceServiceServicer_to_server

MODEL = "ranker"
ITEMS = 20
"""That a recommendation has."""
TENSORS = {
    "recommender": (
        (("history", "INT64", (-1, -1)),),
        (("item_ids", "INT64", (-1, ITEMS)), ("scores", "FP32", (-1, ITEMS))),
    ),
    "features": ((("features", "FP32", (-1, 4)),), (("score", "FP32", (-1, 1)),)),
    "undeclared": ((), ()),
    "unknown": ((), ()),
}
"""Inputs and outputs that the server says its model has. `undeclared` recommends all the same, `unknown` does not."""


class OipServer(GRPCInferenceServiceServicer):
    """Has the model `ranker`: it recommends for a `history`, and gives back any other tensors as they came."""

    def __init__(self, version: str = "3", signature: str = "recommender") -> None:
        self.version = version
        self.signature = signature
        self.ready = True
        self.answers_as = version
        self.seen: list[bytes] = []
        """Requests of ModelInfer, as they came."""
        self.asked: list[str] = []
        """The other methods that were called."""
        self.address = ""
        self._server: grpc.aio.Server | None = None

    async def start(self, address: str = "127.0.0.1:0") -> "OipServer":
        """Listens; again where it did before, once it was stopped."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)])
        add_GRPCInferenceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        # ModelInfer comes as bytes, so that a test sees them.
        handler = grpc.unary_unary_rpc_method_handler(self._infer)
        self._server.add_registered_method_handlers("inference.GRPCInferenceService", {"ModelInfer": handler})
        host = self.address or address
        self.address = f"127.0.0.1:{self._server.add_insecure_port(host)}"
        await self._server.start()
        return self

    async def stop(self) -> None:
        """At once."""
        if self._server is not None:
            await self._server.stop(None)

    async def _named(self, request: Any, context: Any) -> None:
        if (request.name, request.version) not in ((MODEL, ""), (MODEL, self.version)):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no model {request.name!r} {request.version!r}")

    async def ServerLive(self, request: Any, context: Any) -> Any:
        return inference.ServerLiveResponse(live=True)

    async def ModelReady(self, request: Any, context: Any) -> Any:
        self.asked.append("ModelReady")
        await self._named(request, context)
        return inference.ModelReadyResponse(ready=self.ready)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        self.asked.append("ModelMetadata")
        await self._named(request, context)
        answer = inference.ModelMetadataResponse(name=MODEL, versions=[self.version], platform="a platform")
        for place, tensors in zip((answer.inputs, answer.outputs), TENSORS[self.signature], strict=True):
            for name, datatype, shape in tensors:
                place.add(name=name, datatype=datatype, shape=shape)
        return answer

    async def _infer(self, payload: bytes, context: Any) -> bytes:
        self.seen.append(payload)
        request = inference.ModelInferRequest.FromString(payload)
        if (request.model_name, request.model_version) not in ((MODEL, ""), (MODEL, self.version)):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no model {request.model_name!r}")
        if code := request.parameters["fail"].string_param:
            await context.abort(grpc.StatusCode[code], f"it was to fail with {code}")
        answer = inference.ModelInferResponse(model_name=MODEL, model_version=self.answers_as, id="the server's")
        if request.parameters["as_version"].string_param:
            answer.model_version = request.parameters["as_version"].string_param
        answer.parameters["experiment"].string_param = "the server's own"
        if self.signature in ("recommender", "undeclared") and [one.name for one in request.inputs] == ["history"]:
            recommend(request.raw_input_contents[0], answer)
        else:
            for tensor in request.inputs:
                answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            answer.raw_output_contents.extend(request.raw_input_contents)
        encoded: bytes = answer.SerializeToString()
        return encoded


def recommend(history: bytes, answer: Any) -> None:
    """The sum of a history plus 1, plus 2 and so on, as the tests' workers have it."""
    total = sum(struct.unpack(f"<{len(history) // 8}q", history))
    answer.outputs.add(name="item_ids", datatype="INT64", shape=[1, ITEMS])
    answer.outputs.add(name="scores", datatype="FP32", shape=[1, ITEMS])
    answer.raw_output_contents.append(struct.pack(f"<{ITEMS}q", *(total + place + 1 for place in range(ITEMS))))
    answer.raw_output_contents.append(struct.pack(f"<{ITEMS}f", *(float(ITEMS - place) for place in range(ITEMS))))


async def serve(address: str, *more: str) -> None:
    """Until SIGTERM."""
    server = await OipServer(*more).start(address)
    print(f"ready {server.address}", flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
