"""A fleet of a worker and of servers of the Open Inference Protocol: real processes, on both transports."""

import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from abfleet_protos.inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelReadyRequest,
)
from abfleet_protos.inference_pb2_grpc import GRPCInferenceServiceStub
from abfleet_protos.recommender_pb2 import RecommendRequest, RecommendResponse

from tests.support.fleet import Fleet, wait_until
from tests.support.process import Process
from tests.support.up import tiny_models
from tests.transport.serving import TRANSPORTS
from tests.worker.worker_process import PATIENCE_SECONDS

pytestmark = pytest.mark.system
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
HISTORY = (1, 2, 3)
CALLERS = 4


class Servers:
    """Two servers of one model, each a process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._starts = 0
        self.processes = [self._spawn("127.0.0.1:0") for _ in range(2)]
        self.addresses = [process.ready()[1] for process in self.processes]

    def _spawn(self, address: str) -> Process:
        self._starts += 1
        return Process(f"oip-{self._starts}", "tests.support.oip_server", [address], self._folder)

    def kill(self, number: int) -> None:
        """SIGKILL."""
        self.processes[number].kill()

    def restart(self, number: int) -> None:
        """At the address that it had."""
        self.processes[number] = self._spawn(self.addresses[number])
        self.processes[number].ready()

    def stop(self) -> None:
        for process in self.processes:
            process.kill()


@pytest.fixture(scope="module", params=TRANSPORTS)
def mixed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, Servers]]:
    """Control is our worker, treatment a model of two servers."""
    folder = tmp_path_factory.mktemp("mixed")
    servers = Servers(folder)
    targets = ", ".join(f'"{address}"' for address in servers.addresses)
    experiments = f"""
version: 1
default: v1.2.3
models:
  v1.2.3: {{target: "127.0.0.1:1"}}
  v3: {{target: [{targets}], protocol: oip, model: ranker, version: "3"}}
log: {{items: item_ids}}
experiments:
  - name: ranking
    overrides: {{on-worker: control, on-server: treatment}}
    groups: [{{name: control, model: v1.2.3, weight: 50}}, {{name: treatment, model: v3, weight: 50}}]
"""
    try:
        with Fleet(
            folder,
            experiments=experiments,
            registry=tiny_models(folder / "models", ["v1.2.3"]),
            versions=["v1.2.3"],
            transport=request.param,
            router_flags=("--default-deadline", "30", "--attempt-timeout", "10"),
        ) as fleet:
            fleet.wait_for_serving("v3", 2)
            yield fleet, servers
    finally:
        servers.stop()


def infer(channel: grpc.Channel, user: str, request_id: str = "", **parameters: str) -> ModelInferResponse:
    """Items for the history, as tensors."""
    message = ModelInferRequest(
        model_name="recommender", id=request_id, raw_input_contents=[struct.pack("<3q", *HISTORY)]
    )
    message.inputs.add(name="history", datatype="INT64", shape=[1, 3])
    for name, value in parameters.items():
        message.parameters[name].string_param = value
    call = channel.unary_unary(MODEL_INFER, ModelInferRequest.SerializeToString, ModelInferResponse.FromString)
    answer: ModelInferResponse = call(message, timeout=PATIENCE_SECONDS, metadata=(("x-user-id", user),))
    return answer


def recommend(channel: grpc.Channel, user: str, request_id: str = "") -> RecommendResponse:
    message = RecommendRequest(item_ids=HISTORY, user_id=user, request_id=request_id)
    call = channel.unary_unary(
        "/Recommender/Recommend", RecommendRequest.SerializeToString, RecommendResponse.FromString
    )
    answer: RecommendResponse = call(message, timeout=PATIENCE_SECONDS)
    return answer


@contextmanager
def callers(address: str) -> Iterator[Callable[[int], list[str]]]:
    """Calls of both methods one after another, each for a user of its own. The function gives all failures after that
    many more calls."""
    failures: list[str] = []
    done = 0
    stop = threading.Event()

    def run(number: int) -> None:
        nonlocal done
        with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            count = 0
            while not stop.is_set():
                count += 1
                try:
                    (recommend if count % 2 else infer)(channel, f"u{number}-{count}", f"{number}-{count}")
                except grpc.RpcError as error:
                    failures.append(f"{error.code()}: {error.details()}")
                done += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(CALLERS)]
    for thread in threads:
        thread.start()

    def after(more: int) -> list[str]:
        goal = done + more
        wait_until(lambda: done >= goal, f"{goal} calls")
        return failures

    try:
        yield after
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def lines(fleet: Fleet, request_id: str) -> dict[str, Any]:
    """The line of a call."""
    found: dict[str, Any] = wait_until(
        lambda: next((line for line in fleet.log() if line.get("request_id") == request_id), None), "its line"
    )
    return found


def test_both_kinds_serve_one_experiment(mixed: tuple[Fleet, Servers]) -> None:
    """Either group gets either method, and the log has the keys of the file."""
    fleet, _ = mixed
    with grpc.insecure_channel(fleet.address) as channel:
        for user, version in (("on-worker", "v1.2.3"), ("on-server", "v3")):
            listed, tensors = recommend(channel, user, f"r-{user}"), infer(channel, user, f"i-{user}")
            assert (listed.model_version, tensors.model_version) == (version, version)
            assert tensors.parameters["group"].string_param == listed.group != ""
            found = lines(fleet, f"r-{user}")
            assert (found["served_version"], found["items"]) == (version, list(listed.item_ids))
            assert lines(fleet, f"i-{user}")["items"][: len(listed.item_ids)] == list(listed.item_ids)
        assert list(recommend(channel, "on-server").item_ids) == list(range(7, 17))
        with pytest.raises(grpc.RpcError) as raised:
            infer(channel, "on-server", fail="INVALID_ARGUMENT")
        assert (raised.value.code(), raised.value.details()) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "it was to fail with INVALID_ARGUMENT",
        )


def test_its_signature_and_readiness_are_the_servers(mixed: tuple[Fleet, Servers]) -> None:
    """Under the router's name and the file's versions."""
    fleet, _ = mixed
    with grpc.insecure_channel(fleet.address) as channel:
        question = ModelMetadataRequest(name="recommender", version="v3")
        about = GRPCInferenceServiceStub(channel).ModelMetadata(question, timeout=PATIENCE_SECONDS)
        ready = ModelReadyRequest(name="recommender", version="v3")
        assert GRPCInferenceServiceStub(channel).ModelReady(ready, timeout=PATIENCE_SECONDS).ready
    assert (about.name, list(about.versions), about.platform) == ("recommender", ["v1.2.3", "v3"], "a platform")
    assert [one.name for one in about.inputs] == ["history"]


def test_a_killed_server_fails_no_call(mixed: tuple[Fleet, Servers]) -> None:
    """Neither one of two nor both; then the default version answers, and the log says so. What comes back serves."""
    fleet, servers = mixed
    with callers(fleet.address) as after:
        after(100)
        servers.kill(0)
        assert after(300) == []
        servers.kill(1)
        assert after(300) == []
        fallbacks = [line for line in fleet.log() if line.get("fallback")]
        assert {(line["group"], line["served_version"]) for line in fallbacks} == {("treatment", "v1.2.3")}
        for number in (0, 1):
            servers.restart(number)
        fleet.wait_for_serving("v3", 2)
        assert after(300) == []
    with grpc.insecure_channel(fleet.address) as channel:
        assert infer(channel, "on-server").model_version == "v3"
