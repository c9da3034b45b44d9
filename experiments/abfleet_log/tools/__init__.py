"""Work on files of the decision log, without flags and printing: check, show, compact, import and erase."""

__all__ = [
    "check",
    "compact",
    "erase",
    "import_outcomes",
    "read_lines",
    "show",
]
