"""Formulas: moments, effects, sequential boundaries, quantiles, sample ratios. They know no log and no metric."""

__all__ = [
    "blocks",
    "clusters",
    "confidence_sequence",
    "effects",
    "guardrails",
    "lookwise",
    "moments",
    "outages",
    "preference",
    "quantiles",
    "rankings",
    "score_test",
    "sequential",
    "shared_alpha",
    "sign_test",
    "srm",
    "tails",
]
