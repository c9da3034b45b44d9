"""Requests whose tensors look like those of an earlier one: read as any other, or refused in the same words."""

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from abfleet_protos.inference_pb2 import ModelInferRequest
from abfleet_worker.metrics import WorkerMetrics
from abfleet_worker.model import OnnxModel
from abfleet_worker.request import Refusal
from abfleet_worker.tensors import layouts
from abfleet_worker.tensors.inferring import Inferring
from abfleet_worker.tensors.reading import InferItem

from tests.support import small_graphs
from tests.worker.tensors.infer_calls import loaded, request

Change = Callable[[ModelInferRequest], object]
FEATURES = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """features FP32[-1, 4] to score FP32[-1, 1]."""
    return loaded(tmp_path_factory.mktemp("layouts"), small_graphs.ranker())


def reader(model: OnnxModel) -> Inferring:
    """One that has seen nothing yet."""
    metrics = WorkerMetrics(lambda: (model.version, model.sha256))
    return Inferring(model, name="m", alias="", most_bytes=1 << 20, metrics=metrics, clock=time.monotonic)


def read(inferring: Inferring, payload: bytes) -> InferItem | Refusal:
    (item,) = inferring.read_batch([payload], [None])
    return item


def same(one: InferItem | Refusal, other: InferItem | Refusal) -> bool:
    if isinstance(one, Refusal) or isinstance(other, Refusal):
        return one == other
    kinds = [[(a.dtype, a.shape, a.tobytes()) for a in item.arrays] for item in (one, other)]
    return kinds[0] == kinds[1] and one._replace(arrays=()) == other._replace(arrays=())


def raw_of(size: int) -> Change:
    """Other elements than the shape takes, or none."""
    return lambda message: message.raw_input_contents.__setitem__(0, bytes(size))


CHANGES: Sequence[Change] = (
    lambda message: setattr(message, "id", "another"),
    lambda message: message.parameters["country"].__setattr__("string_param", "NL"),
    lambda message: message.parameters["sequence_id"].__setattr__("int64_param", 7),
    lambda message: message.parameters["sequence_id"].__setattr__("int64_param", 0),
    raw_of(32),
    raw_of(28),
    raw_of(0),
    lambda message: message.raw_input_contents.append(b""),
    lambda message: message.raw_input_contents.pop(),
    lambda message: message.inputs[0].shape.__setitem__(0, 3),
    lambda message: message.inputs[0].shape.__setitem__(0, 0),
    lambda message: message.inputs[0].contents.fp32_contents.append(1.0),
    lambda message: message.inputs.add(name="features", datatype="FP32", shape=[2, 4]),
    lambda message: message.outputs.add(name="score"),
    lambda message: message.outputs.add(name="none"),
    lambda message: message.inputs.pop(),
)


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_request_is_read_as_if_it_were_the_first(model: OnnxModel, change: Change) -> None:
    """Whatever differs from requests that were seen, the answer is that of a worker that has seen nothing."""
    known = reader(model)
    read(known, request({"features": FEATURES}).SerializeToString())
    message = request({"features": FEATURES + 1})
    change(message)
    payload = message.SerializeToString()
    for _ in range(2):  # the second time it may be known itself
        assert same(read(known, payload), read(reader(model), payload))


def test_random_bytes_are_read_as_if_they_were_the_first(model: OnnxModel) -> None:
    """The same of 3,000 requests with a byte changed, taken out or put in."""
    generator = random.Random(7)
    known = reader(model)
    seeds = [request({"features": FEATURES[:rows]}, ["score"] * (rows % 2)).SerializeToString() for rows in (1, 2)]
    for seed in seeds:
        read(known, seed)
    for _ in range(3_000):
        payload = bytearray(generator.choice(seeds))
        place = generator.randrange(len(payload))
        payload[place : place + generator.randrange(2)] = bytes(generator.choices(range(256), k=generator.randrange(2)))
        assert same(read(known, bytes(payload)), read(reader(model), bytes(payload)))


def test_what_is_known_is_not_read_again(model: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other elements, ids and attributes do not make a request a new one."""
    known = reader(model)
    read(known, request({"features": FEATURES}, id="a").SerializeToString())
    monkeypatch.setattr("abfleet_worker.tensors.reading.read", None)
    item = read(known, request({"features": FEATURES * 2}, id="b").SerializeToString())
    assert isinstance(item, InferItem)
    assert (item.arrays[0] == FEATURES * 2).all()


def test_what_is_kept_is_bounded(model: OnnxModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ever new shapes, and names as long as a message may be, cost no memory."""
    monkeypatch.setattr(layouts, "MOST_LAYOUTS", 10)
    known = reader(model)
    for rows in range(1, 25):
        read(known, request({"features": np.zeros((rows, 4), np.float32)}).SerializeToString())
        assert len(known._layouts._known) <= 10
    kept = len(known._layouts._known)
    long = request({"features": FEATURES})
    long.inputs[0].parameters["note"].string_param = "x" * layouts.MOST_KEY_BYTES
    assert isinstance(read(known, long.SerializeToString()), InferItem)
    assert len(known._layouts._known) == kept


def test_texts_and_truth_values_are_always_checked(tmp_path: Path) -> None:
    """Not every byte is one of them, so that such requests are read from their beginning each time."""
    known = reader(loaded(tmp_path, small_graphs.echo(["BOOL", "INT64"])))
    inputs = {"in_BOOL": np.array([True]), "in_INT64": np.array([1])}
    assert isinstance(read(known, request(inputs).SerializeToString()), InferItem)
    wrong = request(inputs)
    wrong.raw_input_contents[0] = b"\x02"
    assert isinstance(read(known, wrong.SerializeToString()), Refusal)
