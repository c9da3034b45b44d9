"""A workload: who calls, what they do with what they are shown, and how it is sent."""

__all__ = [
    "behaviour",
    "population",
    "running",
]
