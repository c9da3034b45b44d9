"""The worker as a process: what a stock gRPC client sees of it, how it starts and how it ends."""

import functools
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psutil
import pytest
from abfleet_process.build_info import build_info
from abfleet_protos.recommender_pb2 import RecommendRequest, RecommendResponse
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.support.fleet import wait_until
from tests.support.small_graphs import ENDLESS_FROM, add_model, endless
from tests.support.tiny_model import POISON_NAN, POISON_RAISE, add_version, expected, tiny_registry
from tests.transport.serving import TRANSPORTS
from tests.worker.worker_process import PATIENCE_SECONDS, WorkerProcess, run_to_end, running_worker

pytestmark = pytest.mark.system
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module", params=TRANSPORTS)
def worker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """One worker of the tiny model for all tests that leave it as it is."""
    folder = tmp_path_factory.mktemp("worker")
    registry = tiny_registry(folder / "registry")
    with running_worker(folder, registry, "--version", "production", "--transport", request.param) as process:
        yield process


def test_it_says_what_it_serves(worker: WorkerProcess) -> None:
    """The ready line has the bound port and the version behind the alias."""
    assert worker.version == "v1.2.3"
    assert int(worker.address.rpartition(":")[2]) > 0


def test_a_plain_call_is_answered(worker: WorkerProcess) -> None:
    """The five item ids alone get ten items, scores, a request id and the version."""
    answer = worker.recommend(RecommendRequest(item_ids=[1, 2, 3, 10, 15]))
    assert (list(answer.item_ids), list(answer.scores)) == expected([1, 2, 3, 10, 15], 10)
    assert answer.model_version == "v1.2.3"
    assert len(answer.request_id) == 32


def test_many_callers_each_get_their_own_answer(worker: WorkerProcess) -> None:
    """400 calls over 16 threads, all different: nobody gets what another one asked for."""

    def call(number: int) -> bool:
        history, limit = list(range(number, number + number % 40)), number % 101
        answer = worker.recommend(RecommendRequest(item_ids=history, limit=limit, request_id=f"r{number}"))
        return (list(answer.item_ids), list(answer.scores), answer.request_id) == (
            *expected(history, limit),
            f"r{number}",
        )

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(call, range(1000, 1400)))


def test_a_batch_answers_each_item(worker: WorkerProcess) -> None:
    """Good, poisoned and unreadable items in one RPC, each with its own status; the version is in the answer."""
    histories = [[1], [POISON_NAN], [POISON_RAISE], list(range(1, 700)), [5]]
    payloads = [RecommendRequest(item_ids=history, limit=2).SerializeToString() for history in histories]
    answer = worker.start_batch([*payloads, b"\xff"]).result()
    assert answer.model_version == "v1.2.3"
    assert answer.elapsed_us > 0
    assert {index: failure.code for index, failure in answer.failures.items()} == {1: 13, 2: 13, 5: 3}
    first_items = [list(RecommendResponse.FromString(response).item_ids[:1]) for response in answer.responses]
    newest_500 = sum(range(200, 700))
    assert first_items == [[2], [], [], [newest_500 + 1], [6], []]


@pytest.mark.parametrize(
    ("request_message", "code", "words"),
    [
        (RecommendRequest(limit=101), grpc.StatusCode.INVALID_ARGUMENT, "limit: 101"),
        (RecommendRequest(user_id="a\nb"), grpc.StatusCode.INVALID_ARGUMENT, "user_id: 'a\\nb'"),
        (RecommendRequest(item_ids=[POISON_RAISE]), grpc.StatusCode.INTERNAL, "the model failed"),
    ],
)
def test_what_is_wrong_is_said(
    worker: WorkerProcess, request_message: RecommendRequest, code: grpc.StatusCode, words: str
) -> None:
    """The status and a message for people; never a stack trace or the words of the runtime."""
    with pytest.raises(grpc.RpcError) as raised:
        worker.recommend(request_message)
    assert raised.value.code() == code
    assert raised.value.details().startswith(words)
    assert "Traceback" not in raised.value.details()
    assert "ONNX" not in raised.value.details()


