"""Guardrails that act and ramps that climb: follows the log, and edits the experiments file by what it shows.

`core` and what it stands on are pure: lines in, acts out. Files are read in `following` and changed in `acting`.
"""

__all__ = [
    "acting",
    "app",
    "core",
    "evidence",
    "following",
    "lines",
    "settings",
    "simulation",
]
