"""The shipped HAProxy in front of a real router: TLS ends there, and what it is there for is refused there."""

import gzip
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from abfleet_protos.recommender_pb2 import Outcome, RecommendRequest, RecordRequest
from abfleet_protos.recommender_pb2_grpc import FeedbackStub, RecommenderStub
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.certificates import Authority, needs_openssl
from tests.support.fleet import Fleet, experiments_file, wait_until
from tests.support.load import SEED_HISTORY

pytestmark = [
    pytest.mark.system,
    needs_openssl,
    pytest.mark.skipif(shutil.which("haproxy") is None, reason="the program haproxy is not installed"),
]
CONFIG = Path(__file__).resolve().parents[2] / "compose" / "edge" / "haproxy.cfg"


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    """A channel over TLS to HAProxy, in front of a fleet of one version on the transport that it is meant for."""
    folder = tmp_path_factory.mktemp("edge")
    authority = Authority(folder / "certificates")
    cert, _ = authority.issue("edge")
    with (
        Fleet(
            folder,
            experiments=experiments_file(100, 0, 0),
            versions=("v1.2.3",),
            transport="native",
            router_flags=("--open-feedback",),
        ) as fleet,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        # HAProxy is handed a socket that listens, so that no port has to be guessed.
        environment = os.environ | {
            "EDGE_LISTEN": f"fd@{listener.fileno()}",
            "EDGE_CERT": str(cert),
            "EDGE_ROUTER": fleet.address,
        }
        checked = subprocess.run(
            ["haproxy", "-c", "-f", CONFIG],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            pass_fds=[listener.fileno()],
            check=False,
        )
        assert checked.returncode == 0, checked.stderr
        assert "WARNING" not in checked.stderr
        proxy = subprocess.Popen(
            ["haproxy", "-db", "-f", CONFIG], env=environment, pass_fds=[listener.fileno()], stderr=subprocess.DEVNULL
        )
        try:
            credentials = grpc.ssl_channel_credentials(authority.ca.read_bytes())
            with grpc.secure_channel(f"localhost:{listener.getsockname()[1]}", credentials) as channel:
                check = health_pb2_grpc.HealthStub(channel).Check
                wait_until(lambda: _serves(check), "an answer through the proxy")
                yield channel
        finally:
            proxy.terminate()
            proxy.wait(timeout=30)


def _serves(check: grpc.UnaryUnaryMultiCallable) -> bool:
    try:
        return bool(check(health_pb2.HealthCheckRequest(), timeout=5).status == health_pb2.HealthCheckResponse.SERVING)
    except grpc.RpcError:
        return False


def refused(call: "grpc.UnaryUnaryMultiCallable", request: object, **how: object) -> tuple[str, str]:
    """Status and message of a call that must fail."""
    with pytest.raises(grpc.RpcError) as raised:
        call(request, timeout=20, **how)
    return raised.value.code().name, raised.value.details()


def test_the_seeds_call_passes(edge: grpc.Channel) -> None:
    """Over TLS, with ten recommendations."""
    answer = RecommenderStub(edge).Recommend(RecommendRequest(item_ids=SEED_HISTORY), timeout=20)
    assert len(answer.item_ids) == 10


def test_outcomes_pass_in_large_batches(edge: grpc.Channel) -> None:
    """Their limit is the router's."""
    outcomes = [Outcome(outcome_id=f"o-{number}", user_id="user-1", type="click") for number in range(9_000)]
    assert FeedbackStub(edge).Record(RecordRequest(outcomes=outcomes), timeout=20).accepted == 9_000


def test_errors_of_the_router_pass(edge: grpc.Channel) -> None:
    """With their words."""
    code, text = refused(RecommenderStub(edge).Recommend, RecommendRequest(limit=1000))
    assert (code, "limit" in text) == ("INVALID_ARGUMENT", True)


def test_a_message_that_is_too_large_does_not_reach_the_router(edge: grpc.Channel) -> None:
    """It is an answer of gRPC all the same, whether or not it fits HAProxy's buffer; one of half the size passes."""
    recommend = RecommenderStub(edge).Recommend
    for ids in (46_000, 60_000):
        request = RecommendRequest(item_ids=range(10_000, ids))
        for _ in range(5):  # who is cut off before the answer is read would see CANCELLED
            assert refused(recommend, request) == ("RESOURCE_EXHAUSTED", "message: fewer than 100000 bytes are allowed")
    # This one is too large to be sent at one go, so it may be cut off.
    code, _ = refused(recommend, RecommendRequest(item_ids=range(10_000, 300_000)))
    assert code in ("RESOURCE_EXHAUSTED", "CANCELLED")
    assert recommend(RecommendRequest(item_ids=range(10_000, 26_000)), timeout=20).item_ids


def test_compressed_requests_are_refused(edge: grpc.Channel) -> None:
    """A gzip bomb is small until somebody opens it."""
    assert len(gzip.compress(bytes(1_000_000))) < 2000
    request = RecommendRequest(item_ids=SEED_HISTORY)
    code, text = refused(RecommenderStub(edge).Recommend, request, compression=grpc.Compression.Gzip)
    assert (code, text) == ("UNIMPLEMENTED", "grpc-encoding: compressed requests are not accepted")


def test_nothing_else_is_served(edge: grpc.Channel) -> None:
    """The workers' own method and the admin service have no way through."""
    for method in ("/abfleet.worker.v1.Worker/RecommendBatch", "/abfleet.admin.v1.Admin/Status"):
        assert refused(edge.unary_unary(method), b"") == ("UNIMPLEMENTED", "the proxy serves no such method")
