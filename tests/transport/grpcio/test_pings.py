"""Clients that ask whether their connection lives."""

from abfleet_transport.grpcio.grpcio_adapter import options
from abfleet_transport.plan import ServerPlan


def test_a_ping_each_ten_seconds_is_allowed() -> None:
    """With calls and without; by default the library ends connections that ask more often than each five minutes."""
    got = dict(options(ServerPlan(address="", methods=(), add_services=lambda server: None)))
    assert 0 < got["grpc.http2.min_ping_interval_without_data_ms"] < 10_000
    assert got["grpc.keepalive_permit_without_calls"] == 1
