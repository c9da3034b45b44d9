"""The data path: one event loop, batches in, batches out. Knows assignment and the fleet, nothing of models."""

__all__ = [
    "settings",
]
