"""Tests of the rules that lead to a verdict."""