def test_health_is_told_for_the_server_and_by_version(worker: WorkerProcess) -> None:
    """Check says SERVING for "" and for the version, NOT_FOUND for another; Watch begins with SERVING."""
    stub = health_pb2_grpc.HealthStub(worker.channel)
    for name in ("", "v1.2.3"):
        assert stub.Check(health_pb2.HealthCheckRequest(service=name)).status == SERVING
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=name))
        assert next(watch).status == SERVING
        watch.cancel()
    with pytest.raises(grpc.RpcError) as raised:
        stub.Check(health_pb2.HealthCheckRequest(service="v0"))
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND


def test_reflection_lists_and_describes_the_services(worker: WorkerProcess) -> None:
    """A client without the protos finds both services, health, and the file of Recommender."""
    stub = reflection_pb2_grpc.ServerReflectionStub(worker.channel)
    requests = iter(
        [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="Recommender"),
        ]
    )
    listed, described = list(stub.ServerReflectionInfo(requests, timeout=PATIENCE_SECONDS))
    names = {service.name for service in listed.list_services_response.service}
    assert {"Recommender", "abfleet.worker.v1.Worker", "grpc.health.v1.Health"} <= names
    assert described.file_descriptor_response.file_descriptor_proto


def test_metrics_count_calls_and_items(worker: WorkerProcess) -> None:
    """A call shows in the RPC counters and in the worker's own, under the model that served."""
    before = worker.metric("grpc_requests_total", method="Recommender/Recommend", status="OK")
    items = worker.metric("abfleet_worker_items_total", status="OK")
    worker.recommend(RecommendRequest(item_ids=[1]))
    # The answer leaves before it is counted.
    counted = functools.partial(worker.metric, "grpc_requests_total", method="Recommender/Recommend", status="OK")
    wait_until(lambda: counted() == before + 1, "the call is counted")
    assert worker.metric("abfleet_worker_items_total", status="OK") == items + 1
    assert worker.metric("abfleet_worker_model_info", version="v1.2.3") == 1
    build = build_info()
    assert worker.metric("abfleet_build_info", version=build.version, revision=build.revision) == 1
    assert worker.metric("grpc_requests_in_progress", method="Recommender/Recommend") == 0


def test_an_unknown_method_is_unimplemented(worker: WorkerProcess) -> None:
    """Another method of a known service is UNIMPLEMENTED and counted as `other`."""
    before = worker.metric("grpc_requests_total", method="other", status="UNIMPLEMENTED")
    with pytest.raises(grpc.RpcError) as raised:
        worker.channel.unary_unary("/Recommender/Guess")(b"", timeout=PATIENCE_SECONDS)
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert worker.metric("grpc_requests_total", method="other", status="UNIMPLEMENTED") == before + 1


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_it_serves_on_a_unix_socket(tmp_path: Path, transport: str) -> None:
    """`--listen unix:PATH` is served there, and named in the ready line."""
    registry = tiny_registry(tmp_path / "registry")
    listen = f"unix:{tmp_path / 's'}"
    with running_worker(tmp_path, registry, "--transport", transport, listen=listen) as worker:
        assert worker.address == listen
        assert worker.recommend(RecommendRequest(item_ids=[4])).item_ids[0] == 5


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_sigterm_loses_no_call(tmp_path: Path, transport: str) -> None:
    """Under load, SIGTERM makes health NOT_SERVING while every call is still answered; callers that then leave have
    lost nothing, the worker exits 0 and leaves no file behind, not even of ONNX Runtime's telemetry."""
    registry = tiny_registry(tmp_path / "registry")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    flags = ("--transport", transport, "--drain-delay", "2")
    with running_worker(temporary, registry, *flags) as worker:
        warned, answered, failed = threading.Event(), [0, 0], []

        def load() -> None:
            while not warned.is_set():
                try:
                    worker.recommend(RecommendRequest(item_ids=[1, 2]))
                except grpc.RpcError as error:
                    failed.append(error.code())
                answered[signalled.is_set()] += 1

        signalled = threading.Event()
        watch = health_pb2_grpc.HealthStub(worker.channel).Watch(health_pb2.HealthCheckRequest(service="v1.2.3"))
        assert next(watch).status == SERVING
        threads = [threading.Thread(target=load) for _ in range(8)]
        for thread in threads:
            thread.start()
        while answered[0] < 100:
            threads[0].join(timeout=0.01)
        signalled.set()
        worker.process.send_signal(signal.SIGTERM)
        assert next(watch).status == NOT_SERVING
        warned.set()
        for thread in threads:
            thread.join()
        assert not failed
        assert answered[1] > 0
        assert worker.process.wait(PATIENCE_SECONDS) == 0
    assert {path.name for path in temporary.iterdir()} == {"stderr"}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_sigterm_lets_a_running_batch_end(tmp_path: Path, transport: str) -> None:
    """Without any delay, a batch that is being worked on when the signal comes is still answered."""
    registry = tiny_registry(tmp_path / "registry")
    payloads = [RecommendRequest(item_ids=[number]).SerializeToString() for number in range(1000, 41_000)]
    flags = ("--transport", transport, "--max-batch", "1", "--drain-timeout", "60")
    with running_worker(tmp_path, registry, *flags) as worker:
        pending = worker.start_batch(payloads)
        while not worker.metric("abfleet_worker_batch_size_count"):
            assert not pending.done(), "the batch was too short for this test"
        worker.process.send_signal(signal.SIGTERM)
        answer = pending.result()
        assert not answer.failures
        assert len(answer.responses) == len(payloads)
        assert worker.process.wait(PATIENCE_SECONDS) == 0


