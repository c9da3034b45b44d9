"""What people look at: pictures and pages of a report, and the server that shows them in a browser."""

__all__ = [
    "pages",
    "settings",
]
