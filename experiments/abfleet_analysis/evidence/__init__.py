"""From lines of the log to evidence: which lines count, and their sums over users for each metric."""

__all__ = [
    "contributions",
    "exclusion",
    "gather_evidence",
    "gather_preference",
    "layout",
    "log_lines",
    "metric_sums",
    "sums",
    "tables",
]
