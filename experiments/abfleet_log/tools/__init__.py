"""Work on files of the decision log, and what the autopilot writes beside them, without flags and printing."""

__all__ = [
    "actions",
    "check",
    "compact",
    "erase",
    "import_outcomes",
    "read_lines",
    "show",
]
