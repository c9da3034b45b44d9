"""The model of `prove open-inference` in KServe: features FP32[rows, 4] to score FP32[rows, 1].

`kserve_ranker.py --grpc_port PORT --http_port PORT`.
"""

import argparse

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.errors import InvalidInput
from kserve.model_server import parser as flags

WEIGHTS = np.linspace(-1, 1, 4, dtype=np.float32)


class Ranker(Model):
    """Ready from its beginning."""

    def __init__(self) -> None:
        super().__init__("ranker")
        self.ready = True

    async def predict(
        self,
        payload: InferRequest,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> InferResponse:
        features = payload.inputs[0].as_numpy()
        if features.shape[1:] != (4,):
            raise InvalidInput(f"features: shape {features.shape} is not allowed")
        score = (features * WEIGHTS).sum(axis=1, keepdims=True)
        output = InferOutput("score", list(score.shape), "FP32")
        output.set_data_from_numpy(score, binary_data=True)
        return InferResponse(payload.id, self.name, [output])


if __name__ == "__main__":
    got = argparse.ArgumentParser(parents=[flags]).parse_args()
    ModelServer(http_port=got.http_port, grpc_port=got.grpc_port, workers=1).start([Ranker()])
