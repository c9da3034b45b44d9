"""How a model gets into a registry: its metadata drafted from the graph, its answers examined."""

__all__ = [
    "candidate",
    "drafting",
    "example",
]
