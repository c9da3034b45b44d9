"""A fleet as a server of the Open Inference Protocol: real router and workers, asked by grpcio on both transports."""

import subprocess
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from abfleet_protos import inference_pb2 as inference
from abfleet_protos.recommender_pb2 import RecommendRequest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.support import small_graphs
from tests.support.fleet import Fleet, wait_until
from tests.support.oip_tools import ROOT, triton_python
from tests.support.small_graphs import add_model
from tests.transport.serving import TRANSPORTS
from tests.worker.tensors.infer_calls import arrays, request
from tests.worker.worker_process import PATIENCE_SECONDS

pytestmark = pytest.mark.system
SERVICE = "inference.GRPCInferenceService"
MIB = 1024 * 1024
EXPERIMENTS = """
version: 1
name: ranker
default: v2
models: {v2: {target: "127.0.0.1:1"}, v3: {target: "127.0.0.1:1", log: {items: best, outputs: [score, echoed]}}}
log_attributes: [country]
experiments:
  - name: ranking
    overrides: {on-v2: control, on-v3: treatment}
    groups: [{name: control, model: v2, weight: 50}, {name: treatment, model: v3, weight: 50}]
"""
INPUTS = {
    "user": np.array([[1], [2]], np.int64),
    "items": np.array([[1, 2, 3], [4, 5, 6]], np.int64),
    "context": np.array(["a", "é"], dtype=object),
}


@pytest.fixture(scope="module", params=TRANSPORTS)
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two versions of the ranker for users and items, under a name of their own, and workers that do not know it."""
    folder = tmp_path_factory.mktemp("fleet")
    for version in ("v2", "v3"):
        add_model(folder / "models", version, small_graphs.user_and_items())
    with Fleet(
        folder,
        experiments=EXPERIMENTS,
        registry=folder / "models",
        versions=("v2", "v3"),
        transport=request.param,
        router_flags=("--max-infer-bytes", str(10 * MIB), "--default-deadline", "30", "--attempt-timeout", "20"),
    ) as running:
        running.wait_for_serving("v3")
        yield running


def call(fleet: Fleet, method: str, message: Any, answer: Any, **fields: Any) -> Any:
    """One call of a method by its full path."""
    options = [("grpc.max_receive_message_length", 64 * MIB)]
    with grpc.insecure_channel(fleet.address, options=options) as channel:
        unary = channel.unary_unary(method, type(message).SerializeToString, answer.FromString)
        return unary(message, timeout=PATIENCE_SECONDS, **fields)


def oip(fleet: Fleet, method: str, **fields: Any) -> Any:
    """One call of a method of the protocol, by its name."""
    message = getattr(inference, f"{method}Request")(**fields)
    return call(fleet, f"/{SERVICE}/{method}", message, getattr(inference, f"{method}Response"))


def infer(fleet: Fleet, message: inference.ModelInferRequest, **fields: Any) -> inference.ModelInferResponse:
    path = f"/{SERVICE}/ModelInfer"
    answer: inference.ModelInferResponse = call(fleet, path, message, inference.ModelInferResponse, **fields)
    return answer


def refusal(fleet: Fleet, method: str, **fields: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as raised:
        oip(fleet, method, **fields)
    return raised.value.code(), raised.value.details()


def test_it_says_what_it_is(fleet: Fleet) -> None:
    """Live, ready, by name and version; what the default version takes and gives, as its worker says it."""
    assert oip(fleet, "ServerLive").live
    assert oip(fleet, "ServerReady").ready
    assert oip(fleet, "ModelReady", name="ranker").ready
    assert oip(fleet, "ModelReady", name="ranker", version="v3").ready
    assert oip(fleet, "ServerMetadata").name == "abfleet-router"
    about = oip(fleet, "ModelMetadata", name="ranker")
    assert (about.name, list(about.versions), about.platform) == ("ranker", ["v2", "v3"], "onnxruntime_onnx")
    assert [one.name for one in about.inputs] == ["user", "items", "context"]
    assert [(one.name, list(one.shape)) for one in about.outputs][:1] == [("score", [-1, -1])]
    assert oip(fleet, "ModelMetadata", name="ranker", version="v3") == about


def test_what_is_not_served_is_not_found(fleet: Fleet) -> None:
    """And which there is, is said."""
    missing = grpc.StatusCode.NOT_FOUND
    none = "version: 'v9' is not allowed; allowed: v2, v3, or none for the version that the experiment assigns"
    assert refusal(fleet, "ModelReady", name="x") == (missing, "name: 'x' is not allowed; allowed: ranker")
    assert refusal(fleet, "ModelReady", name="ranker", version="v9") == (missing, none)
    assert refusal(fleet, "ModelMetadata", name="ranker", version="v9") == (missing, none)
    assert refusal(fleet, "ModelInfer", model_name="ranker", model_version="v9") == (missing, f"model_{none}")


@pytest.mark.parametrize("name", ["ModelStatistics", "ModelConfig", "RepositoryIndex", "ModelStreamInfer"])
def test_methods_that_only_triton_has_are_unimplemented(fleet: Fleet, name: str) -> None:
    """As the protocol wants it of a server that has none of them."""
    with grpc.insecure_channel(fleet.address) as channel, pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(f"/{SERVICE}/{name}")(b"", timeout=PATIENCE_SECONDS)
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_it_answers_and_logs(fleet: Fleet) -> None:
    """By the user's group, with the caller's id; the log has what the file names of the answer."""
    message = request(INPUTS, model_name="ranker", id="call-1")
    message.parameters["country"].string_param = "DE"
    answer = infer(fleet, message, metadata=(("x-user-id", "on-v3"),))
    assert (answer.model_name, answer.model_version, answer.id) == ("ranker", "v3", "call-1")
    assert {name: one.string_param for name, one in answer.parameters.items()} == {
        "experiment": "ranking",
        "group": "treatment",
    }
    found = arrays(answer)
    assert found["echoed"].tolist() == ["a", "é"]
    line = wait_until(
        lambda: next((line for line in fleet.log() if line.get("request_id") == "call-1"), None), "the call is logged"
    )
    assert (line["method"], line["group"], line["attributes"]) == ("infer", "treatment", {"country": "DE"})
    assert line["items"] == found["best"].reshape(-1).tolist()
    assert line["outputs"] == {"score": [float(one) for one in found["score"].reshape(-1)]}


def test_a_version_may_be_named(fleet: Fleet) -> None:
    """That one answers, whoever calls."""
    answer = infer(fleet, request(INPUTS, model_name="ranker", model_version="v2"), metadata=(("x-user-id", "on-v3"),))
    assert (answer.model_version, answer.parameters["group"].string_param) == ("v2", "")


def test_a_wrong_tensor_is_the_callers(fleet: Fleet) -> None:
    """The worker's words reach the caller, and no worker is blamed."""
    message = request(INPUTS, model_name="ranker")
    message.inputs[0].datatype = "FP32"
    with pytest.raises(grpc.RpcError) as raised:
        infer(fleet, message)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "input 'user': datatype: 'FP32'" in raised.value.details()
    with fleet.stub() as stub, pytest.raises(grpc.RpcError) as refused:
        stub.Recommend(RecommendRequest(item_ids=[1]), timeout=PATIENCE_SECONDS)
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert all(pool.available == 1 for pool in fleet.status().pools)


