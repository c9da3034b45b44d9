"""Reads what an ONNX file asks of its reader, inputs, outputs, domains, files beside it; and constants. Runs nothing.

Knows the protobuf wire format (https://protobuf.dev/programming-guides/encoding/) and the field numbers of onnx.proto,
so that a model can be refused before any runtime opens it, by a process that has no ONNX installed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from abfleet_models.manifest import TensorSpec

STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operators that ONNX Runtime brings itself; any other domain would need a custom library."""
_DTYPES = {1: "float32", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}
_EXTERNAL = 1
_INT64 = 7
_MAX_DEPTH = 64
"""Of graphs inside graphs; real models have a few."""


class NotOnnxError(ValueError):
    """The bytes are not a serialised ModelProto."""


@dataclass(frozen=True, slots=True)
class GraphFile:
    """What a model file says of itself."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    domains: frozenset[str]
    """Operator domains of its nodes, without those of functions that it defines itself."""
    external: frozenset[str]
    """Locations of tensors kept outside the file."""


class _Findings:
    """What a walk has met so far. Mutable: only the walking functions below add to it."""

    def __init__(self) -> None:
        self.inputs: list[TensorSpec] = []
        self.initialisers: set[str] = set()
        self.outputs: list[TensorSpec] = []
        self.domains: set[str] = set()
        self.functions: set[str] = set()
        self.external: set[str] = set()


def read_graph(content: bytes) -> GraphFile:
    """Walks a serialised ModelProto. Raises NotOnnxError when it is none."""
    found = _Findings()
    try:
        graphs = 0
        for number, value in _messages(memoryview(content)):
            if number == 7:
                graphs += 1
                _graph(value, found, depth=0, top=True)
            elif number == 20:  # training_info: initialization, algorithm
                for _, graph in _messages(value, 1, 2):
                    _graph(graph, found, depth=1, top=False)
            elif number == 25:  # functions
                _function(value, found)
    except (IndexError, UnicodeDecodeError) as error:
        raise NotOnnxError(f"is not an ONNX model: {error}") from error
    if not graphs:
        raise NotOnnxError("is not an ONNX model: it has no graph")
    return GraphFile(
        # Up to IR version 3 a graph had to list what it initialises itself among its inputs.
        inputs=tuple(spec for spec in found.inputs if spec.name not in found.initialisers),
        outputs=tuple(found.outputs),
        domains=frozenset(found.domains - found.functions),
        external=frozenset(found.external),
    )


def read_int64(content: bytes, name: str) -> bytes | None:
    """The little-endian int64 values of the constant `name` of a model's graph; None where it has none inside the file.

    Raises NotOnnxError when the bytes are no model.
    """
    try:
        for _, graph in _messages(memoryview(content), 7):
            for _, tensor in _messages(graph, 5):
                members = dict(_fields(tensor))
                found, raw = members.get(8), members.get(9)
                if not isinstance(found, memoryview) or bytes(found) != name.encode() or members.get(2) != _INT64:
                    continue
                return bytes(raw) if isinstance(raw, memoryview) and len(raw) % 8 == 0 else None
    except IndexError as error:
        raise NotOnnxError(f"is not an ONNX model: {error}") from error
    return None


def _graph(data: memoryview, found: _Findings, *, depth: int, top: bool) -> None:
    if depth > _MAX_DEPTH:
        raise NotOnnxError(f"nests graphs more than {_MAX_DEPTH} levels deep")
    for number, value in _messages(data):
        if number == 1:
            _node(value, found, depth=depth)
        elif number == 5:
            _tensor(value, found)
            if top:
                found.initialisers.update(_text(name) for _, name in _messages(value, 8))
        elif number == 15:
            _sparse(value, found)
        elif number == 11 and top:
            found.inputs.append(_spec(value))
        elif number == 12 and top:
            found.outputs.append(_spec(value))


def _function(data: memoryview, found: _Findings) -> None:
    domain = ""
    for number, value in _messages(data):
        if number == 7:
            _node(value, found, depth=1)
        elif number == 10:
            domain = _text(value)
    found.functions.add(domain)


def _node(data: memoryview, found: _Findings, *, depth: int) -> None:
    domain = ""
    for number, value in _messages(data):
        if number == 5:
            _attribute(value, found, depth=depth)
        elif number == 7:
            domain = _text(value)
    found.domains.add(domain)


def _attribute(data: memoryview, found: _Findings, *, depth: int) -> None:
    for number, value in _messages(data):
        if number in (5, 10):  # t, tensors
            _tensor(value, found)
        elif number in (6, 11):  # g, graphs
            _graph(value, found, depth=depth + 1, top=False)
        elif number in (22, 23):  # sparse_tensor, sparse_tensors
            _sparse(value, found)


def _sparse(data: memoryview, found: _Findings) -> None:
    for _, tensor in _messages(data, 1, 2):
        _tensor(tensor, found)


def _tensor(data: memoryview, found: _Findings) -> None:
    external = False
    locations = []
    for number, value in _fields(data):
        if number == 14 and value == _EXTERNAL:
            external = True
        elif number == 13 and isinstance(value, memoryview):
            entry = {key: _text(text) for key, text in _messages(value, 1, 2)}
            if entry.get(1) == "location":
                locations.append(entry.get(2, ""))
    # Locations count even where the flag is missing: a runtime may read them all the same.
    found.external.update(locations if locations or not external else [""])


def _spec(data: memoryview) -> TensorSpec:
    """ValueInfoProto: name = 1, type = 2 { tensor_type = 1 { elem_type = 1, shape = 2 { dim = 1 } } }."""
    name, dtype, shape = "", "none", []
    for number, value in _messages(data):
        if number == 1:
            name = _text(value)
        elif number == 2:
            for _, tensor in _messages(value, 1):
                for key, part in _fields(tensor):
                    if key == 1 and isinstance(part, int):
                        dtype = _DTYPES.get(part, f"onnx type {part}")
                    elif key == 2 and isinstance(part, memoryview):
                        shape = [_dimension(dim) for _, dim in _messages(part, 1)]
    return TensorSpec(name, dtype, tuple(shape))


def _dimension(data: memoryview) -> int | str:
    """Dimension: dim_value = 1 or dim_param = 2."""
    found: int | str = "?"
    for number, value in _fields(data):
        if number == 1 and isinstance(value, int):
            found = value
        elif number == 2 and isinstance(value, memoryview):
            found = _text(value)
    return found


def _text(data: memoryview) -> str:
    return bytes(data).decode("utf-8")


def _messages(data: memoryview, *numbers: int) -> Iterator[tuple[int, memoryview]]:
    """The length-delimited fields, all or those with these numbers."""
    for number, value in _fields(data):
        if isinstance(value, memoryview) and (not numbers or number in numbers):
            yield number, value


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field number and value: a varint as int, a length-delimited field as its bytes; fixed-width fields are passed."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, place = _varint(data, place)
            yield number, value
            continue
        if kind == 2:
            size, place = _varint(data, place)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:  # groups, which no ONNX writer uses and which could hide fields
            raise NotOnnxError(f"is not an ONNX model: wire type {kind} at byte {place}")
        if place + size > len(data):
            raise NotOnnxError("is not an ONNX model: it ends in the middle of a field")
        if kind == 2:
            yield number, data[place : place + size]
        place += size


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise NotOnnxError("is not an ONNX model: a number is longer than ten bytes")
