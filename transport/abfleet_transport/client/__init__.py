"""The client's side: channels to a router, its admin port, its status, and the rates that two of them give."""

__all__ = [
    "channel",
    "rates",
    "router_admin",
    "status_document",
]
