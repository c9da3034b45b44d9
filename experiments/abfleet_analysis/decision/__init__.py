"""From evidence to a verdict: which metrics count, what they show, and what that allows one to conclude."""

__all__ = [
    "ab_estimate",
    "decide",
    "evidence",
    "excluded_time",
    "failures",
    "faults",
    "measurements",
    "metrics",
    "planning",
    "preference",
    "verdicts",
]
