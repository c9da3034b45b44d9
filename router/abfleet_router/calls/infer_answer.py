"""Reads what the router needs of a ModelInferResponse: that it is one, its version, and the outputs that are logged."""

import struct
from collections.abc import Collection, Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

from abfleet_experiments.config import LoggedOutputs
from abfleet_protos.inference_pb2 import ModelInferResponse
from google.protobuf.message import DecodeError

from abfleet_router.calls.wire import WireError, fields

MODEL_VERSION, OUTPUTS, RAW = 2, 5, 6
"""Field numbers."""
MOST_ELEMENTS = 100
"""Of an output in the log."""
WHOLE: Mapping[str, tuple[str, str]] = {
    "INT8": ("b", "int_contents"),
    "INT16": ("h", "int_contents"),
    "INT32": ("i", "int_contents"),
    "INT64": ("q", "int64_contents"),
    "UINT8": ("B", "uint_contents"),
    "UINT16": ("H", "uint_contents"),
    "UINT32": ("I", "uint_contents"),
    "UINT64": ("Q", "uint64_contents"),
}
"""How an element of a datatype lies in raw bytes, as `struct` calls it, and the list for typed elements."""
NUMBERS: Mapping[str, tuple[str, str]] = {
    **WHOLE,
    "BOOL": ("B", "bool_contents"),
    "FP16": ("e", ""),
    "FP32": ("f", "fp32_contents"),
    "FP64": ("d", "fp64_contents"),
}
LARGEST_WHOLE = 2**63 - 1
"""As an item in the log."""
TEXTS = "BYTES"
LENGTH = struct.Struct("<I")
"""Before each element of BYTES in raw bytes."""
LONGEST_NAME = 256
"""Of an item, in bytes: no outcome could name a longer one."""


class NamedItems(tuple[str, ...]):
    """The items of an answer by their names, best first."""

    __slots__ = ()


class LoggedTensors(NamedTuple):
    """What the decision log has of an answer to ModelInfer."""

    items: tuple[int, ...] | NamedItems | None
    """None where no output has them."""
    outputs: Mapping[str, list[float | None]]
    """Numbers of each output that the file names; None for one that is not finite."""


LoggedItems = Sequence[int] | NamedItems | LoggedTensors
"""What the decision log has of an answer: item ids, best first, or names, or what an answer to ModelInfer has."""
NOTHING = LoggedTensors(None, {})


class Elements(NamedTuple):
    """Those of an output, numbers or texts, and its datatype."""

    datatype: str
    elements: list[Any]


def check(response: bytes) -> None:
    """Raises WireError for what is no message; nothing in it is looked at."""
    for _ in fields(response):
        pass


def version_in(response: bytes) -> str:
    """The version that an answer names, or "". Raises WireError."""
    version = b""
    for number, _, value, end in fields(response):
        if number == MODEL_VERSION:
            version = response[value:end]
    return version.decode(errors="replace")


def logged(response: bytes, wanted: LoggedOutputs) -> LoggedTensors:
    """The outputs that are logged, at most 100 elements of each. Raises WireError."""
    if wanted.items is None and not wanted.outputs:
        check(response)
        return NOTHING
    names = {*wanted.outputs, *([] if wanted.items is None else [wanted.items])}
    found = elements_of(response, names)
    items: tuple[int, ...] | NamedItems | None = None
    if wanted.items in found and found[wanted.items].datatype == TEXTS:  # an empty one is padding
        texts: list[str] = found[wanted.items].elements
        items = NamedItems(text for text in texts if 0 < len(text.encode()) <= LONGEST_NAME)
    elif wanted.items in found and found[wanted.items].datatype in WHOLE:
        items = tuple(item for item in found[wanted.items].elements if item <= LARGEST_WHOLE)
    outputs = {
        name: [one if isfinite(one) else None for one in found[name].elements]
        for name in wanted.outputs
        if name in found and found[name].datatype != TEXTS
    }
    return LoggedTensors(items, outputs)


def elements_of(response: bytes, names: Collection[str]) -> dict[str, Elements]:
    """The first 100 elements of each of these outputs that the answer has. Raises WireError."""
    tensors: dict[str, tuple[Any, int]] = {}
    raw: list[tuple[int, int]] = []
    place = 0
    for number, begin, value, end in fields(response):
        if number == OUTPUTS:
            tensor = _tensor(response[begin:end])
            tensors[tensor.name] = (tensor, place)
            place += 1
        elif number == RAW:
            raw.append((value, end))
    found: dict[str, Elements] = {}
    for name in names:
        if name in tensors:
            tensor, place = tensors[name]
            span = raw[place] if place < len(raw) else None
            found_here = _elements(tensor, None if span is None else response[span[0] : span[1]])
            if found_here is not None:
                found[name] = Elements(tensor.datatype, found_here)
    return found


def _tensor(field: bytes) -> Any:
    try:
        return ModelInferResponse.FromString(field).outputs[0]
    except DecodeError:
        raise WireError("an output is no tensor") from None


def _texts(tensor: Any, raw: bytes | None) -> list[str]:
    """The first texts of a tensor."""
    texts: list[bytes] = list(tensor.contents.bytes_contents[:MOST_ELEMENTS])
    place, end = 0, len(raw or b"")
    while raw is not None and len(texts) < MOST_ELEMENTS and place + LENGTH.size <= end:
        begin = place + LENGTH.size
        place = begin + LENGTH.unpack_from(raw, place)[0]
        if place <= end:
            texts.append(raw[begin:place])
    return [text.decode(errors="replace") for text in texts]


def _elements(tensor: Any, raw: bytes | None) -> list[Any] | None:
    """The first elements of a tensor; None for a datatype that is none."""
    if tensor.datatype == TEXTS:
        return _texts(tensor, raw)
    if tensor.datatype not in NUMBERS:
        return None
    form, contents = NUMBERS[tensor.datatype]
    if raw is not None:
        size = struct.calcsize(f"<{form}")
        return list(struct.unpack_from(f"<{min(MOST_ELEMENTS, len(raw) // size)}{form}", raw))
    typed = getattr(tensor.contents, contents)[:MOST_ELEMENTS] if contents else []
    return [int(one) if isinstance(one, bool) else one for one in typed]
