"""Tests of reported outcomes."""
