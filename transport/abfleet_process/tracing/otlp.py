"""Spans in the OpenTelemetry protocol's own messages. Knows the encoding, no network. Needs the extra `tracing`."""

from collections.abc import Iterable, Mapping
from functools import lru_cache

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1 import resource_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from abfleet_process.base128 import varint
from abfleet_process.tracing.spans import Attribute, Resource, Span, SpanEvent

CONTENT_TYPE = "application/x-protobuf"
SCOPE = InstrumentationScope(name="abfleet")
RESOURCE_SPANS_TAG, RESOURCE_TAG, SCOPE_SPANS_TAG, SCOPE_TAG, SPANS_TAG = b"\x0a", b"\x0a", b"\x12", b"\x0a", b"\x12"
SPAN_ATTRIBUTES_TAG, EVENTS_TAG, EVENT_ATTRIBUTES_TAG = b"\x4a", b"\x5a", b"\x1a"
"""Tags of trace_service.proto and trace.proto: field number << 3 | 2 (length-delimited)."""


def request(resource: Resource, spans: Iterable[Span]) -> bytes:
    """A serialised ExportTraceServiceRequest.

    Attributes of spans are few and come again and again, and most of a span is its attributes: each is encoded once and
    its bytes are put together (messages merge by concatenation), for a fifth of the time that message objects take.
    """
    scoped = _field(SCOPE_TAG, SCOPE.SerializeToString()) + b"".join(_field(SPANS_TAG, _span(span)) for span in spans)
    whose = resource_pb2.Resource(attributes=_attributes(resource.attributes)).SerializeToString()
    return _field(RESOURCE_SPANS_TAG, _field(RESOURCE_TAG, whose) + _field(SCOPE_SPANS_TAG, scoped))


def rejected(answer: bytes) -> int:
    """How many spans a receiver that answered 200 says it did not take."""
    try:
        return int(ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans)
    except DecodeError:
        return 0  # it answered 200, in an encoding of its own


def _span(span: Span) -> bytes:
    message = trace_pb2.Span(
        trace_id=bytes.fromhex(span.context.trace_id),
        span_id=bytes.fromhex(span.context.span_id),
        parent_span_id=bytes.fromhex(span.parent_id) if span.parent_id else b"",
        name=span.name,
        kind=span.kind,  # type: ignore[arg-type]  # the numbers are the same, the stub has an own type for them
        start_time_unix_nano=_nanoseconds(span.begun),
        end_time_unix_nano=_nanoseconds(span.ended),
        links=[
            trace_pb2.Span.Link(trace_id=bytes.fromhex(link.trace_id), span_id=bytes.fromhex(link.span_id))
            for link in span.links
        ],
        dropped_links_count=span.dropped_links,
    )
    if span.failed is not None:
        message.status.code = trace_pb2.Status.STATUS_CODE_ERROR
        message.status.message = span.failed
    attributes = [_attribute(SPAN_ATTRIBUTES_TAG, key, value) for key, value in span.attributes.items()]
    events = [_field(EVENTS_TAG, _event(event)) for event in span.events]
    return b"".join((message.SerializeToString(), *attributes, *events))


def _event(event: SpanEvent) -> bytes:
    head = trace_pb2.Span.Event(name=event.name, time_unix_nano=_nanoseconds(event.at)).SerializeToString()
    return head + b"".join(_attribute(EVENT_ATTRIBUTES_TAG, key, value) for key, value in event.attributes.items())


def _attributes(values: Mapping[str, Attribute]) -> list[KeyValue]:
    return [KeyValue(key=key, value=_value(value)) for key, value in values.items()]


@lru_cache(maxsize=4096, typed=True)
def _attribute(tag: bytes, key: str, value: Attribute) -> bytes:
    return _field(tag, KeyValue(key=key, value=_value(value)).SerializeToString())


def _field(tag: bytes, content: bytes) -> bytes:
    """A length-delimited protobuf field: tag, length as a varint, content."""
    return tag + varint(len(content)) + content


def _value(value: Attribute) -> AnyValue:
    if isinstance(value, bool):  # before int, which it is too
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    return AnyValue(double_value=value) if isinstance(value, float) else AnyValue(string_value=value)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e6) * 1000  # a double has no more than microseconds of a time since 1970
