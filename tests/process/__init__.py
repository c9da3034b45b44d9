"""Tests of what every server process needs."""
