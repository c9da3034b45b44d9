"""From the decision log to a conclusion. Needs the `analysis` extra; neither router nor worker imports it."""

__all__ = [
    "analyse",
    "base_rates",
    "decision",
    "power",
    "reading",
    "report",
    "simulation",
]
