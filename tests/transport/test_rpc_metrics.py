"""RPC counters: the seed's names and py-grpc-prometheus's for the same numbers, on both transports."""

import grpc
import pytest
from abfleet_transport.call import Call, Code
from abfleet_transport.histogram import Histogram
from abfleet_transport.rpc_metrics import OtherMethods, RpcMetrics
from abfleet_transport.server import Transport
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from tests.transport.serving import METHODS, PATIENCE_SECONDS, TRANSPORTS, serving


def registry(metrics: RpcMetrics) -> CollectorRegistry:
    """A registry with these counters alone."""
    collectors = CollectorRegistry()
    collectors.register(metrics)
    return collectors


def test_a_call_is_in_progress_until_it_is_finished() -> None:
    """Started, running, finished by status and time: under both families of names."""
    metrics = RpcMetrics(("/a.B/C",))
    metrics.started(0, 3)
    metrics.finished(0, Code.OK, 0.002)
    metrics.finished(0, Code.UNAVAILABLE, 7.0)
    value = registry(metrics).get_sample_value
    assert value("grpc_requests_total", {"method": "a.B/C", "status": "OK"}) == 1
    assert value("grpc_requests_total", {"method": "a.B/C", "status": "UNAVAILABLE"}) == 1
    assert value("grpc_requests_in_progress", {"method": "a.B/C"}) == 1
    assert value("grpc_request_duration_seconds_count", {"method": "a.B/C"}) == 2
    assert value("grpc_request_duration_seconds_sum", {"method": "a.B/C"}) == pytest.approx(7.002)
    assert value("grpc_request_duration_seconds_bucket", {"method": "a.B/C", "le": "0.0025"}) == 1
    assert value("grpc_request_duration_seconds_bucket", {"method": "a.B/C", "le": "+Inf"}) == 2
    kind = {"grpc_type": "UNARY", "grpc_service": "a.B", "grpc_method": "C"}
    assert value("grpc_server_started_total", kind) == 3
    assert value("grpc_server_handled_total", {**kind, "grpc_code": "UNAVAILABLE"}) == 1
    assert value("grpc_server_handling_seconds_count", kind) == 2


@given(st.lists(st.floats(0, 10), max_size=50))
def test_a_histogram_counts_each_value_once(values: list[float]) -> None:
    """Cumulative buckets hold the values at or below their bound, as Prometheus has it."""
    histogram = Histogram((0.5, 1.0, 5.0))
    for value in values:
        histogram.observe(value)
    expected = [(str(bound), sum(value <= bound for value in values)) for bound in (0.5, 1.0, 5.0)]
    assert histogram.cumulative() == [*expected, ("+Inf", len(values))]
    assert histogram.total == pytest.approx(sum(values))


def test_a_scrape_is_valid_text() -> None:
    """The families can be written in Prometheus's format, also before any call."""
    text = generate_latest(registry(RpcMetrics(METHODS))).decode()
    assert 'grpc_requests_in_progress{method="test.Echo/Say"} 0.0' in text
    assert 'method="other"' in text


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_everything_else_is_other(transport: Transport) -> None:
    """Health checks, failed ones and unknown methods are counted as `other` with their status; calls that are delivered
    are left to whoever answers them."""
    metrics = RpcMetrics(METHODS)

    def answer(calls: list[Call]) -> None:
        for call in calls:
            call.reply(b"")

    async with serving(transport, answer, interceptors=(OtherMethods(metrics, METHODS),)) as served:
        await served.health.set_serving(True)
        stub = health_pb2_grpc.HealthStub(served.channel)
        await stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_SECONDS)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=PATIENCE_SECONDS)
        with pytest.raises(grpc.aio.AioRpcError):
            await served.say(b"", method="/test.Nobody/Say")
        await served.say(b"")
    assert metrics.handled(-1) == {"OK": 1, "NOT_FOUND": 1, "UNIMPLEMENTED": 1}
    assert metrics.handled(0) == {}
    assert registry(metrics).get_sample_value("grpc_requests_in_progress", {"method": "other"}) == 0
