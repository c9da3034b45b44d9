"""The configuration in force: the file followed, and the snapshot that calls are served from."""

__all__ = [
    "reload",
    "snapshot",
]