def test_large_tensors_come_through_up_to_the_limit(fleet: Fleet) -> None:
    """Eight mebibytes in, as much out; past --max-infer-bytes the request is refused as such."""
    for size, code in ((8 * MIB, None), (11 * MIB, grpc.StatusCode.RESOURCE_EXHAUSTED)):
        items = np.ones((1, size // 8), np.int64)
        message = request(
            {"user": INPUTS["user"][:1], "items": items, "context": INPUTS["context"][:1]}, model_name="ranker"
        )
        if code is None:
            assert arrays(infer(fleet, message))["score"].shape == items.shape
        else:
            with pytest.raises(grpc.RpcError) as raised:
                infer(fleet, message)
            assert raised.value.code() == code
            assert str(10 * MIB) in raised.value.details()


def test_health_and_reflection_know_it(fleet: Fleet) -> None:
    """The service is listed and described, beside the others."""
    with grpc.insecure_channel(fleet.address) as channel:
        checked = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=SERVICE), timeout=PATIENCE_SECONDS
        )
        assert checked.status == health_pb2.HealthCheckResponse.SERVING
        symbols = (SERVICE, "Recommender", "Feedback", "grpc.health.v1.Health")
        requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
        requests += [reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol) for symbol in symbols]
        reflected = reflection_pb2_grpc.ServerReflectionStub(channel)
        listed, *described = list(reflected.ServerReflectionInfo(iter(requests), timeout=PATIENCE_SECONDS))
    assert {*symbols} <= {service.name for service in listed.list_services_response.service}
    for symbol, answer in zip(symbols, described, strict=True):
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(file)
            for file in answer.file_descriptor_response.file_descriptor_proto
        ]
        assert symbol in {f"{file.package}.{one.name}".lstrip(".") for file in files for one in file.service}


def test_tritons_own_client_is_served(fleet: Fleet) -> None:
    """tritonclient gets from a router what it gets from a worker."""
    script = ROOT / "tests" / "worker" / "triton_calls.py"
    done = subprocess.run(
        [triton_python(), str(script), fleet.address], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["ready", "(2,", "3)", "['a',", "'é']", "StatusCode.INVALID_ARGUMENT"]
