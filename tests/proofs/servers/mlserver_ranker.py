"""The model of `prove open-inference` in MLServer: features FP32[rows, 4] to score FP32[rows, 1]."""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.errors import MLServerError
from mlserver.types import InferenceRequest, InferenceResponse

WEIGHTS = np.linspace(-1, 1, 4, dtype=np.float32)


class Ranker(MLModel):
    """Loaded by MLServer from its settings."""

    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        features = NumpyCodec.decode_input(payload.inputs[0])
        if features.shape[1:] != (4,):
            raise MLServerError(f"features: shape {features.shape} is not allowed")
        score = (features * WEIGHTS).sum(axis=1, keepdims=True)
        outputs = [NumpyCodec.encode_output("score", score)]
        return InferenceResponse(id=payload.id, model_name=self.name, model_version=self.version, outputs=outputs)
