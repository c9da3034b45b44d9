"""A model's inputs and outputs, prepared for checking what callers send. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from abfleet_models.graph.tensors import FREE, TensorSpec
from abfleet_models.signature import Signature
from numpy.typing import DTypeLike

CONTENTS: Mapping[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Where the elements of each type are that are not sent raw; FP16 has no such place."""


@dataclass(frozen=True, slots=True)
class TensorFace:
    """One input or output."""

    name: str
    datatype: str
    sizes: tuple[int, ...]
    """FREE is any size."""
    dimensions: tuple[str, ...]
    """The graph's name of each free dimension, empty where it has none. Those of one name have one size."""
    dtype: "np.dtype[np.generic]"
    """Of the elements as they are on the wire; of texts, object."""
    contents: str
    """The field of InferTensorContents; empty where there is none."""

    @property
    def is_text(self) -> bool:
        """Whether its elements are texts, which are of no fixed size."""
        return self.datatype == "BYTES"


@dataclass(frozen=True, slots=True)
class ModelFace:
    """What a model takes and gives."""

    inputs: tuple[TensorFace, ...]
    outputs: tuple[TensorFace, ...]
    by_name: Mapping[str, int]
    """Place of each input."""
    output_places: Mapping[str, int]
    most_bytes: int
    """Of a tensor that is empty: what its other dimensions may come to, as nothing else bounds them."""


def face_of(signature: Signature, dimensions: Mapping[str, Sequence[int | str | None]], most_bytes: int) -> ModelFace:
    """`dimensions`: each input's shape as the graph has it, with names of free dimensions."""
    inputs = tuple(_tensor(spec, dimensions.get(spec.name, ())) for spec in signature.inputs)
    outputs = tuple(_tensor(spec, ()) for spec in signature.outputs)
    return ModelFace(
        inputs,
        outputs,
        by_name={face.name: place for place, face in enumerate(inputs)},
        output_places={face.name: place for place, face in enumerate(outputs)},
        most_bytes=most_bytes,
    )


def _tensor(spec: TensorSpec, shape: Sequence[int | str | None]) -> TensorFace:
    text = spec.dtype == "string"
    kind: DTypeLike = object if text else np.dtype(spec.dtype).newbyteorder("<")
    named = zip(shape, spec.sizes, strict=False)
    names = [name if isinstance(name, str) and size == FREE else "" for name, size in named]
    return TensorFace(
        name=spec.name,
        datatype=spec.datatype,
        sizes=spec.sizes,
        dimensions=tuple(names) if len(names) == len(spec.sizes) else ("",) * len(spec.sizes),
        dtype=np.dtype(kind),
        contents=CONTENTS.get(spec.datatype, ""),
    )
