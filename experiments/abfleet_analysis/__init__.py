"""From the decision log to a conclusion. Needs the `analysis` extra; neither router nor worker imports it."""

__all__ = [
    "analyse",
    "base_rates",
    "decision",
    "periods",
    "power",
    "reading",
    "report",
    "shadow",
    "simulation",
]
