"""Requests of the Open Inference Protocol: what is taken, and what is refused with the tensor's name."""

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from abfleet_protos.inference_pb2 import ModelInferRequest
from abfleet_transport.call import Code
from abfleet_worker.service import ModelService
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support import small_graphs
from tests.worker.calls import FakeCall
from tests.worker.tensors.infer_calls import answered, arrays, loaded, lone, request, service

NUMBERS = ("FP32", "FP64", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "BOOL", "FP16")
DTYPES = {"FP32": "float32", "FP64": "float64", "FP16": "float16", "BOOL": "bool"}


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> ModelService:
    """A model that gives back a matrix of each type."""
    model = small_graphs.echo([*NUMBERS, "BYTES"], ["rows", "columns"])
    return service(loaded(tmp_path_factory.mktemp("echo"), model))


@pytest.fixture(scope="module")
def typed_echo(tmp_path_factory: pytest.TempPathFactory) -> ModelService:
    """The same without FP16, which has no typed form."""
    model = small_graphs.echo([*(kind for kind in NUMBERS if kind != "FP16"), "BYTES"], ["rows", "columns"])
    return service(loaded(tmp_path_factory.mktemp("typed"), model))


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> ModelService:
    """user INT64[-1, 1], items INT64[-1, n], context BYTES[-1] to score, best, echoed."""
    return service(loaded(tmp_path_factory.mktemp("ranker"), small_graphs.user_and_items()))


def dtype_of(kind: str) -> "np.dtype[Any]":
    return np.dtype(DTYPES.get(kind, kind.lower()))


@st.composite
def matrices(draw: st.DrawFn) -> Mapping[str, NDArray[Any]]:
    """A matrix of one shape for each type; every bit pattern of a number may come."""
    shape = draw(st.tuples(st.integers(0, 3), st.integers(0, 4)))
    count = shape[0] * shape[1]
    found: dict[str, NDArray[Any]] = {}
    for kind in NUMBERS:
        dtype = dtype_of(kind)
        size = count * dtype.itemsize
        content = draw(st.binary(min_size=size, max_size=size))
        if kind == "BOOL":
            content = bytes(byte & 1 for byte in content)
        found[f"in_{kind}"] = np.frombuffer(content, dtype).reshape(shape)
    texts = np.empty(count, dtype=object)
    texts[:] = draw(st.lists(st.text(max_size=5), min_size=count, max_size=count))
    return {**found, "in_BYTES": texts.reshape(shape)}


def same(found: NDArray[Any], sent: NDArray[Any]) -> bool:
    if found.dtype == object:
        return found.shape == sent.shape and found.tolist() == sent.tolist()
    return found.shape == sent.shape and found.tobytes() == sent.tobytes()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(matrices())
def test_raw_elements_come_back_bit_for_bit(echo: ModelService, inputs: Mapping[str, NDArray[Any]]) -> None:
    """Any shape and any content of every type, what is not a number, empty texts and empty matrices included."""
    call = lone(request(inputs))
    echo.answer([call])
    found = arrays(answered(call))
    assert list(found) == [name.replace("in_", "out_") for name in inputs]
    assert all(same(array, inputs[name.replace("out_", "in_")]) for name, array in found.items())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(matrices())
def test_typed_elements_come_back(typed_echo: ModelService, inputs: Mapping[str, NDArray[Any]]) -> None:
    """The same in typed contents, where Python keeps no bits of what is not a number."""
    sent = {
        name: np.nan_to_num(array) if array.dtype.kind == "f" else array
        for name, array in inputs.items()
        if name != "in_FP16"
    }
    call = lone(request(sent, typed=True))
    typed_echo.answer([call])
    found = arrays(answered(call))
    assert all(same(array, sent[name.replace("out_", "in_")]) for name, array in found.items())


def good() -> ModelInferRequest:
    """A request for two rows, raw."""
    return request(
        {
            "user": np.array([[1], [2]], np.int64),
            "items": np.array([[1, 2, 3], [4, 5, 6]], np.int64),
            "context": np.array(["a", "é"], dtype=object),
        }
    )


def typed() -> ModelInferRequest:
    """The same, typed."""
    return request(
        {
            "user": np.array([[1], [2]], np.int64),
            "items": np.array([[1, 2, 3], [4, 5, 6]], np.int64),
            "context": np.array(["a", "é"], dtype=object),
        },
        typed=True,
    )


def refused(service: ModelService, message: ModelInferRequest) -> tuple[Code, str]:
    """The status of a call that failed."""
    call = lone(message)
    service.answer([call])
    assert isinstance(call.only, tuple), call.only
    return call.only


Change = Callable[[ModelInferRequest], object]


