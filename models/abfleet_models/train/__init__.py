"""How the models of the registry are trained, measured and exported; needs onnx, which serving does not."""

__all__ = [
    "build",
    "dataset",
    "recipes",
]