def test_a_second_signal_is_immediate(tmp_path: Path) -> None:
    """During an hour of delay, a second SIGTERM ends the worker, which says by its exit code that it was cut short."""
    registry = tiny_registry(tmp_path / "registry")
    with running_worker(tmp_path, registry, "--drain-delay", "3600") as worker:
        watch = health_pb2_grpc.HealthStub(worker.channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == SERVING
        worker.process.send_signal(signal.SIGTERM)
        assert next(watch).status == NOT_SERVING
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(PATIENCE_SECONDS) == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_model_that_hangs_does_not_keep_the_process(tmp_path: Path, transport: str) -> None:
    """A run without an end is left behind once the time for running calls is up; it is said, and nobody has to kill."""
    add_model(tmp_path / "registry", "v1", endless())
    flags = ("--version", "v1", "--transport", transport, "--drain-timeout", "0.5")
    with running_worker(tmp_path, tmp_path / "registry", *flags) as worker:
        process = psutil.Process(worker.process.pid)
        before = process.cpu_times().user
        pending = worker.start_batch([RecommendRequest(item_ids=[ENDLESS_FROM + 1]).SerializeToString()])
        wait_until(lambda: process.cpu_times().user > before + 0.5, "the model runs and runs")
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(PATIENCE_SECONDS) == 1
        assert pending.code() is not grpc.StatusCode.OK
    assert "the model is still running, and is left behind" in worker.errors.read_text()


def test_a_broken_model_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    """A model file that was changed after release does not serve; the reason is the only line on stderr."""
    add_version(tmp_path / "registry", "v1").joinpath("model.onnx").write_bytes(b"changed")
    flags = ("--registry", str(tmp_path / "registry"), "--version", "v1", "--listen", "127.0.0.1:0")
    ended = run_to_end(tmp_path, *flags, "--metrics-port", "off")
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert "sha256" in ended.stderr


def test_a_wrong_flag_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    """A usage mistake is told apart from a failure."""
    ended = run_to_end(tmp_path, "--max-batch", "none")
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "--max-batch" in ended.stderr


@pytest.mark.parametrize(
    ("transport", "flag"), [("auto", "--listen"), ("grpcio", "--listen"), ("auto", "--metrics-port")]
)
def test_a_taken_port_is_named_with_its_flag(tmp_path: Path, transport: str, flag: str) -> None:
    """The address that is taken and the flag that chooses another are in the last line; the exit code is 1."""
    registry = tiny_registry(tmp_path / "registry")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        given = {"--listen": "127.0.0.1:0", "--metrics-port": "off"}
        given[flag] = f"127.0.0.1:{port}" if flag == "--listen" else port
        ended = run_to_end(
            tmp_path,
            *("--registry", str(registry), "--transport", transport, "--log-level", "error"),
            *(word for item in given.items() for word in item),
        )
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert port in last
    assert flag in last
