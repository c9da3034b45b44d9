"""Spans in the OpenTelemetry protocol's own messages. Knows the encoding, no network. Needs the extra `tracing`."""

from collections.abc import Iterable, Mapping

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1 import resource_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from abfleet_transport.spans import Attribute, Resource, Span

CONTENT_TYPE = "application/x-protobuf"
SCOPE = InstrumentationScope(name="abfleet")


def request(resource: Resource, spans: Iterable[Span]) -> bytes:
    """A serialised ExportTraceServiceRequest."""
    scoped = trace_pb2.ScopeSpans(scope=SCOPE, spans=[_span(span) for span in spans])
    whose = resource_pb2.Resource(attributes=_attributes(resource.attributes))
    message = ExportTraceServiceRequest(resource_spans=[trace_pb2.ResourceSpans(resource=whose, scope_spans=[scoped])])
    return message.SerializeToString()


def rejected(answer: bytes) -> int:
    """How many spans a receiver that answered 200 says it did not take."""
    try:
        return int(ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans)
    except DecodeError:
        return 0  # it answered 200, in an encoding of its own


def _span(span: Span) -> trace_pb2.Span:
    status = None
    if span.failed is not None:
        status = trace_pb2.Status(code=trace_pb2.Status.STATUS_CODE_ERROR, message=span.failed)
    return trace_pb2.Span(
        trace_id=bytes.fromhex(span.context.trace_id),
        span_id=bytes.fromhex(span.context.span_id),
        parent_span_id=bytes.fromhex(span.parent_id) if span.parent_id else b"",
        name=span.name,
        kind=span.kind,  # type: ignore[arg-type]  # the numbers are the same, the stub has an own type for them
        start_time_unix_nano=_nanoseconds(span.begun),
        end_time_unix_nano=_nanoseconds(span.ended),
        attributes=_attributes(span.attributes),
        events=[
            trace_pb2.Span.Event(
                name=event.name, time_unix_nano=_nanoseconds(event.at), attributes=_attributes(event.attributes)
            )
            for event in span.events
        ],
        links=[
            trace_pb2.Span.Link(trace_id=bytes.fromhex(link.trace_id), span_id=bytes.fromhex(link.span_id))
            for link in span.links
        ],
        dropped_links_count=span.dropped_links,
        status=status,
    )


def _attributes(values: Mapping[str, Attribute]) -> list[KeyValue]:
    return [KeyValue(key=key, value=_value(value)) for key, value in values.items()]


def _value(value: Attribute) -> AnyValue:
    if isinstance(value, bool):  # before int, which it is too
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    return AnyValue(double_value=value) if isinstance(value, float) else AnyValue(string_value=value)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e6) * 1000  # a double has no more than microseconds of a time since 1970
