"""The decision log as it grows: its files, old and new, as lines in one order. Reads files; knows no experiment."""

__all__ = [
    "clock_check",
    "log_feed",
    "read_line",
]
