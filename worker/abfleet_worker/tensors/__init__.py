"""Calls of the Open Inference Protocol: any tensors to a model, and its tensors back."""

__all__ = [
    "inferring",
    "oip_services",
]
