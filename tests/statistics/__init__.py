"""Tests of the formulas, against other implementations of them."""
