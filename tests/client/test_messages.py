"""Arguments become messages, or an error that names field, value and what is allowed; tensors come back whole."""

import struct
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from abfleet_client import InvalidArgument, Outcome, Tensor
from abfleet_client.messages import (
    call_metadata,
    complete,
    infer_request,
    inference,
    make_outcome,
    outcome_message,
    recommend_request,
)
from abfleet_client.tensor import ARRAY_TYPES, CODES
from abfleet_protos.inference_pb2 import ModelInferResponse


def asked(**changed: Any) -> Any:
    given = {"user_id": "u", "items": (), "limit": 10, "attributes": {}, "request_id": "r"}
    return recommend_request(**(given | changed))


def test_items_are_numbers_or_names() -> None:
    """Whole numbers of any library; texts go into the field for names."""
    assert list(asked(items=[1, np.int64(2)]).item_ids) == [1, 2]
    assert list(asked(items=("red", "blau ü")).items) == ["red", "blau ü"]
    assert list(asked(items=range(3)).item_ids) == [0, 1, 2]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"items": "red"}, "items: 'red' is not allowed; allowed: a sequence of whole numbers"),
        ({"items": [1, "red"]}, "items: "),
        ({"items": ["red", 1]}, "items: "),
        ({"items": [1.5]}, "items: "),
        ({"items": [True]}, "items: "),
        ({"items": [2**63]}, "items: "),
        ({"items": ["\ud800"]}, "items: "),
        ({"limit": 0}, "limit: 0 is not allowed; allowed: 1 to 100"),
        ({"limit": True}, "limit: True"),
        ({"user_id": 14}, "user_id: 14 is not allowed; allowed: a text"),
        ({"user_id": "\ud800"}, "user_id: .* UTF-8"),
        ({"attributes": {"country": 1}}, r"attributes\['country'\]: 1 is not allowed; allowed: a text"),
    ],
)
def test_what_fits_no_message(changed: dict[str, Any], said: str) -> None:
    """It is refused here: a message would say nothing of the field."""
    with pytest.raises(InvalidArgument, match=said):
        asked(**changed)


def test_a_value_is_cut() -> None:
    """To 64 characters."""
    with pytest.raises(InvalidArgument) as raised:
        asked(items="x" * 1000)
    assert len(str(raised.value)) < 200


def test_an_item_of_an_outcome() -> None:
    """By number or by name; none at all; a time has an offset."""
    given: dict[str, Any] = {
        "user_id": "u", "request_id": "", "value": 0.0, "currency": "", "time": None, "outcome_id": "o"
    }  # fmt: skip
    found = [make_outcome("click", item=item, **given) for item in (7, "red", None)]
    assert [(one.item_id, one.item) for one in found] == [(7, ""), (0, "red"), (0, "")]
    at = datetime(2026, 11, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    one = make_outcome("click", item=None, **(given | {"time": at}))
    assert one.time == datetime(2026, 11, 1, tzinfo=UTC).timestamp() * 1e6


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"item": 1.5}, "item: 1.5 is not allowed"),
        ({"time": datetime(2026, 11, 1)}, "time: '2026-11-01T00:00:00' is not allowed; .* offset"),  # noqa: DTZ001
        ({"user_id": ""}, "user_id: '' is not allowed; allowed: a user_id, a request_id or both"),
    ],
)
def test_an_outcome_that_nobody_could_record(wrong: dict[str, Any], said: str) -> None:
    """It is refused at once, not in the background."""
    given: dict[str, Any] = {"user_id": "u", "request_id": "", "item": 1, "value": 0.0, "currency": "", "time": None}
    with pytest.raises(InvalidArgument, match=said):
        make_outcome("click", outcome_id="o", **(given | wrong))


def test_an_outcome_is_complete_before_it_is_sent() -> None:
    """It has an id and a time, so that a repeat is the same; what it has already is kept."""
    one = complete(Outcome(type="click", user_id="u"))
    assert one.outcome_id
    assert one.time
    assert complete(one) == one
    assert outcome_message(one).outcome_id == one.outcome_id
    with pytest.raises(InvalidArgument):
        complete(Outcome(type="click", user_id="u", value="much"))  # type: ignore[arg-type]


