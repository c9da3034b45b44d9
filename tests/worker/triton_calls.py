"""Run by the interpreter of ./run oip-tools: asks a worker of `small_graphs.user_and_items` with Triton's client."""

import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

NAME = "ranker"
client = triton.InferenceServerClient(sys.argv[1])
assert client.is_server_live()
assert client.is_server_ready()
assert client.is_model_ready(NAME)
assert client.get_model_metadata(NAME).platform == "onnxruntime_onnx"
print("ready")
inputs = []
for name, kind, array in (
    ("user", "INT64", np.array([[1], [2]], np.int64)),
    ("items", "INT64", np.array([[1, 2, 3], [4, 5, 6]], np.int64)),
    ("context", "BYTES", np.array(["a", "é"], dtype=object)),
):
    one = triton.InferInput(name, list(array.shape), kind)
    one.set_data_from_numpy(array)
    inputs.append(one)
outputs = [triton.InferRequestedOutput("score"), triton.InferRequestedOutput("echoed")]
result = client.infer(NAME, inputs, outputs=outputs, request_id="r-1", headers={"x-user-id": "u"})
assert result.get_response().id == "r-1"
print(result.as_numpy("score").shape)
print([text.decode() for text in result.as_numpy("echoed")])
inputs[0].set_shape([1, 2])
try:
    client.infer(NAME, inputs)
except InferenceServerException as error:
    print(error.status())
