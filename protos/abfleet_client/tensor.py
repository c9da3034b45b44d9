"""Tensors of the Open Inference Protocol: lists or arrays to bytes, and back. Needs no numpy."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Self

from abfleet_client.errors import not_allowed

if TYPE_CHECKING:
    import numpy as np

CODES = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
"""Datatype to the letter of `struct`."""
ARRAY_TYPES = {"BOOL": "?", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"} | {
    f"{word}INT{8 * size}": f"<{kind}{size}" for word, kind in (("", "i"), ("U", "u")) for size in (1, 2, 4, 8)
}
"""Datatype to numpy's name of it."""
DATATYPES = {("b", 1): "BOOL"} | {(kind[1], int(kind[2])): name for name, kind in ARRAY_TYPES.items() if len(kind) == 3}
"""Kind and item size of a numpy dtype to a datatype."""
LENGTH = struct.Struct("<I")
ALLOWED = f"{', '.join(CODES)}, BYTES"


@dataclass(frozen=True, slots=True)
class Tensor:
    """Elements of one type in a shape.

    Attributes:
        datatype: BOOL, UINT8 to UINT64, INT8 to INT64, FP16, FP32, FP64 or BYTES.
        raw: The elements row by row, little-endian; one of BYTES is its length in four bytes and then itself.
    """

    datatype: str
    shape: tuple[int, ...]
    raw: bytes

    @classmethod
    def of(cls, values: Sequence[Any], datatype: str, shape: Sequence[int]) -> Self:
        """From a list, flat or nested; texts are BYTES in UTF-8. Raises InvalidArgument."""
        elements, sizes = list(_flat(values)), tuple(shape)
        if any(not isinstance(size, int) or size < 0 for size in sizes) or prod(sizes) != len(elements):
            raise not_allowed("shape", sizes, f"sizes whose product is the number of elements, {len(elements)}")
        if datatype == "BYTES":
            return cls(datatype, sizes, b"".join(map(_element, elements)))
        if datatype not in CODES:
            raise not_allowed("datatype", datatype, ALLOWED)
        try:
            return cls(datatype, sizes, struct.pack(f"<{len(elements)}{CODES[datatype]}", *elements))
        except (struct.error, OverflowError, TypeError) as error:
            raise not_allowed("values", values, f"elements of {datatype} ({error})") from None

    @classmethod
    def of_array(cls, array: "np.ndarray[Any, Any]") -> Self:
        """From a numpy array; arrays of texts or bytes are BYTES. Raises InvalidArgument."""
        dtype = array.dtype
        if dtype.kind in "USO":
            return cls.of(array.ravel().tolist(), "BYTES", array.shape)
        datatype = DATATYPES.get((dtype.kind, dtype.itemsize))
        if datatype is None:
            raise not_allowed("dtype", str(dtype), ALLOWED)
        return cls(datatype, tuple(array.shape), array.astype(dtype.newbyteorder("<"), copy=False).tobytes())

    def values(self) -> list[Any]:
        """The elements, flat; those of BYTES are bytes."""
        if self.datatype == "BYTES":
            return list(self._elements())
        return list(struct.unpack(f"<{prod(self.shape)}{CODES[self.datatype]}", self.raw))

    def numpy(self) -> "np.ndarray[Any, Any]":
        """A numpy array that is read only, of objects for BYTES; needs numpy."""
        import numpy as np

        if self.datatype == "BYTES":
            return np.array(list(self._elements()), dtype=object).reshape(self.shape)
        return np.frombuffer(self.raw, ARRAY_TYPES[self.datatype]).reshape(self.shape)

    def _elements(self) -> Iterator[bytes]:
        at = 0
        while at < len(self.raw):
            (length,) = LENGTH.unpack_from(self.raw, at)
            at += LENGTH.size + length
            yield self.raw[at - length : at]


def _flat(values: Sequence[Any]) -> Iterator[Any]:
    for one in values:
        if isinstance(one, list | tuple):
            yield from _flat(one)
        else:
            yield one


def _element(value: object) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    if not isinstance(data, bytes):
        raise not_allowed("values", value, "texts or bytes, for BYTES")
    return LENGTH.pack(len(data)) + data
