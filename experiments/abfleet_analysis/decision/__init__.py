"""From evidence to a verdict: which metrics count, what they show, and what that allows one to conclude."""
