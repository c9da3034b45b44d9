"""The decision log: what its lines say, how its files are named and kept, who writes them and who reads them."""

__all__ = [
    "clocks",
    "files",
    "lines",
    "outcome",
    "schema",
    "tools",
    "user_id_hash",
    "writer",
]
