"""A server that answers as a test says, in threads of its own, for clients of either kind."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from abfleet_protos.inference_pb2 import ModelInferRequest, ModelInferResponse
from abfleet_protos.inference_pb2_grpc import GRPCInferenceServiceServicer, add_GRPCInferenceServiceServicer_to_server
from abfleet_protos.recommender_pb2 import (
    RecommendRequest,
    RecommendResponse,
    RecordRequest,
    RecordResponse,
    Rejection,
)
from abfleet_protos.recommender_pb2_grpc import (
    FeedbackServicer,
    RecommenderServicer,
    add_FeedbackServicer_to_server,
    add_RecommenderServicer_to_server,
)


class Desk(RecommenderServicer, FeedbackServicer, GRPCInferenceServiceServicer):
    """Keeps every request and its metadata; fails as often as told; a context manager."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.batches: list[RecordRequest] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.failures: list[grpc.StatusCode] = []
        self.odd = False
        """Whether rejections are of outcomes that nobody sent."""
        self.gate = threading.Event()
        self.gate.set()
        """While it is clear, outcomes are not answered."""
        self._server = grpc.server(ThreadPoolExecutor(8))
        add_RecommenderServicer_to_server(self, self._server)
        add_FeedbackServicer_to_server(self, self._server)
        add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> "Desk":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._server.stop(0).wait()

    def _come(self, context: grpc.ServicerContext) -> None:
        self.metadata.append(dict(context.invocation_metadata()))
        if self.failures:
            context.abort(self.failures.pop(0), "told to")

    def Recommend(self, request: RecommendRequest, context: grpc.ServicerContext) -> RecommendResponse:
        self.requests.append(request)
        self._come(context)
        return RecommendResponse(
            item_ids=[7, 8],
            scores=[2.0, 1.0],
            request_id=request.request_id,
            model_version="v1",
            experiment="e",
            group="g",
        )

    def ModelInfer(self, request: ModelInferRequest, context: grpc.ServicerContext) -> ModelInferResponse:
        self.requests.append(request)
        self._come(context)
        answer = ModelInferResponse(model_version="v1", id=request.id, raw_output_contents=request.raw_input_contents)
        for one in request.inputs:
            answer.outputs.add(name=one.name, datatype=one.datatype, shape=one.shape)
        return answer

    def Record(self, request: RecordRequest, context: grpc.ServicerContext) -> RecordResponse:
        self.batches.append(request)
        self.gate.wait(60)
        self._come(context)
        wrong = [index for index, one in enumerate(request.outcomes) if one.type == "wrong"]
        return RecordResponse(
            accepted=len(request.outcomes) - len(wrong),
            rejected=len(wrong),
            rejections=[
                Rejection(index=index + 1000 * self.odd, outcome_id="x", reason="type: 'wrong'") for index in wrong
            ],
        )
