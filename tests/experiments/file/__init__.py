"""Tests of reading and editing the experiments file."""
