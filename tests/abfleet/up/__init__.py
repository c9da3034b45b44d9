"""Tests of `abfleet up`."""
