"""Experiments whose truth is known, made up or drawn from a log, to see how often the analysis errs."""

__all__ = [
    "aa_test",
    "scenarios",
    "simulate",
]
