"""The registry of models: what is in it, whether it is intact, and how its models are made."""

__all__ = [
    "candidate",
    "comparison",
    "errors",
    "graph_file",
    "manifest",
    "offline",
    "registry",
    "release",
    "runtime",
    "signing",
    "trail",
    "train",
    "verification",
]
