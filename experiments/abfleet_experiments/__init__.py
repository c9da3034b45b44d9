"""Experiments as one file describes them: read it, divide users by it, say what an edit would do.

Pure, but for `load` and `save`. No transport, no clock: whoever asks says what time it is.
"""

__all__ = [
    "advice",
    "allocate",
    "allocation",
    "assign",
    "bucketing",
    "bulk",
    "change",
    "config",
    "explain",
    "file",
    "movement",
    "plan",
    "team_draft",
]
