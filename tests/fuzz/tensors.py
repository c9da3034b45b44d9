"""Targets of the Open Inference Protocol: mutated ModelInfer and InferBatch calls to a loaded model."""

import random
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from abfleet_protos.inference_pb2 import ModelInferRequest, ModelInferResponse
from abfleet_protos.worker_pb2 import InferBatchRequest, InferBatchResponse
from abfleet_transport.call import Code
from abfleet_worker.service import INFER_BATCH, METHODS, MODEL_INFER

from tests.fuzz.mutation import NUMBERS, any_of
from tests.fuzz.target import Target, Trial
from tests.support import small_graphs
from tests.worker.calls import FakeCall
from tests.worker.tensors.infer_calls import loaded, request, service

TYPES = ("FP32", "INT8", "INT64", "UINT16", "BOOL", "FP16", "BYTES")
NAME = "recommender"
AT_ONCE = 10
ALLOWED = {Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.UNIMPLEMENTED}
"""Whatever is sent, a model that gives back what it gets never fails: what is refused is the sender's mistake."""
WORDS = ("", "x", "in_FP32", "in_BYTES", "FP32", "BYTES", "INT64", "out_BOOL", "sequence_id", "\x00", "ж" * 300)


def _seed(rows: int, columns: int, *, typed: bool = False) -> ModelInferRequest:
    dtypes = {"FP32": "float32", "FP16": "float16", "BOOL": "bool"}
    draw = np.random.default_rng(rows)
    inputs = {}
    for kind in TYPES:
        if kind == "BYTES":
            array = np.empty((rows, columns), dtype=object)
            array[:] = "é"
        else:
            array = draw.integers(0, 2, (rows, columns)).astype(dtypes.get(kind, kind.lower()))
        inputs[f"in_{kind}"] = array
    if typed:
        inputs.pop("in_FP16")
    return request(inputs, typed=typed, model_name=NAME, id="r")


@asynccontextmanager
async def messages() -> AsyncIterator[Trial]:
    """Calls alone and in batches, edited as bytes and as messages: each has one answer, a good neighbour has the one
    that it has alone, and no mistake of a caller is the worker's."""
    with tempfile.TemporaryDirectory() as folder:
        model = small_graphs.echo(TYPES, ["rows", "columns"])
        asked = service(loaded(Path(folder), model))
        seeds = [_seed(1, 2), _seed(3, 2), _seed(0, 1), _seed(2, 3, typed=True)]
        good = _seed(2, 2)
        whole = FakeCall(METHODS.index(MODEL_INFER), good.SerializeToString())
        asked.answer([whole])

        async def trial(source: random.Random) -> int:
            payloads = [_edited(source, seeds) for _ in range(AT_ONCE)]
            at = source.randrange(AT_ONCE)
            calls = [FakeCall(METHODS.index(MODEL_INFER), payload) for payload in payloads[:at]]
            beside = FakeCall(METHODS.index(MODEL_INFER), good.SerializeToString())
            batch = InferBatchRequest(requests=[*payloads[at:], good.SerializeToString()]).SerializeToString()
            together = FakeCall(METHODS.index(INFER_BATCH), any_of(source, [batch]) if source.random() < 0.1 else batch)
            asked.answer([*calls, together, beside])
            assert beside.only == whole.only
            taken = sum(_accepted(call) for call in calls)
            if together.payload != batch:
                assert len(together.answers) == 1
                return taken
            assert isinstance(together.only, bytes)
            answer = InferBatchResponse.FromString(together.only)
            assert {Code(failure.code) for failure in answer.failures.values()} <= ALLOWED
            assert len(payloads) - at not in answer.failures
            assert isinstance(whole.only, bytes)
            assert whole.only.startswith(answer.responses[-1])
            return taken + len(answer.responses) - 1 - len(answer.failures)

        yield trial


def _accepted(call: FakeCall) -> int:
    """1 for an answer that can be read; a refusal must be the caller's, and say something."""
    if isinstance(call.only, bytes):
        answer = ModelInferResponse.FromString(call.only)
        assert len(answer.outputs) == len(answer.raw_output_contents)
        return 1
    code, message = call.only
    assert code in ALLOWED, (code, message)
    assert 0 < len(message) < 1_000
    return 0


def _edited(source: random.Random, seeds: Sequence[ModelInferRequest]) -> bytes:
    """A seed with up to three of its fields made something else, or bytes of it."""
    message = ModelInferRequest()
    message.CopyFrom(source.choice(seeds))
    if source.random() < 0.4:
        return any_of(source, [message.SerializeToString()])
    for _ in range(source.randint(0, 3)):
        _edit(source, message)
    return message.SerializeToString()


def _edit(source: random.Random, message: ModelInferRequest) -> None:
    tensor = source.choice(message.inputs) if message.inputs else message.inputs.add()
    match source.randrange(10):
        case 0:
            tensor.name = source.choice(WORDS)
        case 1:
            tensor.datatype = source.choice((*TYPES, *WORDS))
        case 2:
            tensor.shape.append(_size(source))
        case 3 if tensor.shape:
            tensor.shape[source.randrange(len(tensor.shape))] = _size(source)
        case 4 if message.raw_input_contents:
            place = source.randrange(len(message.raw_input_contents))
            message.raw_input_contents[place] = any_of(source, [message.raw_input_contents[place]])
        case 5 if message.raw_input_contents:
            message.raw_input_contents.append(message.raw_input_contents.pop(source.randrange(len(TYPES)) - len(TYPES)))
        case 6:
            message.outputs.add(name=source.choice(("out_FP32", "out_BYTES", *WORDS)))
        case 7:
            tensor.contents.int64_contents.append(source.choice(NUMBERS[:4]))
        case 8:
            message.inputs.append(tensor)
        case _:
            message.parameters[source.choice(WORDS)].int64_param = source.choice(NUMBERS[:4])


def _size(source: random.Random) -> int:
    return max(-(2**63), min(2**63 - 1, source.choice((*NUMBERS, 2, 3))))


TARGETS = (Target(name="infer messages", inputs=60_000, each=AT_ONCE, open=messages),)
