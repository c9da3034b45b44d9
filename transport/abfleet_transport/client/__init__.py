"""The client's side: channels to a router, its admin port, and the rates that two of its answers give."""

__all__ = [
    "channel",
    "rates",
    "router_admin",
]
