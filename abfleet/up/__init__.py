"""`abfleet up`: a router, its workers and a dashboard as child processes of one command on this machine."""

__all__ = [
    "console",
    "run",
    "settings",
    "status_view",
]