def put(message: ModelInferRequest, place: int, **fields: Any) -> None:
    """Sets fields of one input."""
    for field, value in fields.items():
        if field == "shape":
            del message.inputs[place].shape[:]
            message.inputs[place].shape.extend(value)
        else:
            setattr(message.inputs[place], field, value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: put(m, 0, name="person"), "inputs[0].name: 'person' is no input; allowed: user, items, context"),
        (lambda m: put(m, 0, name="items"), "input 'items': is given twice"),
        (lambda m: put(m, 0, name="x" * 99), "inputs[0].name: 'xxx"),
        (lambda m: (m.inputs.pop(), m.raw_input_contents.pop()), "input 'context': is missing"),
        (lambda m: put(m, 0, datatype="INT32"), "input 'user': datatype: 'INT32' is not allowed; allowed: INT64"),
        (lambda m: put(m, 0, datatype=""), "input 'user': datatype: '' is not allowed; allowed: INT64"),
        (lambda m: put(m, 0, shape=[2]), "input 'user': shape: [2] is not allowed; allowed: [-1, 1], where -1"),
        (lambda m: put(m, 0, shape=[2, 2]), "input 'user': shape: [2, 2] is not allowed; allowed: [-1, 1]"),
        (lambda m: put(m, 0, shape=[-2, 1]), "input 'user': shape: [-2, 1] is not allowed"),
        (lambda m: put(m, 0, shape=[1] * 99), "1, 1, …] is not allowed"),
        (lambda m: put(m, 1, shape=[0, 2**40]), "input 'items': shape: [0, 1099511627776] is empty and too large"),
        (lambda m: put(m, 1, shape=[3, 2]), "its dimension 'rows' is 2 in 'user', and must be the same"),
        (lambda m: put(m, 1, shape=[2, 2]), "raw_input_contents: 48 bytes; its shape takes 4 elements of 8 bytes"),
        (lambda m: m.raw_input_contents.pop(), "raw_input_contents: 2 entries for 3 inputs; allowed: none, or one"),
        (lambda m: m.inputs[0].contents.int64_contents.append(1), "input 'user': contents: are not allowed beside raw"),
        (lambda m: texts(m, b"\x01\0\0\0"), "input 'context': raw_input_contents: element 0 goes past the end"),
        (lambda m: texts(m, b"\x01\0"), "input 'context': raw_input_contents: element 0 goes past the end"),
        (lambda m: texts(m, text(b"a")), "input 'context': raw_input_contents: 1 elements; its shape takes 2"),
        (lambda m: texts(m, text(b"a") * 9), "raw_input_contents: more than 2 elements; its shape takes 2"),
        (lambda m: texts(m, text(b"a") + text(b"\xff")), "input 'context': element 1 is not UTF-8; allowed: UTF-8"),
        (lambda m: m.outputs.add(name="x"), "outputs[0].name: 'x' is no output; allowed: score, best, echoed"),
        (lambda m: [m.outputs.add(name="best") for _ in "ab"], "output 'best': is asked for twice"),
    ],
)
def test_what_does_not_fit_is_named(ranker: ModelService, change: Change, words: str) -> None:
    """INVALID_ARGUMENT says which tensor, what of it, and what is allowed: nothing is cast, nothing is reshaped."""
    message = good()
    change(message)
    code, said = refused(ranker, message)
    assert (code, words in said) == (Code.INVALID_ARGUMENT, True), said
    assert len(said) < 400


def text(element: bytes) -> bytes:
    return struct.pack("<I", len(element)) + element


def texts(message: ModelInferRequest, content: bytes) -> None:
    """Sets the raw elements of the texts."""
    message.raw_input_contents[2] = content


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.inputs[0].ClearField("contents"), "input 'user': contents: 0 elements; its shape takes 2"),
        (lambda m: m.inputs[0].contents.int64_contents.append(1), "contents.int64_contents: 3 elements; its shape ta"),
        (lambda m: m.inputs[0].contents.int_contents.append(1), "contents.int_contents: is not for INT64; allowed:"),
        (lambda m: m.inputs[2].contents.bytes_contents.append(b"x"), "contents.bytes_contents: 3 elements; its shape"),
    ],
)
def test_typed_contents_that_do_not_fit_are_named(ranker: ModelService, change: Change, words: str) -> None:
    """Elements in the list of another type are not passed over."""
    message = typed()
    change(message)
    code, said = refused(ranker, message)
    assert (code, words in said) == (Code.INVALID_ARGUMENT, True), said


