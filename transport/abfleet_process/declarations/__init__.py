"""Keys of a file declared once: read with every mistake named, said as JSON Schema, and said in words."""

__all__ = [
    "keys",
    "kinds",
    "nodes",
]
