"""Triton's own client before a router: `triton_ranker.py ADDRESS CALLS`, with the interpreter of `./run oip-tools`.

Prints what was asked and how many answers were not what the model gives.
"""

import queue
import sys

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

NAME = "recommender"
WEIGHTS = np.linspace(-1, 1, 4, dtype=np.float32)
HEADERS = {"x-user-id": "on-server"}
client = triton.InferenceServerClient(sys.argv[1])
assert client.is_server_live()
assert client.is_server_ready()
assert client.is_model_ready(NAME)
assert client.is_model_ready(NAME, "v2.0.0")
assert list(client.get_model_metadata(NAME, "v2.0.0").versions) == ["v1.0.0", "v2.0.0"]
generator = np.random.default_rng(20_261_130)
answers: "queue.Queue[tuple[int, object, object]]" = queue.Queue()
given = {}


def keep(number: int):
    """A callback that keeps the answer to one call."""
    return lambda result, error: answers.put((number, result, error))


wrong = 0
calls = int(sys.argv[2])
for number in range(calls):
    features = generator.normal(size=(int(generator.integers(1, 9)), 4)).astype(np.float32)
    tensor = triton.InferInput("features", list(features.shape), "FP32")
    tensor.set_data_from_numpy(features)
    score = (features * WEIGHTS).sum(axis=1, keepdims=True)
    if number % 2:
        given[number] = score
        client.async_infer(NAME, [tensor], keep(number), headers=HEADERS, client_timeout=30)
    else:
        result = client.infer(NAME, [tensor], headers=HEADERS, client_timeout=30)
        served = result.get_response().model_version
        wrong += served != "v2.0.0" or not np.array_equal(result.as_numpy("score"), score)
for _ in given:
    number, result, error = answers.get(timeout=60)
    wrong += error is not None or not np.array_equal(result.as_numpy("score"), given[number])
tensor = triton.InferInput("features", [1, 3], "FP32")
tensor.set_data_from_numpy(np.ones((1, 3), np.float32))
try:
    client.infer(NAME, [tensor], headers=HEADERS)
except InferenceServerException as error:
    print(f"{calls} {wrong} {error.status()}")
