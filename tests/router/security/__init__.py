"""Tests of who may call, and how often."""
