"""The admin port and the metrics of the fleet: what a router says of itself to those who run it."""

__all__ = [
    "admin",
    "fleet_metrics",
]
