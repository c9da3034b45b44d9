"""The worker as a process whose alias moves: nobody's call is lost, and each answer is wholly one version's."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from abfleet_models.release import point
from abfleet_protos.recommender_pb2 import RecommendRequest, RecommendResponse
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.models.forge import replace_model
from tests.support.fleet import MODELS, wait_until
from tests.support.tiny_model import add_version, tiny_registry
from tests.transport.serving import TRANSPORTS
from tests.worker.worker_process import PATIENCE_SECONDS, WorkerProcess, running_worker

pytestmark = pytest.mark.system
SERVING = health_pb2.HealthCheckResponse.SERVING
OFTEN = ("--follow-interval", "0.02")
ONLY_ON_REQUEST = ("--follow-interval", "0")
K = {"v1.2.3": 100, "v2": 30}
"""Items of an answer when 100 are asked for: tells the versions apart by what they answer."""


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    root = tiny_registry(tmp_path / "registry")
    add_version(root, "v2", k=K["v2"])
    return root


def serves(worker: WorkerProcess, version: str) -> Callable[[], bool]:
    return lambda: worker.recommend(RecommendRequest(item_ids=[1])).model_version == version


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_no_call_is_lost_while_the_alias_moves(tmp_path: Path, registry: Path, transport: str) -> None:
    """Under load from eight callers, through ten moves of the alias, no call and no batch fails, and each answer has
    the version that computed it; health is SERVING under the alias all the time, and then under the version's name."""
    with running_worker(
        tmp_path, registry, "--version", "production", "--transport", transport, *OFTEN, "--log-level", "info"
    ) as worker:
        done, wrong, seen = threading.Event(), [], set[str]()
        health = health_pb2_grpc.HealthStub(worker.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="production"))
        told: list[object] = []
        listener = threading.Thread(target=lambda: told.extend(_statuses(watch)))
        listener.start()

        def load(batches: bool) -> None:
            request = RecommendRequest(item_ids=[1, 2], limit=100)
            while not done.is_set():
                try:
                    if batches:
                        answer = worker.start_batch([request.SerializeToString()] * 3).result()
                        assert answer.alias == "production"
                        found = [(answer.model_version, RecommendResponse.FromString(one)) for one in answer.responses]
                    else:
                        alone = worker.recommend(request)
                        found = [(alone.model_version, alone)]
                    seen.update(version for version, _ in found)
                    wrong.extend(one for one in found if len(one[1].item_ids) != K[one[0]])
                except Exception as error:  # noqa: BLE001 - any failure at all is what this test looks for
                    wrong.append(error)

        threads = [threading.Thread(target=load, args=(number % 2 == 0,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for move in range(10):
            version = "v1.2.3" if move % 2 else "v2"
            point(registry, "production", version)
            wait_until(lambda: worker.metric("abfleet_worker_model_changes_total", result="ok") == move + 1, version)  # noqa: B023
        done.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert seen == {"v1.2.3", "v2"}
        assert health.Check(health_pb2.HealthCheckRequest(service="v1.2.3")).status == SERVING
        watch.cancel()
        listener.join()
        assert set(told) == {SERVING, grpc.StatusCode.CANCELLED}


def _statuses(watch: "grpc.Call") -> list[object]:
    """What a health watch tells, and how it ended."""
    found: list[object] = []
    try:
        for message in watch:
            found.append(message.status)
    except grpc.RpcError as error:
        found.append(error.code())
    return found


def test_health_names_follow(tmp_path: Path, registry: Path) -> None:
    """After the move, the old version's name is unknown to health, the new one's serves; metrics name the new one."""
    with running_worker(tmp_path, registry, "--version", "production", *OFTEN) as worker:
        health = health_pb2_grpc.HealthStub(worker.channel)
        old = health.Watch(health_pb2.HealthCheckRequest(service="v1.2.3"))
        assert next(old).status == SERVING
        point(registry, "production", "v2")
        assert next(old).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        old.cancel()
        new = health.Watch(health_pb2.HealthCheckRequest(service="v2"))
        assert any(message.status == SERVING for message in new)
        new.cancel()
        assert worker.metric("abfleet_worker_model_info", version="v2") == 1
        assert worker.metric("abfleet_worker_behind_alias") == 0


def test_sighup_looks_at_once_and_a_broken_version_never_serves(tmp_path: Path, registry: Path) -> None:
    """Without an interval, SIGHUP alone makes the worker look. A version whose file is not what it was released as is
    refused, counted and said, and the old one goes on; once the alias leads to a good one, that serves."""
    replace_model(add_version(registry, "v3"), b"not a model")
    with running_worker(tmp_path, registry, "--version", "production", *ONLY_ON_REQUEST) as worker:
        point(registry, "production", "v3")
        assert worker.metric("abfleet_worker_behind_alias") == 0, "nobody has looked yet"
        worker.process.send_signal(signal.SIGHUP)
        wait_until(lambda: worker.metric("abfleet_worker_model_changes_total", result="failed") == 1, "a refusal")
        assert worker.metric("abfleet_worker_behind_alias") == 1
        assert serves(worker, "v1.2.3")()
        assert "cannot follow the alias" in worker.errors.read_text()
        point(registry, "production", "v2")
        worker.process.send_signal(signal.SIGHUP)
        wait_until(serves(worker, "v2"), "v2 serves")


def test_a_version_by_name_stays(tmp_path: Path, registry: Path) -> None:
    """A worker of a version, and not of an alias, has nothing to follow: SIGHUP does not end it, batches name no alias,
    and SIGTERM still drains."""
    with running_worker(tmp_path, registry, "--version", "v1.2.3", *OFTEN) as worker:
        worker.process.send_signal(signal.SIGHUP)
        point(registry, "production", "v2")
        assert serves(worker, "v1.2.3")()
        answer = worker.start_batch([b""]).result()
        assert (answer.model_version, answer.alias) == ("v1.2.3", "")
        worker.process.terminate()
        assert worker.process.wait(PATIENCE_SECONDS) == 0


def test_unknown_items_are_counted(tmp_path: Path) -> None:
    """Of six items that a caller sends to a model that ships, one is unknown: both numbers are in /metrics."""
    with running_worker(tmp_path, MODELS, "--version", "v1.2.3") as worker:
        worker.recommend(RecommendRequest(item_ids=[1, 2, 3, 10, 15, 2**40]))
        assert worker.metric("abfleet_worker_history_items_total") == 6
        assert worker.metric("abfleet_worker_unknown_items_total") == 1
