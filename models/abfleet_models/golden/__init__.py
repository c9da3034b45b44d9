"""Questions that metadata.json keeps with the model's answers, and what they are used for: checks, before and after."""

__all__ = [
    "answers",
    "arrays",
    "joining",
    "verification",
]
