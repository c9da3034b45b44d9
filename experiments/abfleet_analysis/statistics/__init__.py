"""Formulas: moments, effects, sequential boundaries, quantiles, sample ratios. They know no log and no metric."""

__all__ = [
    "confidence_sequence",
    "effects",
    "guardrails",
    "lookwise",
    "moments",
    "quantiles",
    "score_test",
    "sequential",
    "srm",
]
