"""Tests of the databases that hold a log."""
