"""The registry of models: what is in it, whether it is intact, and how its models are made."""

__all__ = [
    "adding",
    "comparison",
    "errors",
    "golden",
    "graph",
    "item_names",
    "manifest",
    "offline",
    "registry",
    "release",
    "runs",
    "runtime",
    "signature",
    "signing",
    "trail",
    "train",
]
