"""Outcomes that callers report: checked, counted once, and written to the decision log."""

__all__ = [
    "feedback",
    "group_metrics",
]
