"""The experiments file: its keys and their rules, reading it with every mistake named, and editing it."""

__all__ = [
    "errors",
    "keys",
    "kinds",
    "load",
    "read_exclude",
    "rewrite",
    "save",
]
