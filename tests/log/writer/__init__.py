"""Tests of writing the decision log."""
