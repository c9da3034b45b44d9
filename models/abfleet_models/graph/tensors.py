"""Tensors as they are described: names, shapes, and types in ONNX files, in numpy and in the Open Inference Protocol.

Imports none of the three.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple


class ElementType(NamedTuple):
    """One type of elements that is served."""

    dtype: str
    """numpy's name, which metadata of recommenders has: `int64`; `string` for texts."""
    datatype: str
    """The name in the Open Inference Protocol: `INT64`."""
    onnx: int
    """The number in TensorProto.DataType of onnx.proto."""
    size_bytes: int
    """Of one element; 0 for texts."""


ELEMENT_TYPES: Final = (
    ElementType("float32", "FP32", 1, 4),
    ElementType("uint8", "UINT8", 2, 1),
    ElementType("int8", "INT8", 3, 1),
    ElementType("uint16", "UINT16", 4, 2),
    ElementType("int16", "INT16", 5, 2),
    ElementType("int32", "INT32", 6, 4),
    ElementType("int64", "INT64", 7, 8),
    ElementType("string", "BYTES", 8, 0),
    ElementType("bool", "BOOL", 9, 1),
    ElementType("float16", "FP16", 10, 2),
    ElementType("float64", "FP64", 11, 8),
    ElementType("uint32", "UINT32", 12, 4),
    ElementType("uint64", "UINT64", 13, 8),
)
BY_DTYPE: Final[Mapping[str, ElementType]] = {one.dtype: one for one in ELEMENT_TYPES}
BY_DATATYPE: Final[Mapping[str, ElementType]] = {one.datatype: one for one in ELEMENT_TYPES}
BY_ONNX: Final[Mapping[int, ElementType]] = {one.onnx: one for one in ELEMENT_TYPES}

FREE: Final = -1
"""A size that may vary, in the Open Inference Protocol and in the metadata of `tensors`."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of the graph; a dimension that may vary has a name for its size, `?` where it has none."""

    name: str
    dtype: str
    """numpy's name; of what is no tensor of a type that is served, what it is instead."""
    shape: tuple[int | str, ...]
    has_shape: bool = True
    """False where the graph does not even say how many dimensions there are."""

    @property
    def datatype(self) -> str:
        """The element type in the words of the Open Inference Protocol."""
        return BY_DTYPE[self.dtype].datatype

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape with FREE for what may vary."""
        return tuple(size if isinstance(size, int) and size >= 0 else FREE for size in self.shape)
