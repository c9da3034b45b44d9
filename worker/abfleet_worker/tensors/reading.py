"""One ModelInferRequest to arrays, or why it is refused. Knows the protocol and the model's face; runs nothing.

Nothing is cast and nothing is reshaped: what is sent is what the model gets, or the caller is told what would be.
"""

import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from abfleet_models.graph.tensors import FREE
from abfleet_protos.inference_pb2 import ModelInferRequest
from abfleet_transport.call import Code
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from abfleet_worker.request import Refusal, shown
from abfleet_worker.tensors.faces import ModelFace, TensorFace

Array = NDArray[Any]
LENGTH = struct.Struct("<I")
"""Before each element of BYTES that is sent raw."""
SEQUENCE_ID = "sequence_id"
SHARED_MEMORY = "shared_memory_region"
NOT_SERVED = ("classification", SHARED_MEMORY)
"""Extensions of other servers that change what an answer is; to pass over them would be a wrong answer."""


class InferItem(NamedTuple):
    """One request on its way to the model."""

    arrays: tuple[Array, ...]
    """In the order of the model's inputs."""
    outputs: tuple[int, ...]
    """Places of the outputs that are asked for, in the order of the answer."""
    rows: int
    """The first dimension that all inputs share; 0 where there is none, and the request is run alone."""
    tails: tuple[tuple[int, ...], ...]
    """The other dimensions of each input."""
    size_bytes: int
    """Of the message."""
    expires: float | None
    """When its answer is of no use any more, on the clock of the service; None for never."""


class WrongRequestError(Exception):
    """A request that is refused; the message names what of it is wrong, and what is allowed."""

    def __init__(self, message: str, code: Code = Code.INVALID_ARGUMENT) -> None:
        super().__init__(message)
        self.refusal = Refusal(code, message)


def parse(payload: bytes) -> ModelInferRequest:
    """Raises WrongRequestError where the bytes are none."""
    try:
        message: ModelInferRequest = ModelInferRequest.FromString(payload)
    except DecodeError:
        raise WrongRequestError(
            "request: the bytes are not an inference.ModelInferRequest; its strings must be UTF-8"
        ) from None
    return message


def read(message: ModelInferRequest, face: ModelFace, size_bytes: int, expires: float | None) -> InferItem:
    """The request's arrays; `size_bytes` is that of the message. Raises WrongRequestError."""
    if message.parameters:
        _refuse_sequences(message)
    arrays = _inputs(message, face)
    if len(face.inputs) > 1 or len(face.inputs[0].dimensions) > 1:
        _check_named_dimensions(arrays, face)
    rows = {array.shape[0] if array.ndim else 0 for array in arrays}
    return InferItem(
        tuple(arrays),
        _outputs(message, face) if message.outputs else tuple(range(len(face.outputs))),
        rows.pop() if len(rows) == 1 else 0,
        tuple(array.shape[1:] for array in arrays),
        size_bytes,
        expires,
    )


def _refuse_sequences(message: ModelInferRequest) -> None:
    sequence = message.parameters.get(SEQUENCE_ID)
    if sequence is not None and (sequence.int64_param or sequence.uint64_param or sequence.string_param):
        raise WrongRequestError(
            f"parameters[{SEQUENCE_ID}]: sequences are not served; leave it out", Code.UNIMPLEMENTED
        )


def _inputs(message: ModelInferRequest, face: ModelFace) -> list[Array]:
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise WrongRequestError(
            f"raw_input_contents: {len(raw)} entries for {len(message.inputs)} inputs; allowed: none, or one for each"
        )
    found: list[Array | None] = [None] * len(face.inputs)
    for number, tensor in enumerate(message.inputs):
        place = face.by_name.get(tensor.name)
        if place is None:
            names = ", ".join(one.name for one in face.inputs)
            raise WrongRequestError(f"inputs[{number}].name: {shown(tensor.name)} is no input; allowed: {names}")
        if found[place] is not None:
            raise WrongRequestError(f"input {shown(tensor.name)}: is given twice")
        if SHARED_MEMORY in tensor.parameters:
            raise WrongRequestError(
                f"input {shown(tensor.name)}: shared memory is not served; send its elements", Code.UNIMPLEMENTED
            )
        found[place] = _array(tensor, face.inputs[place], face, raw[number] if raw else None)
    missing = [one.name for one, array in zip(face.inputs, found, strict=True) if array is None]
    if missing:
        raise WrongRequestError(f"input {shown(missing[0])}: is missing; the model takes all of its inputs")
    return [array for array in found if array is not None]


def _array(tensor: Any, wanted: TensorFace, face: ModelFace, raw: bytes | None) -> Array:
    name = shown(wanted.name)
    if tensor.datatype != wanted.datatype:
        raise WrongRequestError(
            f"input {name}: datatype: {shown(tensor.datatype)} is not allowed; allowed: {wanted.datatype}"
        )
    shape = tuple(tensor.shape)
    if len(shape) != len(wanted.sizes) or any(
        size < 0 or (allowed != FREE and size != allowed) for size, allowed in zip(shape, wanted.sizes, strict=True)
    ):
        raise WrongRequestError(
            f"input {name}: shape: {_shape(shape)} is not allowed; allowed: {_shape(wanted.sizes)}, "
            "where -1 is any size"
        )
    count = math.prod(shape)
    if not count and math.prod(size for size in shape if size) > face.most_bytes:
        raise WrongRequestError(f"input {name}: shape: {_shape(shape)} is empty and too large; send no such dimension")
    contents = tensor.contents if tensor.HasField("contents") else None
    if raw is not None:
        if contents is not None and contents.ByteSize():
            raise WrongRequestError(f"input {name}: contents: are not allowed beside raw_input_contents")
        flat = _raw_texts(raw, count, name) if wanted.is_text else _raw_numbers(raw, count, wanted, name)
    else:
        flat = _typed(contents, count, wanted, name)
    return flat.reshape(shape)


