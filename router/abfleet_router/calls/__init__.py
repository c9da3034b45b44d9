"""The life of a call: read, assigned, sent, tried again or refused, answered, and put on record."""

__all__ = [
    "infer_request",
    "routed_call",
    "router",
    "spans",
]
