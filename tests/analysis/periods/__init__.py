"""Tests of allocations over time."""
