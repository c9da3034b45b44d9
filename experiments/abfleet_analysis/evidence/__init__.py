"""From lines of the log to evidence: which lines count, and their sums over users for each metric."""
