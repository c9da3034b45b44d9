"""Spans of a process, and how they travel: trace context between processes, OTLP to a collector."""

__all__ = [
    "exporter",
    "spans",
    "traceparent",
]
