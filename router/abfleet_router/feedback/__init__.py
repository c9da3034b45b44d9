"""Outcomes that callers report: checked, counted once, and written to the decision log."""
