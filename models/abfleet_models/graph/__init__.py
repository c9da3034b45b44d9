"""ONNX files by their bytes: what is in them, and the few changes that are made when a model is added."""

__all__ = [
    "reading",
    "rewriting",
    "tensors",
]
