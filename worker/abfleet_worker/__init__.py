"""One model behind gRPC: alone it serves Recommend and the Open Inference Protocol, behind a router it answers batches.

Knows nothing of experiments, users or the other versions.
"""

__all__ = [
    "settings",
]