@pytest.mark.parametrize(("kind", "value"), [("INT8", 128), ("INT16", -(2**15) - 1), ("UINT8", 256), ("UINT16", 2**16)])
def test_a_typed_element_outside_of_its_type_is_refused(tmp_path: Path, kind: str, value: int) -> None:
    """The wire's integers are wider than some types: what does not fit is no other number."""
    model = service(loaded(tmp_path, small_graphs.echo([kind])))
    message = request({f"in_{kind}": np.array([1], dtype_of(kind))}, typed=True)
    contents = message.inputs[0].contents
    values = contents.uint_contents if kind.startswith("U") else contents.int_contents
    values[0] = value
    code, said = refused(model, message)
    assert (code, f"is outside of {kind}" in said) == (Code.INVALID_ARGUMENT, True), said


def test_half_precision_has_no_typed_form_and_a_truth_value_is_0_or_1(echo: ModelService) -> None:
    """Both are said by name."""
    inputs = {f"in_{kind}": np.ones((1, 1), dtype_of(kind)) for kind in NUMBERS}
    inputs["in_BYTES"] = np.array([["x"]], dtype=object)
    message = request(inputs)
    message.raw_input_contents[NUMBERS.index("BOOL")] = b"\x02"
    assert "a byte is neither 0 nor 1" in refused(echo, message)[1]
    message = request({name: array for name, array in inputs.items() if name != "in_FP16"}, typed=True)
    half = message.inputs.add(name="in_FP16", datatype="FP16", shape=[1, 1])
    half.contents.fp32_contents.append(1)
    assert "is not for FP16; allowed: raw_input_contents" in refused(echo, message)[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda m: setattr(m.parameters["sequence_id"], "int64_param", 7),
            "parameters[sequence_id]: sequences are",
        ),
        (lambda m: setattr(m.parameters["sequence_id"], "string_param", "s"), "parameters[sequence_id]"),
        (
            lambda m: setattr(m.inputs[0].parameters["shared_memory_region"], "string_param", "r"),
            "input 'user': shared memory is not served",
        ),
        (
            lambda m: setattr(m.outputs.add(name="best").parameters["classification"], "int64_param", 3),
            "output 'best': parameters[classification]: is not served",
        ),
    ],
)
def test_what_only_others_serve_is_unimplemented(ranker: ModelService, change: Change, words: str) -> None:
    """An extension that would change the answer is refused and never passed over; one that is switched off is none."""
    message = good()
    change(message)
    code, said = refused(ranker, message)
    assert (code, words in said) == (Code.UNIMPLEMENTED, True), said
    harmless = good()
    harmless.parameters["sequence_id"].int64_param = 0
    harmless.parameters["tenant"].string_param = "a"
    harmless.inputs[0].parameters["note"].bool_param = True
    call = lone(harmless)
    ranker.answer([call])
    assert arrays(answered(call))["best"].shape == (2, 1)


def test_outputs_come_as_asked(ranker: ModelService) -> None:
    """In the order that was asked for, and none that was not; the id comes back, with name and version."""
    message = good()
    message.id = "call-7"
    for name in ("echoed", "score"):
        message.outputs.add(name=name)
    call = lone(message)
    ranker.answer([call])
    answer = answered(call)
    assert (answer.id, answer.model_name, answer.model_version) == ("call-7", "recommender", "v2")
    assert list(arrays(answer)) == ["echoed", "score"]
    assert arrays(answer)["echoed"].tolist() == ["a", "é"]


def test_bytes_that_are_no_request_are_refused(ranker: ModelService) -> None:
    """As any other request that cannot be read."""
    call = lone(good())
    call.payload = b"\xff\xff"
    ranker.answer([call])
    assert call.only == (
        Code.INVALID_ARGUMENT,
        "request: the bytes are not an inference.ModelInferRequest; its strings must be UTF-8",
    )


@pytest.mark.parametrize(
    ("name", "version", "words"),
    [
        ("other", "", "model_name: 'other' is not served; allowed: recommender"),
        ("recommender", "v9", "model_version: 'v9' is not served; allowed: v2, production, or none"),
        ("recommender", "v2", ""),
        ("recommender", "production", ""),
        ("recommender", "", ""),
    ],
)
def test_a_model_is_found_by_its_name_and_version(ranker: ModelService, name: str, version: str, words: str) -> None:
    """Alone, a worker serves one name, and its version, its alias or none; the rest is NOT_FOUND."""
    model = service(ranker.model, alias="production")  # type: ignore[arg-type]
    message = good()
    message.model_name, message.model_version = name, version
    call = FakeCall(lone(message).method, message.SerializeToString())
    model.answer([call])
    if words:
        assert call.only == (Code.NOT_FOUND, words)
    else:
        assert answered(call).model_version == "v2"
