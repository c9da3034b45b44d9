"""A worker alone as a server of the Open Inference Protocol: a real process, asked by grpcio on both transports."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from abfleet_protos import inference_pb2 as inference
from abfleet_protos.worker_pb2 import InferBatchRequest, InferBatchResponse
from abfleet_worker.service import INFER_BATCH, MODEL_INFER
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.support import small_graphs
from tests.support.fleet import wait_until
from tests.support.oip_tools import ROOT, triton_python
from tests.support.small_graphs import add_model
from tests.support.tiny_model import add_version, expected
from tests.transport.serving import TRANSPORTS
from tests.worker.tensors.infer_calls import arrays, request
from tests.worker.worker_process import PATIENCE_SECONDS, WorkerProcess, running_worker

pytestmark = pytest.mark.system
SERVICE = "inference.GRPCInferenceService"
LARGE = 8 * 1024 * 1024
"""Above the limit that grpcio has by default, in both directions."""


@pytest.fixture(scope="module", params=TRANSPORTS)
def worker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A worker of the ranker for users and items, under a name of its own."""
    folder = tmp_path_factory.mktemp("worker")
    add_model(folder / "models", "v2", small_graphs.user_and_items())
    flags = ("--version", "v2", "--model-name", "ranker", "--transport", request.param)
    with running_worker(folder, folder / "models", *flags) as process:
        yield process


def ask(worker: WorkerProcess, method: str, message: Any, answer: Any) -> Any:
    """One call of a method."""
    call = worker.channel.unary_unary(method, type(message).SerializeToString, answer.FromString)
    return call(message, timeout=PATIENCE_SECONDS)


def oip(worker: WorkerProcess, method: str, **fields: Any) -> Any:
    """One call of a method of the protocol, by its name."""
    message = getattr(inference, f"{method}Request")(**fields)
    return ask(worker, f"/{SERVICE}/{method}", message, getattr(inference, f"{method}Response"))


def infer(worker: WorkerProcess, message: inference.ModelInferRequest) -> inference.ModelInferResponse:
    answer: inference.ModelInferResponse = ask(worker, MODEL_INFER, message, inference.ModelInferResponse)
    return answer


INPUTS = {
    "user": np.array([[1], [2]], np.int64),
    "items": np.array([[1, 2, 3], [4, 5, 6]], np.int64),
    "context": np.array(["a", "é"], dtype=object),
}


def test_it_says_what_it_is(worker: WorkerProcess) -> None:
    """Live, ready, by name and version, and what the model takes and gives."""
    assert oip(worker, "ServerLive").live
    assert oip(worker, "ServerReady").ready
    assert oip(worker, "ModelReady", name="ranker").ready
    assert oip(worker, "ModelReady", name="ranker", version="v2").ready
    assert oip(worker, "ServerMetadata").name == "abfleet-worker"
    about = oip(worker, "ModelMetadata", name="ranker")
    assert oip(worker, "ModelMetadata") == about  # a router does not know how a worker calls its model
    assert (about.name, list(about.versions), about.platform) == ("ranker", ["v2"], "onnxruntime_onnx")
    assert [(one.name, one.datatype, list(one.shape)) for one in (*about.inputs, *about.outputs)] == [
        ("user", "INT64", [-1, 1]),
        ("items", "INT64", [-1, -1]),
        ("context", "BYTES", [-1]),
        ("score", "FP32", [-1, -1]),
        ("best", "INT64", [-1, 1]),
        ("echoed", "BYTES", [-1]),
    ]


def test_it_answers(worker: WorkerProcess) -> None:
    """Raw and typed requests get the same answer, with the id of the call and the version that served."""
    answers = [infer(worker, request(INPUTS, typed=typed, model_name="ranker", id="call-1")) for typed in (False, True)]
    assert answers[0] == answers[1]
    assert (answers[0].id, answers[0].model_name, answers[0].model_version) == ("call-1", "ranker", "v2")
    found = arrays(answers[0])
    assert found["score"].shape == (2, 3)
    assert found["best"].tolist() == found["score"].argmax(axis=1)[:, None].tolist()
    assert found["echoed"].tolist() == ["a", "é"]


@pytest.mark.parametrize(
    ("method", "fields", "words"),
    [
        ("ModelReady", {"name": "x"}, "name: 'x' is not served; allowed: ranker"),
        ("ModelReady", {"name": "ranker", "version": "v9"}, "version: 'v9' is not served; allowed: v2, or none"),
        ("ModelReady", {"name": ""}, "name: '' is not served; allowed: ranker"),
        ("ModelInfer", {"model_name": "x"}, "model_name: 'x' is not served; allowed: ranker"),
    ],
)
def test_what_is_not_served_is_not_found(
    worker: WorkerProcess, method: str, fields: dict[str, str], words: str
) -> None:
    """And which there is, is said."""
    with pytest.raises(grpc.RpcError) as raised:
        oip(worker, method, **fields)
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.NOT_FOUND, words)


