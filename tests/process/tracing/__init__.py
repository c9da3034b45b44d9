"""Tests of spans, trace context and their export."""
