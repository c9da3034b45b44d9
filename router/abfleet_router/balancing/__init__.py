"""Who of several replicas gets calls: picking, ejection, the circuit of a version, and when to shed. No connections."""

__all__ = [
    "balance",
    "circuit",
    "ejection",
    "outliers",
    "picker",
    "queue_delay",
]
