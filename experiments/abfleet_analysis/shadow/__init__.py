"""Answers in the shadow beside those that users got: how alike the lists are, and what they cost."""

__all__ = [
    "compare",
    "words",
]
