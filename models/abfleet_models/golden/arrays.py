"""Golden tensors as arrays, and arrays as golden tensors."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abfleet_models.golden.answers import NOT_FINITE, GoldenTensor
from abfleet_models.graph.tensors import TensorSpec

Array = NDArray[Any]
KEPT_ELEMENTS = 256
"""Of each tensor of a golden case: enough to tell two models apart, and metadata stay readable."""


def numpy_type(dtype: str) -> "np.dtype[Any]":
    """The type of arrays that ONNX Runtime takes for tensors of this type."""
    return np.dtype(object) if dtype == "string" else np.dtype(dtype)


def to_array(tensor: GoldenTensor, dtype: str) -> Array:
    """An input's elements, repeated where the tensor keeps fewer than its shape has."""
    data = [
        NOT_FINITE.get(value, value) if isinstance(value, str) and dtype != "string" else value for value in tensor.data
    ]
    # Filled element by element: numpy would make texts of one length, and complain of a number that float16 rounds.
    flat = np.empty(len(data), dtype=numpy_type(dtype))
    flat[:] = data
    return np.resize(flat, tensor.shape) if math.prod(tensor.shape) else flat.reshape(tensor.shape)


def to_json(array: Array) -> dict[str, Any]:
    """A tensor as metadata.json has it, with at most KEPT_ELEMENTS elements."""
    flat = array.reshape(-1)[:KEPT_ELEMENTS]
    # The shortest text that gives the number back, which is shorter than that of the same number in 64 bits.
    data = [_number(str(value)) for value in flat] if array.dtype.kind == "f" else flat.tolist()
    return {"shape": list(array.shape), "data": data}


def _number(text: str) -> float | str:
    return text if text in NOT_FINITE else float(text)


def in_full(array: Array) -> GoldenTensor:
    """All of an array, to compare another one with."""
    return GoldenTensor(tuple(array.shape), tuple(array.reshape(-1).tolist()))


def feeds(inputs: Mapping[str, GoldenTensor], specs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    """All inputs of a case by name."""
    return {spec.name: to_array(inputs[spec.name], spec.dtype) for spec in specs}


def first_difference(found: Array, wanted: GoldenTensor, dtype: str, tolerance: float) -> str | None:
    """How an output differs from the golden one; None where it does not."""
    if tuple(found.shape) != wanted.shape:
        return f"has shape {list(found.shape)}, not {list(wanted.shape)}"
    flat = found.reshape(-1)[: len(wanted.data)]
    expected = to_array(GoldenTensor((len(wanted.data),), wanted.data), dtype)
    if dtype.startswith("float"):
        close, exact = flat.astype(np.float64), expected.astype(np.float64)
        finite = np.isfinite(exact)
        largest = float(np.abs(exact[finite]).max(initial=0.0))
        with np.errstate(invalid="ignore"):
            same = (
                (np.abs(close - exact) <= tolerance * largest) | (close == exact) | (np.isnan(close) & np.isnan(exact))
            )
    else:
        same = np.asarray(flat == expected, dtype=bool)
    if same.all():
        return None
    place = int(np.argmin(same))
    return f"element {place + 1} is {flat[place]!s}, not {expected[place]!s}"
