"""Spans of a process, and how they travel: trace context between processes, OTLP to a collector."""
