"""Telling somebody that a verdict has changed: which changes there are, and getting each of them delivered."""

__all__ = [
    "notifier",
    "verdict_changes",
]
