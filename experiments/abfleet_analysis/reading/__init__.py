"""The log in a database: opening its files, keeping tables, and one dialect for each database."""

__all__ = [
    "clocks",
    "databases",
    "open_log",
    "survey",
]
