"""Models that look across the rows of a request: who else asks, and by way of which router, changes no bit."""

from collections.abc import Iterator
from contextlib import ExitStack

import grpc
import numpy as np
import pytest
from abfleet_protos.inference_pb2 import ModelInferRequest, ModelInferResponse
from abfleet_protos.inference_pb2_grpc import GRPCInferenceServiceStub

from tests.support import small_graphs
from tests.support.fleet import Fleet
from tests.support.small_graphs import add_model
from tests.worker.tensors.infer_calls import request
from tests.worker.worker_process import PATIENCE_SECONDS

pytestmark = pytest.mark.system
MODELS = {
    "ranker": (small_graphs.ranker(), "features", 4),
    "softmax": (small_graphs.softmax_over_rows(), "features", 4),
    "listwise": (small_graphs.listwise(), "candidates", 3),
}
CROWD = 60
EXPERIMENTS = f"""
version: 1
default: ranker
models: {{{", ".join(f'{version}: {{target: "127.0.0.1:1"}}' for version in MODELS)}}}
experiments: []
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A worker for each model, and two routers."""
    folder = tmp_path_factory.mktemp("rows")
    for version, (model, _, _) in MODELS.items():
        add_model(folder / "models", version, model)
    flags = ("--default-deadline", "30", "--attempt-timeout", "20")
    with Fleet(
        folder, experiments=EXPERIMENTS, registry=folder / "models", versions=list(MODELS), router_flags=flags
    ) as running:
        for version in MODELS:
            running.wait_for_serving(version)
        yield running


def questions(version: str) -> list[ModelInferRequest]:
    """Requests of one to nine rows."""
    _, name, columns = MODELS[version]
    draw = np.random.default_rng(11)
    return [
        request(
            {name: draw.normal(size=(1 + number % 9, columns)).astype(np.float32)},
            model_name="recommender",
            model_version=version,
            id=f"call-{number}",
        )
        for number in range(CROWD)
    ]


def scores(answer: ModelInferResponse) -> tuple[bytes, ...]:
    return tuple(answer.raw_output_contents)


def test_answers_are_those_alone(fleet: Fleet) -> None:
    """Asked of the worker itself one after the other; then all of them at once, each of both routers."""
    second, _ = fleet.start_another_router()
    alone: dict[tuple[str, int], tuple[bytes, ...]] = {}
    for version in MODELS:
        with grpc.insecure_channel(fleet.worker_addresses[version, 0]) as channel:
            worker = GRPCInferenceServiceStub(channel)
            for number, question in enumerate(questions(version)):
                alone[version, number] = scores(worker.ModelInfer(question, timeout=PATIENCE_SECONDS))
    with ExitStack() as stack:
        channels = [stack.enter_context(grpc.insecure_channel(address)) for address in (fleet.address, second)]
        routers = [GRPCInferenceServiceStub(channel) for channel in channels]
        under_way = [
            (version, number, router.ModelInfer.future(question, timeout=PATIENCE_SECONDS))
            for version in MODELS
            for number, question in enumerate(questions(version))
            for router in routers
        ]
        for version, number, call in under_way:
            answer = call.result()
            assert answer.model_version == version
            assert scores(answer) == alone[version, number]
