"""Calls whose items have names: passed on unread, answered, and logged by name; one kind in a request."""

import struct
from typing import Any

import orjson
import pytest
from abfleet_experiments.config import LoggedOutputs
from abfleet_log.schema import problems
from abfleet_protos.inference_pb2 import ModelInferResponse
from abfleet_protos.recommender_pb2 import RecommendRequest, RecommendResponse
from abfleet_protos.worker_pb2 import RecommendBatchResponse
from abfleet_router.calls import infer_answer
from abfleet_router.calls.infer_answer import LoggedTensors, NamedItems
from abfleet_router.calls.log_line import tensors

from tests.router.bench import Bench
from tests.router.stories import Make, line_of

HOSTILE = ['"', "\\", "a\nb", "用户", "%d%s", "3"]


async def answer(bench: Bench, *items: str) -> None:
    """Each open batch gets these items for every request."""
    response = RecommendResponse(items=items, scores=[1.0] * len(items)).SerializeToString()
    for replica, sent in bench.open_batches():
        responses = [response] * len(sent.requests)
        sent.answer(RecommendBatchResponse(model_version=replica.version, responses=responses).SerializeToString())


async def test_names_pass_through_and_are_logged(make_bench: Make) -> None:
    """The worker gets the caller's bytes, the caller the worker's, and the line is what the schema allows."""
    bench = await make_bench()
    payload = RecommendRequest(items=[*HOSTILE], user_id="on-v1", request_id="r1").SerializeToString()
    call = bench.call(payload=payload)
    await bench.arrive(call)
    ((_, sent),) = bench.open_batches()
    assert sent.requests == (payload,)
    await answer(bench, *HOSTILE)
    assert (list(call.response.items), call.response.request_id, call.response.model_version) == (HOSTILE, "r1", "v1")
    line = line_of(bench, call)
    assert (line["items"], line["item_names"], line["history_length"]) == (None, HOSTILE, len(HOSTILE))
    assert problems(line) == []


async def test_an_empty_answer_is_an_empty_list(make_bench: Make) -> None:
    """Of which kind, nobody can tell, and nothing depends on it."""
    bench = await make_bench()
    call = bench.call(payload=RecommendRequest(user_id="on-v1", request_id="r1").SerializeToString())
    await bench.arrive(call)
    await answer(bench)
    line = line_of(bench, call)
    assert (line["items"], "item_names" in line, line["history_length"]) == ([], False, 0)


async def test_one_kind_in_one_request(make_bench: Make) -> None:
    """Both are refused before any worker is asked; the field is named, and the log keeps no name."""
    bench = await make_bench()
    both = RecommendRequest(item_ids=[1], items=["a secret"], user_id="on-v1", request_id="r1").SerializeToString()
    call = bench.call(payload=both)
    await bench.arrive(call)
    (failed,) = call.answers
    assert not isinstance(failed, bytes)
    said = (
        "items: 'a secret' is not allowed; allowed: names in items, or numbers in item_ids, but not both in one request"
    )
    assert (failed.code.name, failed.message) == ("INVALID_ARGUMENT", said)
    assert bench.open_batches() == []
    (line,) = [line for line in bench.log.lines if line["event"] == "rejected"]
    assert (line["field"], "secret" in orjson.dumps(line).decode()) == ("items", False)


async def test_a_name_that_is_no_utf8_is_named(make_bench: Make) -> None:
    """As the other strings of a request are."""
    bench = await make_bench()
    call = bench.call(payload=b"\x32\x02\xff\xfe")
    await bench.arrive(call)
    (failed,) = call.answers
    assert not isinstance(failed, bytes)
    assert failed.message.startswith("items: ")


@pytest.mark.parametrize("typed", [True, False])
def test_texts_of_tensors_are_names(*, typed: bool) -> None:
    """The first hundred of them, without padding and without what is no name; other text outputs are not logged."""
    texts = ["a", "", "é", "x" * 257, *(f"n{number}" for number in range(200))]
    response = ModelInferResponse()
    for name in ("item_ids", "other"):
        tensor = response.outputs.add(name=name, datatype="BYTES", shape=[1, len(texts)])
        if typed:
            tensor.contents.bytes_contents.extend([text.encode() for text in texts])
        else:
            parts = [struct.pack("<I", len(text.encode())) + text.encode() for text in texts]
            response.raw_output_contents.append(b"".join(parts))
    logged = infer_answer.logged(response.SerializeToString(), LoggedOutputs("item_ids", ("other",)))
    assert logged == LoggedTensors(NamedItems(["a", "é", *(f"n{number}" for number in range(96))]), {})
    items, outputs = tensors(logged)
    line: dict[str, Any] = orjson.loads(b'{"items":' + items + outputs + b"}")
    assert (line["items"], line["item_names"][:2]) == (None, ["a", "é"])


def test_a_cut_text_is_no_name() -> None:
    """A worker that counts wrongly breaks no line."""
    response = ModelInferResponse()
    response.outputs.add(name="item_ids", datatype="BYTES", shape=[3])
    response.raw_output_contents.append(struct.pack("<I", 1) + b"a" + struct.pack("<I", 9) + b"cut" + b"\0")
    assert infer_answer.logged(response.SerializeToString(), LoggedOutputs("item_ids", ())).items == NamedItems(["a"])
