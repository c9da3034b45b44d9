"""The health check of the images, run as they run it, against our servers and against stock grpcio."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.support.fleet import ROOT, VERSIONS, Fleet, experiments_file


def check(address: str) -> int:
    """The exit code of the script for a server at an address."""
    command = [sys.executable, "-I", "-S", str(ROOT / "compose" / "healthcheck.py")]
    return subprocess.run(
        command, env={**os.environ, "ABFLEET_LISTEN": address}, capture_output=True, timeout=60, check=False
    ).returncode


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[health.HealthServicer, int, str]]:
    """grpcio's own health service, at a port and at a unix socket."""
    service = health.HealthServicer()
    stock = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(service, stock)
    port = stock.add_insecure_port("127.0.0.1:0")
    path = f"unix:{tmp_path}/health"
    stock.add_insecure_port(path)
    stock.start()
    yield service, port, path
    stock.stop(None).wait()


def test_it_tells_serving_from_not_serving(server: tuple[health.HealthServicer, int, str]) -> None:
    """0 while the server says SERVING, 1 when it says anything else; the wildcard address is asked on the loopback."""
    service, port, path = server
    seen = []
    states = health_pb2.HealthCheckResponse
    for status in (states.SERVING, states.NOT_SERVING, states.UNKNOWN, states.SERVING):
        service.set("", status)
        seen.append({check(address) for address in (f"127.0.0.1:{port}", f"0.0.0.0:{port}", path)})
    assert seen == [{0}, {1}, {1}, {0}]


def test_nobody_and_strangers_are_not_healthy(tmp_path: Path) -> None:
    """1 where nobody listens, and for a gRPC server that knows no health service."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # taken, but not listened on
        assert check(f"127.0.0.1:{bound.getsockname()[1]}") == 1
    assert check(f"unix:{tmp_path}/nobody") == 1
    stranger = grpc.server(ThreadPoolExecutor(1))
    port = stranger.add_insecure_port("127.0.0.1:0")
    stranger.start()
    try:
        assert check(f"127.0.0.1:{port}") == 1
    finally:
        stranger.stop(None).wait()


@pytest.mark.system
@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_router_and_worker_are_healthy(tmp_path: Path, transport: str) -> None:
    """Both kinds of process, on both transports, are found to serve."""
    with Fleet(tmp_path, experiments=experiments_file(100, 0, 0), versions=VERSIONS[:1], transport=transport) as fleet:
        assert check(fleet.address) == 0
        assert check(fleet.worker_addresses[VERSIONS[0], 0]) == 0
