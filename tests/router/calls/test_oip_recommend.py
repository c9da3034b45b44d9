"""Recommend as tensors: what is sent, and which answers are recommendations."""

import math
import struct
from typing import Any

import pytest
from abfleet_protos.inference_pb2 import ModelInferRequest, ModelInferResponse
from abfleet_protos.recommender_pb2 import RecommendRequest, RecommendResponse
from abfleet_router.calls.oip_recommend import NotRecommended, as_infer, recommendation
from abfleet_router.calls.wire import WireError
from abfleet_transport.call import Code

INF = math.inf


def answer(items: list[int], scores: list[float], *, kinds: tuple[str, str] = ("INT64", "FP32")) -> bytes:
    """Two outputs, raw."""
    forms = {"INT64": "q", "INT32": "i", "UINT64": "Q", "FP32": "f", "FP64": "d", "BYTES": "q", "BOOL": "?"}
    made = ModelInferResponse()
    for name, kind, values in (("item_ids", kinds[0], items), ("scores", kinds[1], scores)):
        made.outputs.add(name=name, datatype=kind, shape=[1, len(values)])
        made.raw_output_contents.append(struct.pack(f"<{len(values)}{forms[kind]}", *values))
    encoded: bytes = made.SerializeToString()
    return encoded


def recommended(response: bytes, limit: int = 0) -> tuple[list[int], list[float]]:
    made = RecommendResponse.FromString(recommendation(response, RecommendRequest(limit=limit).SerializeToString()))
    return list(made.item_ids), list(made.scores)


@pytest.mark.parametrize("history", [[], [7], list(range(1, 1001)), [2**63 - 1, 1]])
def test_a_history_is_a_tensor(history: list[int]) -> None:
    """INT64 [1, n], also of nobody's history."""
    payload = RecommendRequest(item_ids=history, user_id="u", limit=3).SerializeToString()
    sent = ModelInferRequest.FromString(as_infer(payload, "r-1", named=False))
    assert (sent.id, sent.model_name, len(sent.inputs), dict(sent.parameters)) == ("r-1", "", 1, {})
    assert (sent.inputs[0].name, sent.inputs[0].datatype, list(sent.inputs[0].shape)) == (
        "history",
        "INT64",
        [1, len(history)],
    )
    assert list(struct.unpack(f"<{len(history)}q", sent.raw_input_contents[0])) == history


@pytest.mark.parametrize(
    ("items", "scores", "limit", "found"),
    [
        ([3, 2, 1], [3.0, 2.0, 1.0], 2, ([3, 2], [3.0, 2.0])),
        ([3, 2, 1], [3.0, 2.0, 1.0], 100, ([3, 2, 1], [3.0, 2.0, 1.0])),
        (list(range(1, 21)), [0.5] * 20, 0, (list(range(1, 11)), [0.5] * 10)),
        ([3, 0, 1], [3.0, 2.0, 1.0], 0, ([3], [3.0])),
        ([3, 2, 1], [3.0, -INF, 1.0], 0, ([3], [3.0])),
        ([0], [1.0], 0, ([], [])),
        ([], [], 0, ([], [])),
        ([3, -1], [3.0, 2.0], 1, ([3], [3.0])),
    ],
)
def test_a_list_is_what_a_worker_would_make_of_it(
    items: list[int], scores: list[float], limit: int, found: tuple[list[int], list[float]]
) -> None:
    """As many as are wanted, up to an id 0 or a score -inf."""
    assert recommended(answer(items, scores), limit) == found


@pytest.mark.parametrize("kinds", [("INT32", "FP64"), ("UINT64", "FP32")])
def test_other_numbers_do(kinds: tuple[str, str]) -> None:
    """Whatever holds ids and scores."""
    assert recommended(answer([3, 2], [3.0, 2.0], kinds=kinds)) == ([3, 2], [3.0, 2.0])


def test_names_are_texts() -> None:
    """Histories and items of a server whose items have names are BYTES; an empty history is of the server's kind."""
    payload = RecommendRequest(items=["a", "é"]).SerializeToString()
    for named in (False, True):
        sent = ModelInferRequest.FromString(as_infer(payload, "r", named=named))
        assert (sent.inputs[0].datatype, list(sent.inputs[0].shape)) == ("BYTES", [1, 2])
        assert sent.raw_input_contents[0] == b"\x01\0\0\0a\x02\0\0\0" + "é".encode()
        cold = ModelInferRequest.FromString(as_infer(b"", "r", named=named))
        assert (cold.inputs[0].datatype, list(cold.inputs[0].shape)) == ("BYTES" if named else "INT64", [1, 0])
    made = ModelInferResponse()
    made.outputs.add(name="item_ids", datatype="BYTES", shape=[1, 3]).contents.bytes_contents.extend([b"x", b"y", b""])
    made.outputs.add(name="scores", datatype="FP32", shape=[1, 3]).contents.fp32_contents.extend([2, 1, 0])
    found = RecommendResponse.FromString(recommendation(made.SerializeToString(), b""))
    assert (list(found.items), list(found.item_ids), list(found.scores)) == (["x", "y"], [], [2, 1])


def test_elements_may_be_typed() -> None:
    """As KServe sends them."""
    made = ModelInferResponse()
    made.outputs.add(name="item_ids", datatype="INT64", shape=[1, 2]).contents.int64_contents.extend([5, 4])
    made.outputs.add(name="scores", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([2, 1])
    assert recommended(made.SerializeToString()) == ([5, 4], [2.0, 1.0])


@pytest.mark.parametrize(
    ("response", "code", "words"),
    [
        (answer([-1], [1.0]), Code.INTERNAL, "item -1 with score 1.0"),
        (answer([1], [math.nan]), Code.INTERNAL, "item 1 with score nan"),
        (answer([1], [INF]), Code.INTERNAL, "item 1 with score inf"),
        (answer([2**63], [1.0], kinds=("UINT64", "FP32")), Code.INTERNAL, "item 9223372036854775808"),
        (answer([1], [1.0], kinds=("BOOL", "FP32")), Code.FAILED_PRECONDITION, "no numbers in an output `item_ids`"),
        (ModelInferResponse().SerializeToString(), Code.FAILED_PRECONDITION, "no numbers in an output `item_ids`"),
    ],
)
def test_what_is_no_recommendation_is_refused(response: bytes, code: Code, words: str) -> None:
    """The model's kind with FAILED_PRECONDITION, a bad value as the server's fault."""
    with pytest.raises(NotRecommended, match=words) as raised:
        recommended(response)
    assert raised.value.code is code


def test_bytes_that_are_no_message_are_refused() -> None:
    with pytest.raises(WireError):
        recommended(b"\x0a\xff")


def test_lists_of_two_lengths_end_with_the_shorter() -> None:
    """What has no score is no recommendation."""
    found: Any = recommended(answer([3, 2, 1], [3.0]))
    assert found == ([3], [3.0])
