"""Requests whose tensors look like those of an earlier one: their elements are taken, and nothing is checked twice.

Callers of one model differ in elements and ids. What a request says of its tensors, which are names, types, shapes and
wanted outputs, is the same bytes again and again; to read them as objects costs more than a quick model's answer.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from abfleet_protos.inference_parts_pb2 import RequestParts
from google.protobuf.message import DecodeError

from abfleet_worker.tensors.faces import ModelFace
from abfleet_worker.tensors.reading import SEQUENCE_ID, Array, InferItem

MOST_LAYOUTS = 2_048
"""That are kept; then all are forgotten, so that callers who send ever new ones cost no memory."""
MOST_KEY_BYTES = 2_048
"""Of what a request says of its tensors."""
Key = tuple[tuple[bytes, ...], tuple[bytes, ...]]


class Parts(NamedTuple):
    """What a request says of its tensors."""

    key: Key


class RawTensor(NamedTuple):
    """Where an input's elements are, and how they are read."""

    number: int
    size_bytes: int
    dtype: "np.dtype[np.generic]"
    shape: tuple[int, ...]


class TensorLayout(NamedTuple):
    """What requests have in common that say the same of their tensors."""

    tensors: tuple[RawTensor, ...]
    """In the order of the model's inputs."""
    outputs: tuple[int, ...]
    rows: int
    tails: tuple[tuple[int, ...], ...]


class Layouts:
    """Those that were seen; of one model."""

    def __init__(self, face: ModelFace) -> None:
        self._face = face
        self._plain = all(one.datatype not in ("BYTES", "BOOL") for one in face.inputs)  # every element is allowed
        self._known: dict[Key, TensorLayout] = {}  # changed only by `learn`

    def read(self, payload: bytes, expires: float | None) -> InferItem | Parts | None:
        """The request's arrays; where none was like it, what `learn` takes of it; None where it is nothing to learn.

        In the last two cases it is to be read from its beginning.
        """
        if not self._plain:
            return None
        try:
            parts = RequestParts.FromString(payload)
        except DecodeError:
            return None
        # A slice of a repeated field is a list, and takes half the time of iterating over it.
        raw = parts.raw_input_contents[:]
        if not raw or (parts.parameters and SEQUENCE_ID in parts.parameters):
            return None
        key = (tuple(parts.inputs[:]), tuple(parts.outputs[:]))
        layout = self._known.get(key)
        if layout is None or len(raw) != len(layout.tensors):
            return Parts(key)
        arrays: list[Array] = []
        for number, wanted_bytes, dtype, shape in layout.tensors:
            elements = raw[number]
            if len(elements) != wanted_bytes:
                return None
            arrays.append(np.ndarray(shape, dtype, elements))
        return InferItem(tuple(arrays), layout.outputs, layout.rows, layout.tails, len(payload), expires)

    def learn(self, parts: Parts, message: Any, item: InferItem) -> None:
        """`item` is what was read of `message`, the same request."""
        key = parts.key
        if sum(map(len, key[0])) + sum(map(len, key[1])) > MOST_KEY_BYTES or not all(a.size for a in item.arrays):
            return
        numbers: Mapping[str, int] = {tensor.name: number for number, tensor in enumerate(message.inputs)}
        if len(self._known) >= MOST_LAYOUTS:
            self._known.clear()
        self._known[key] = TensorLayout(
            tuple(
                RawTensor(numbers[one.name], array.nbytes, one.dtype, array.shape)
                for one, array in zip(self._face.inputs, item.arrays, strict=True)
            ),
            item.outputs,
            item.rows,
            item.tails,
        )
