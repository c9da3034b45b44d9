"""Reads what the router needs of a ModelInferResponse: that it is one, its version, and the outputs that are logged."""

import struct
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from math import isfinite
from typing import Any, NamedTuple

from abfleet_experiments.config import LoggedOutputs
from abfleet_protos.inference_parts_pb2 import ResponseParts
from abfleet_protos.inference_pb2 import ModelInferResponse
from google.protobuf.message import DecodeError

from abfleet_router.calls.wire import SMALL_BYTES, WireError, fields

MODEL_VERSION, OUTPUTS, RAW = 2, 5, 6
"""Field numbers."""
MOST_ELEMENTS = 100
"""Of an output in the log."""
MOST_KEPT_BYTES = 256
"""Of an output without its elements."""
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


class DraftedItems(NamedTuple):
    """The items of a list out of two, best first, and a letter for each: the team that it is from."""

    items: tuple[int, ...] | NamedItems
    teams: str


class LoggedTensors(NamedTuple):
    """What the decision log has of an answer to ModelInfer."""

    items: tuple[int, ...] | NamedItems | None
    """None where no output has them."""
    outputs: Mapping[str, list[float | None]]
    """Numbers of each output that the file names; None for one that is not finite."""
    teams: str | None = None
    """As of DraftedItems, where the items are a list out of two."""


LoggedItems = Sequence[int] | NamedItems | DraftedItems | LoggedTensors
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
    if not wanted.outputs and len(response) <= SMALL_BYTES and (quick := _only_items(response, wanted.items or "")):
        return LoggedTensors(quick, NOTHING.outputs)
    found = elements_of(response, wanted.outputs if wanted.items is None else (wanted.items, *wanted.outputs))
    items: tuple[int, ...] | NamedItems | None = None
    if (listed := found.get(wanted.items or "")) is None:
        pass
    elif listed.datatype == TEXTS:  # an empty one is padding
        texts: list[str] = listed.elements
        items = NamedItems(text for text in texts if 0 < len(text.encode()) <= LONGEST_NAME)
    elif listed.datatype == "UINT64":
        items = tuple(item for item in listed.elements if item <= LARGEST_WHOLE)
    elif listed.datatype in WHOLE:
        items = tuple(listed.elements)
    if not wanted.outputs:
        return LoggedTensors(items, NOTHING.outputs)
    outputs = {
        name: [one if isfinite(one) else None for one in found[name].elements]
        for name in wanted.outputs
        if name in found and found[name].datatype != TEXTS
    }
    return LoggedTensors(items, outputs)


def _only_items(response: bytes, name: str) -> tuple[int, ...] | None:
    """Whole numbers of the one output that has items; None where it is to be looked at more closely. Raises WireError.

    As `elements_of`, for what most answers are: those of recommenders.
    """
    parts = _parts(response)
    contents = parts.raw_output_contents[:]
    if not contents:  # its elements are typed, and outputs are never the same bytes
        return None
    place, datatype = _place_of(tuple(parts.outputs[:]), name)
    if place is None or place >= len(contents):
        return None
    raw = contents[place]
    return _reader(datatype, len(raw)).unpack_from(raw)


@lru_cache(maxsize=1024)
def _place_of(outputs: tuple[bytes, ...], name: str) -> tuple[int | None, str]:
    """Where the output of this name is, if it has whole numbers that fit the log, and their datatype."""
    found = [(place, datatype) for place, (other, datatype) in enumerate(map(declared, outputs)) if other == name]
    return found[-1] if found and found[-1][1] in WHOLE and found[-1][1] != "UINT64" else (None, "")


def elements_of(response: bytes, names: Collection[str]) -> dict[str, Elements]:
    """The first 100 elements of each of these outputs that the answer has. Raises WireError."""
    outputs, raw = _tensors(response)
    found: dict[str, Elements] = {}
    for place, field in enumerate(outputs):
        name, datatype = declared(field) if len(field) <= MOST_KEPT_BYTES else declared.__wrapped__(field)
        if name in names:
            elements = _elements(field, datatype, raw[place] if place < len(raw) else None)
            if elements is not None:
                found[name] = Elements(datatype, elements)
            elif name in found:  # of two with one name the last counts
                del found[name]
    return found


def _tensors(response: bytes) -> tuple[Sequence[bytes], Sequence[bytes | memoryview]]:
    """The outputs of an answer, each a serialised InferOutputTensor, and their raw elements."""
    if len(response) <= SMALL_BYTES:
        parts = _parts(response)
        return parts.outputs[:], parts.raw_output_contents[:]  # slices are lists, which are quicker to go through
    outputs: list[bytes] = []
    raw: list[memoryview] = []
    whole = memoryview(response)  # large tensors are not copied
    for number, _, value, end in fields(response):
        if number == OUTPUTS:
            outputs.append(response[value:end])
        elif number == RAW:
            raw.append(whole[value:end])
    return outputs, raw


def _parts(response: bytes) -> ResponseParts:
    try:
        return ResponseParts.FromString(response)
    except DecodeError:
        raise WireError("the answer is no message") from None


@lru_cache(maxsize=1024)
def declared(field: bytes) -> tuple[str, str]:
    """Name and datatype of an output: with every answer of a model it is the same bytes, unless its elements are typed.

    Raises WireError.
    """
    tensor = _tensor(field)
    return tensor.name, tensor.datatype


def _tensor(field: bytes) -> Any:
    try:
        return ModelInferResponse.InferOutputTensor.FromString(field)
    except DecodeError:
        raise WireError("an output is no tensor") from None


def _texts(field: bytes, raw: bytes | memoryview | None) -> list[str]:
    """The first texts of a tensor."""
    texts: list[bytes] = list(_tensor(field).contents.bytes_contents[:MOST_ELEMENTS])
    place, end = 0, len(raw or b"")
    while raw is not None and len(texts) < MOST_ELEMENTS and place + LENGTH.size <= end:
        begin = place + LENGTH.size
        place = begin + LENGTH.unpack_from(raw, place)[0]
        if place <= end:
            texts.append(bytes(raw[begin:place]))
    return [text.decode(errors="replace") for text in texts]


@lru_cache(maxsize=1024)
def _reader(datatype: str, size_bytes: int) -> struct.Struct:
    form = NUMBERS[datatype][0]
    return struct.Struct(f"<{min(MOST_ELEMENTS, size_bytes // struct.calcsize(f'<{form}'))}{form}")


def _elements(field: bytes, datatype: str, raw: bytes | memoryview | None) -> list[Any] | None:
    """The first elements of a tensor; None for a datatype that is none."""
    if datatype == TEXTS:
        return _texts(field, raw)
    if datatype not in NUMBERS:
        return None
    if raw is not None:
        return list(_reader(datatype, len(raw)).unpack_from(raw))
    contents = NUMBERS[datatype][1]
    typed = getattr(_tensor(field).contents, contents)[:MOST_ELEMENTS] if contents else []
    return [int(one) if isinstance(one, bool) else one for one in typed]
