"""Tests of the analysis on experiments whose truth is known."""