def _raw_numbers(raw: bytes, count: int, wanted: TensorFace, name: str) -> Array:
    size = wanted.dtype.itemsize
    if len(raw) != count * size:
        raise WrongRequestError(
            f"input {name}: raw_input_contents: {len(raw)} bytes; its shape takes {count} elements of {size} bytes, "
            f"which are {count * size}"
        )
    if wanted.datatype == "BOOL" and raw.translate(None, b"\0\1"):
        raise WrongRequestError(f"input {name}: raw_input_contents: a byte is neither 0 nor 1; allowed: 0 and 1")
    return np.frombuffer(raw, wanted.dtype)


def _raw_texts(raw: bytes, count: int, name: str) -> Array:
    texts: list[bytes] = []
    place, end = 0, len(raw)
    while place < end and len(texts) <= count:
        if place + LENGTH.size > end or place + LENGTH.size + (size := LENGTH.unpack_from(raw, place)[0]) > end:
            raise WrongRequestError(
                f"input {name}: raw_input_contents: element {len(texts)} goes past the end; each is its length in four "
                "bytes, little-endian, and then itself"
            )
        texts.append(raw[place + LENGTH.size : place + LENGTH.size + size])
        place += LENGTH.size + size
    _check_count(len(texts), count, f"input {name}: raw_input_contents", more=len(texts) > count)
    return _texts(texts, name)


def _typed(contents: Any, count: int, wanted: TensorFace, name: str) -> Array:
    if contents is None:
        _check_count(0, count, f"input {name}: contents")
        return np.empty(0, wanted.dtype)
    for descriptor, _ in contents.ListFields():
        if descriptor.name != wanted.contents:
            allowed = wanted.contents or "raw_input_contents, as FP16 has no other"
            raise WrongRequestError(
                f"input {name}: contents.{descriptor.name}: is not for {wanted.datatype}; allowed: {allowed}"
            )
    if not wanted.contents:
        _check_count(0, count, f"input {name}: contents")
        return np.empty(0, wanted.dtype)
    values = getattr(contents, wanted.contents)
    _check_count(len(values), count, f"input {name}: contents.{wanted.contents}")
    if wanted.is_text:
        return _texts(values, name)
    try:
        array: Array = np.fromiter(values, wanted.dtype, count)
    except OverflowError as error:
        raise WrongRequestError(
            f"input {name}: contents.{wanted.contents}: an element is outside of {wanted.datatype}: {error}"
        ) from None
    return array


def _texts(values: Sequence[bytes], name: str) -> Array:
    """ONNX Runtime takes texts, not bytes."""
    array = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        try:
            array[place] = value.decode()
        except UnicodeDecodeError:
            raise WrongRequestError(f"input {name}: element {place} is not UTF-8; allowed: UTF-8") from None
    return array


def _check_count(found: int, wanted: int, where: str, *, more: bool = False) -> None:
    if found != wanted:
        elements = f"more than {wanted}" if more else str(found)
        raise WrongRequestError(f"{where}: {elements} elements; its shape takes {wanted}")


def _check_named_dimensions(arrays: Sequence[Array], face: ModelFace) -> None:
    """Dimensions to which the graph gives one name have one size: else the model would fail, and seem to be broken."""
    sizes: dict[str, tuple[int, str]] = {}
    for array, one in zip(arrays, face.inputs, strict=True):
        for size, dimension in zip(array.shape, one.dimensions, strict=True):
            if not dimension:
                continue
            before = sizes.setdefault(dimension, (size, one.name))
            if before[0] != size:
                raise WrongRequestError(
                    f"input {shown(one.name)}: shape: {_shape(array.shape)} is not allowed; its dimension "
                    f"{shown(dimension)} is {before[0]} in {shown(before[1])}, and must be the same"
                )


def _outputs(message: ModelInferRequest, face: ModelFace) -> tuple[int, ...]:
    places: list[int] = []
    for number, output in enumerate(message.outputs):
        place = face.output_places.get(output.name)
        if place is None:
            names = ", ".join(face.output_places)
            raise WrongRequestError(f"outputs[{number}].name: {shown(output.name)} is no output; allowed: {names}")
        if place in places:
            raise WrongRequestError(f"output {shown(output.name)}: is asked for twice")
        for extension in NOT_SERVED:
            if extension in output.parameters:
                raise WrongRequestError(
                    f"output {shown(output.name)}: parameters[{extension}]: is not served; leave it out",
                    Code.UNIMPLEMENTED,
                )
        places.append(place)
    return tuple(places)


def _shape(shape: Sequence[int]) -> str:
    """A shape in a message, cut where it has more dimensions than any model."""
    sizes = [str(size) for size in shape[:16]]
    return f"[{', '.join(sizes)}{', …' if len(shape) > len(sizes) else ''}]"
