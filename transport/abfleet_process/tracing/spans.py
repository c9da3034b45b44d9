"""Spans as values: what was done, when, and under what. Knows no clock, no encoding and no network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from abfleet_process.tracing.traceparent import TraceContext

Attribute = str | int | float | bool
MAX_LINKS = 32
"""A batch has up to 128 calls; that many links on each of their spans would be most of what is sent."""


class SpanKind(IntEnum):
    """Numbers of opentelemetry.proto.trace.v1.Span.SpanKind."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """Something that happened at one moment of a span."""

    name: str
    at: float
    attributes: Mapping[str, Attribute]


@dataclass(frozen=True, slots=True)
class Span:
    """One finished span; times are seconds since the epoch."""

    name: str
    kind: SpanKind
    context: TraceContext
    parent_id: str | None
    begun: float
    ended: float
    attributes: Mapping[str, Attribute]
    failed: str | None = None
    """Why, where it is an error."""
    events: tuple[SpanEvent, ...] = ()
    links: tuple[TraceContext, ...] = ()
    dropped_links: int = 0


@dataclass(frozen=True, slots=True)
class Resource:
    """The process that made the spans, as attributes of OpenTelemetry's resource."""

    attributes: Mapping[str, Attribute] = field(default_factory=dict)


Export = Callable[[Span], None]
"""Takes a finished span; returns at once and never raises, whatever becomes of the span."""


def span_id(bits: Callable[[int], int]) -> str:
    """A new span's id, 16 hexadecimal digits. `bits(n)` gives n random bits."""
    return f"{bits(64) or 1:016x}"


def trace_id(bits: Callable[[int], int]) -> str:
    """A new trace's id, 32 hexadecimal digits. `bits(n)` gives n random bits."""
    return f"{bits(128) or 1:032x}"