def test_metadata() -> None:
    """A user's id that is no printable ASCII travels as bytes; absent things are absent."""
    assert call_metadata(token="", synthetic=False) == ()
    assert call_metadata(token="t", synthetic=True, user_id="u 1", traceparent="00-1-2-01") == (
        ("authorization", "Bearer t"),
        ("x-synthetic", "1"),
        ("x-user-id", "u 1"),
        ("traceparent", "00-1-2-01"),
    )
    for user_id in ("ü", " u", "a\tb"):
        assert call_metadata(token="", synthetic=False, user_id=user_id) == (("x-user-id-bin", user_id.encode()),)


# --- tensors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("datatype", CODES)
def test_lists_and_arrays_are_the_same_bytes(datatype: str) -> None:
    """Whatever the byte order of the array; and they come back."""
    values = [[1, 0, 1], [0, 1, 1]]
    tensor = Tensor.of(values, datatype, (2, 3))
    for order in "<>":
        array = np.array(values, ARRAY_TYPES[datatype].replace("<", order))
        assert Tensor.of_array(array) == tensor
        assert Tensor.of_array(array.T.copy().T) == tensor  # columns lie side by side
    assert tensor.values() == [1, 0, 1, 0, 1, 1]
    assert tensor.numpy().tolist() == values
    assert tensor.numpy().dtype == np.dtype(ARRAY_TYPES[datatype])


def test_texts() -> None:
    """Lists and arrays of texts or bytes are BYTES, each with its length in front."""
    tensor = Tensor.of([["ü", b"b"]], "BYTES", (1, 2))
    assert tensor.raw == struct.pack("<I2sI1s", 2, "ü".encode(), 1, b"b")
    assert tensor.values() == ["ü".encode(), b"b"]
    assert tensor.numpy().tolist() == [["ü".encode(), b"b"]]
    assert Tensor.of_array(np.array([["ü", "b"]])) == tensor
    assert Tensor.of_array(np.array([["ü", b"b"]], dtype=object)) == tensor


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([1, 2], "FP32", (3,)), r"shape: \(3,\) is not allowed; allowed: sizes whose product is .* 2"),
        (([1], "FP32", (-1,)), "shape: "),
        (([1], "FLOAT", (1,)), "datatype: 'FLOAT' is not allowed; allowed: BOOL, "),
        ((["a"], "INT64", (1,)), r"values: \['a'\] is not allowed; allowed: elements of INT64"),
        (([300], "UINT8", (1,)), "values: "),
        (([1], "BYTES", (1,)), "values: 1 is not allowed; allowed: texts or bytes"),
    ],
)
def test_what_is_no_tensor(arguments: Any, said: str) -> None:
    """It is refused by field."""
    with pytest.raises(InvalidArgument, match=said):
        Tensor.of(*arguments)


def test_an_array_of_an_unknown_type() -> None:
    """Complex numbers have no datatype."""
    with pytest.raises(InvalidArgument, match="dtype: 'complex128'"):
        Tensor.of_array(np.array([1j]))


def test_inference_there_and_back() -> None:
    """Inputs by name, from tensors and arrays; attributes are parameters; an answer's tensors by name."""
    inputs = {"a": Tensor.of([1.0], "FP32", (1, 1)), "b": np.array([[2]])}
    message = infer_request(inputs, ["y"], "m", "v1", {"country": "de"}, "r")
    assert (message.model_name, message.model_version, message.id) == ("m", "v1", "r")
    assert [(one.name, one.datatype, list(one.shape)) for one in message.inputs] == [
        ("a", "FP32", [1, 1]),
        ("b", "INT64", [1, 1]),
    ]
    assert message.parameters["country"].string_param == "de"
    assert [one.name for one in message.outputs] == ["y"]
    answer = ModelInferResponse(model_version="v1", id="r", raw_output_contents=[struct.pack("<2f", 1, 2)])
    answer.outputs.add(name="y", datatype="FP32", shape=[2, 1])
    found = inference(answer)
    assert (found.model_version, found.request_id) == ("v1", "r")
    assert found.outputs["y"].numpy().tolist() == [[1.0], [2.0]]
    with pytest.raises(InvalidArgument, match=r"inputs\['a'\]: \[1.0\] is not allowed; allowed: a Tensor"):
        infer_request({"a": [1.0]}, (), "m", "", {}, "r")
