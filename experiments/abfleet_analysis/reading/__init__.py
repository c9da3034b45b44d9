"""Decision logs opened as one table of normalised lines, without lines of broken clocks, and the log in numbers."""

__all__ = [
    "clocks",
    "columns",
    "open_log",
    "survey",
]