@pytest.mark.parametrize("name", ["ModelStatistics", "ModelConfig", "RepositoryIndex", "ModelStreamInfer"])
def test_methods_that_only_triton_has_are_unimplemented(worker: WorkerProcess, name: str) -> None:
    """As the protocol wants it of a server that has none of them."""
    with pytest.raises(grpc.RpcError) as raised:
        worker.channel.unary_unary(f"/{SERVICE}/{name}")(b"", timeout=PATIENCE_SECONDS)
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_health_and_reflection_know_it(worker: WorkerProcess) -> None:
    """The service is listed, and its file is described though it is in a pool of its own; the others are too."""
    stub = health_pb2_grpc.HealthStub(worker.channel)
    for service in (SERVICE, "v2", ""):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_SECONDS)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    symbols = (SERVICE, "abfleet.worker.v1.Worker", "Recommender", "grpc.health.v1.Health")
    requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
    requests += [reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol) for symbol in symbols]
    reflected = reflection_pb2_grpc.ServerReflectionStub(worker.channel)
    listed, *described = list(reflected.ServerReflectionInfo(iter(requests), timeout=PATIENCE_SECONDS))
    assert {*symbols} <= {service.name for service in listed.list_services_response.service}
    for symbol, answer in zip(symbols, described, strict=True):
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(file)
            for file in answer.file_descriptor_response.file_descriptor_proto
        ]
        names = {f"{file.package}.{one.name}".lstrip(".") for file in files for one in file.service}
        assert symbol in names


def test_a_batch_has_an_answer_for_each(worker: WorkerProcess) -> None:
    """InferBatch looks at no name, because a router knows the model by others; a wrong request fails alone."""
    good, wrong = request(INPUTS, model_name="whatever"), request(INPUTS)
    wrong.inputs[0].datatype = "FP32"
    batch = InferBatchRequest(requests=[one.SerializeToString() for one in (good, wrong, good)])
    answer = ask(worker, INFER_BATCH, batch, InferBatchResponse)
    assert answer.model_version == "v2"
    assert list(answer.failures) == [1]
    assert "input 'user': datatype: 'FP32'" in answer.failures[1].message
    found = inference.ModelInferResponse.FromString(answer.responses[2])
    assert (found.model_name, found.model_version, found.id) == ("", "", "")
    assert (
        arrays(found)["score"].tobytes()
        == arrays(infer(worker, request(INPUTS, model_name="ranker")))["score"].tobytes()
    )


def test_large_tensors_come_through(worker: WorkerProcess) -> None:
    """Eight mebibytes of items in, and as much of scores out."""
    items = np.ones((1, LARGE // 8), np.int64)
    inputs = {"user": INPUTS["user"][:1], "items": items, "context": INPUTS["context"][:1]}
    found = arrays(infer(worker, request(inputs, model_name="ranker")))
    assert found["score"].shape == items.shape


def test_calls_are_counted(worker: WorkerProcess) -> None:
    """By method and status, as recommendations are."""
    before = worker.metric("grpc_requests_total", method=MODEL_INFER.lstrip("/"), status="OK")
    infer(worker, request(INPUTS, model_name="ranker"))
    wait_until(
        lambda: worker.metric("grpc_requests_total", method=MODEL_INFER.lstrip("/"), status="OK") == before + 1,
        "the call is counted",
    )
    assert worker.metric("grpc_requests_in_progress", method=MODEL_INFER.lstrip("/")) == 0


def test_a_recommender_is_served_so_too(tmp_path: Path) -> None:
    """Without a word of configuration: the name is `recommender`, the alias is a version."""
    add_version(tmp_path / "models", "v1.2.3")
    (tmp_path / "models" / "production").symlink_to("v1.2.3")
    with running_worker(tmp_path, tmp_path / "models", "--version", "production") as worker:
        message = request({"history": np.array([[1, 2, 3]], np.int64)}, ["item_ids"], model_name="recommender")
        message.model_version = "production"
        answer = infer(worker, message)
        assert answer.model_version == "v1.2.3"
        assert arrays(answer)["item_ids"][0, :10].tolist() == expected([1, 2, 3], 10)[0]


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_other_libraries_may_register_the_same_package(first: str) -> None:
    """Whichever is imported first, a module that registers `inference` otherwise and ours live in one process, and so
    do the onnx library and ours."""
    theirs = (
        "from google.protobuf import descriptor_pb2, descriptor_pool\n"
        "file = descriptor_pb2.FileDescriptorProto(name='grpc_service.proto', package='inference', syntax='proto3')\n"
        "message = file.message_type.add(name='ModelInferRequest')\n"
        "message.field.add(name='other', number=9, type=3, label=1)\n"
        "descriptor_pool.Default().AddSerializedFile(file.SerializeToString())\n"
        "import onnx\n"
    )
    ours = (
        "import abfleet_models.graph.reading, abfleet_worker.app\n"
        "from abfleet_protos.inference_pb2 import ModelInferRequest\n"
        "assert ModelInferRequest.FromString(ModelInferRequest(id='a').SerializeToString()).id == 'a'\n"
    )
    code = ours + theirs if first == "ours" else theirs + ours
    code += (
        "import asyncio, grpc\n"
        "from abfleet_protos import inference_pb2\n"
        "from abfleet_transport.reflection import add_reflection\n"
        "async def reflected(): add_reflection(grpc.aio.server(), (inference_pb2.DESCRIPTOR,))\n"
        "asyncio.run(reflected())\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE_SECONDS, cwd=ROOT)


def test_tritons_own_client_is_served(worker: WorkerProcess) -> None:
    """tritonclient, which has its own idea of the protocol, gets what it asks for; and an error that it can show."""
    script = ROOT / "tests" / "worker" / "triton_calls.py"
    done = subprocess.run(
        [triton_python(), str(script), worker.address], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["ready", "(2,", "3)", "['a',", "'é']", "StatusCode.INVALID_ARGUMENT"]
