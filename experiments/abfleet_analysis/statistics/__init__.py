"""Formulas: moments, effects, sequential boundaries, quantiles, sample ratios. They know no log and no metric."""
