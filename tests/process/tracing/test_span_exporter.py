"""The exporter of spans: everything arrives at a good receiver, and a bad one costs nobody anything but spans."""

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from abfleet_process.errors import TransportUnavailable
from abfleet_process.tracing.exporter import endpoint_or_none, make_exporter
from abfleet_process.tracing.span_exporter import ExporterSettings, SpanExporter
from abfleet_process.tracing.spans import Resource, Span, SpanEvent, SpanKind
from abfleet_process.tracing.traceparent import TraceContext

from tests.support.fleet import wait_until
from tests.support.otlp_receiver import OtlpReceiver, values

QUICK = ExporterSettings(interval_seconds=0.01, first_backoff_seconds=0.01, max_backoff_seconds=0.02, max_waiting=400)
CONTEXT = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", True)
Make = Callable[..., SpanExporter]


def span(number: int = 0) -> Span:
    attributes = {"text": "a", "whole": 7, "real": 0.5, "yes": True, "number": number}
    event = SpanEvent("happened", 1000.5, {"why": "b"})
    return Span(
        "a name", SpanKind.CLIENT, CONTEXT, "1" * 16, 1000.25, 1001.0, attributes, "broke", (event,), (CONTEXT,), 3
    )


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes started exporters, and closes them afterwards."""
    made: list[SpanExporter] = []

    def start(endpoint: str, settings: ExporterSettings = QUICK) -> SpanExporter:
        exporter = SpanExporter(endpoint, Resource({"service.name": "tests"}), settings)
        made.append(exporter)
        exporter.start()
        return exporter

    yield start
    for exporter in made:
        exporter.close()


def test_a_span_arrives_as_it_was(make: Make) -> None:
    """Every member of a span comes out of the receiver's decoder with its value."""
    with OtlpReceiver() as receiver:
        make(receiver.endpoint).export(span())
        (received,) = receiver.wait_for(1)
    assert received.resource == {"service.name": "tests"}
    assert receiver.paths == ["/v1/traces"]
    got = received.span
    assert (got.trace_id.hex(), got.span_id.hex(), got.parent_span_id.hex()) == (*CONTEXT[:2], "1" * 16)
    assert (got.name, got.kind, got.status.code, got.status.message) == ("a name", 3, 2, "broke")
    assert (got.start_time_unix_nano, got.end_time_unix_nano) == (1_000_250_000_000, 1_001_000_000_000)
    assert received.attributes == {"text": "a", "whole": 7, "real": 0.5, "yes": True, "number": 0}
    assert (got.events[0].name, values(got.events[0].attributes)) == ("happened", {"why": "b"})
    assert (got.links[0].span_id.hex(), got.dropped_links_count) == (CONTEXT.span_id, 3)


@pytest.mark.parametrize(
    ("path", "asked"), [("", "/v1/traces"), ("/", "/v1/traces"), ("/in", "/in/v1/traces"), ("/v1/traces", "/v1/traces")]
)
def test_the_path_is_completed(make: Make, path: str, asked: str) -> None:
    """An endpoint may be the receiver's base, or the whole address."""
    with OtlpReceiver() as receiver:
        make(receiver.endpoint + path).export(span())
        receiver.wait_for(1)
    assert receiver.paths == [asked]


def test_what_waits_is_sent_at_the_end(make: Make) -> None:
    """Closing sends what has not gone out, in order and in several requests."""
    with OtlpReceiver() as receiver:
        exporter = make(receiver.endpoint, ExporterSettings(interval_seconds=60, max_batch=16))
        for number in range(100):
            exporter.export(span(number))
        exporter.close()
        assert [one.attributes["number"] for one in receiver.spans] == list(range(100))
    assert (len(receiver.paths), exporter.counts.sent) == (7, 100)


def test_a_receiver_that_is_busy_is_asked_again(make: Make) -> None:
    """After 503 and 429 the same spans are sent again; none is lost, none comes twice."""
    with OtlpReceiver(statuses=(503, 429)) as receiver:
        exporter = make(receiver.endpoint)
        for number in range(20):
            exporter.export(span(number))
        assert [one.attributes["number"] for one in receiver.wait_for(20)] == list(range(20))
        wait_until(lambda: exporter.counts.sent == 20, "all are counted")
    assert (exporter.counts.failed, exporter.counts.dropped) == (0, 0)


def test_what_a_receiver_refuses_is_counted(make: Make) -> None:
    """Spans refused by status 400, or in a partial success, are failed, and the next ones are sent."""
    with OtlpReceiver(statuses=(400,), rejects=1) as receiver:
        exporter = make(receiver.endpoint)
        exporter.export(span())
        wait_until(lambda: exporter.counts.failed == 1, "the first is refused")
        exporter.export(span())
        wait_until(lambda: exporter.counts.failed == 2, "the second is refused in part")
    assert exporter.counts.sent == 0


def test_a_dead_receiver_costs_spans_alone(make: Make) -> None:
    """With nobody there, export returns at once, memory is bounded, and every span is accounted for at the end."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    exporter = make(f"http://127.0.0.1:{port}")
    for number in range(1000):
        exporter.export(span(number))
    assert exporter.counts.dropped >= 600 - QUICK.max_batch
    exporter.close()
    wait_until(lambda: exporter.counts.failed + exporter.counts.dropped == 1000, "every span is counted")


def test_a_hanging_receiver_holds_nobody(make: Make) -> None:
    """While an answer hangs, export never waits, and closing takes no longer than it may."""
    with OtlpReceiver(hang=True) as receiver:
        settings = ExporterSettings(interval_seconds=0.01, max_waiting=50, close_seconds=0.2)
        exporter = make(receiver.endpoint, settings)
        longest = 0.0
        for number in range(5000):
            begun = time.perf_counter()
            exporter.export(span(number))
            longest = max(longest, time.perf_counter() - begun)
        begun = time.perf_counter()
        exporter.close()
        assert time.perf_counter() - begun < 10 * settings.close_seconds
    assert exporter.counts.dropped >= 5000 - 50 - settings.max_batch
    assert longest < 1.0  # the receiver answers after a minute


@pytest.mark.parametrize(
    "url", ["127.0.0.1:4318", "grpc://a:4317", "http://", "http://a:0", "http://a:port", "http://u:p@a", "http://a?b"]
)
def test_bad_endpoints_are_refused(url: str) -> None:
    """What is no address of an HTTP receiver is said to be none."""
    with pytest.raises(ValueError, match="allowed: http"):
        endpoint_or_none(url)


def test_nothing_is_needed_while_it_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an endpoint there is no exporter; with one, a missing package is named with its remedy."""
    find: Any = lambda name: None  # noqa: E731
    monkeypatch.setattr("abfleet_process.tracing.exporter.importlib.util.find_spec", find)
    assert make_exporter(endpoint_or_none(""), "s", {}) is None
    with pytest.raises(TransportUnavailable, match=r"abfleet\[tracing\]"):
        make_exporter("http://127.0.0.1:4318", "s", {})
