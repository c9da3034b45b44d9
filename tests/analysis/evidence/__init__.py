"""Tests of the way from lines of the log to sums over users."""
