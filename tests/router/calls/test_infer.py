"""ModelInfer through the router: what is read of a request and added to an answer, who answers it, what is logged."""

import struct
from collections.abc import Mapping
from typing import Any

import pytest
from abfleet_protos.inference_pb2 import ModelInferRequest, ModelInferResponse
from abfleet_protos.worker_pb2 import InferBatchResponse
from abfleet_router.calls.wire import MOST_FIELDS
from abfleet_router.fleet.batch import INFER, RECOMMEND
from abfleet_router.fleet.failure import BatchFailed, FailureReason
from abfleet_transport.call import Code, Metadata
from hypothesis import given
from hypothesis import strategies as st

from tests.router.bench import CONFIG, Bench
from tests.router.fakes import FakeCall, Sent, turns

LOGGED = CONFIG + "log: {items: item_ids, outputs: [score, odd, missing]}\n"


def message(**fields: Any) -> ModelInferRequest:
    """A request for a small model."""
    parameters: Mapping[str, Any] = fields.pop("parameters", {})
    made = ModelInferRequest(**{"model_name": "recommender", "raw_input_contents": [b"\1\2\3\4"], **fields})
    made.inputs.add(name="x", datatype="FP32", shape=[1])
    for name, value in parameters.items():
        kind = {str: "string_param", bool: "bool_param", int: "int64_param", float: "double_param"}[type(value)]
        setattr(made.parameters[name], kind, value)
    return made


def infer(bench: Bench, made: ModelInferRequest | bytes, *, metadata: Metadata = (), seconds: float = 10) -> FakeCall:
    """A call of ModelInfer that has not been delivered yet."""
    payload = made if isinstance(made, bytes) else made.SerializeToString()
    call = bench.call(payload=payload, metadata=metadata, seconds=seconds)
    call.method = 1
    return call


def tensors(request: bytes) -> bytes:
    """A worker's answer, with a parameter and a name that are not for the caller."""
    made = ModelInferResponse(raw_output_contents=[struct.pack("<3q", 7, 8, 9), struct.pack("<2f", 0.5, float("nan"))])
    made.outputs.add(name="item_ids", datatype="INT64", shape=[3])
    made.outputs.add(name="score", datatype="FP32", shape=[2])
    made.outputs.add(name="odd", datatype="BYTES", shape=[0])
    made.parameters["experiment"].string_param = "the worker's own"
    made.parameters["kept"].int64_param = 5
    made.model_name = made.id = "of the worker"
    encoded: bytes = made.SerializeToString()
    return encoded


def answer_to(version: str, sent: Sent, failures: Mapping[int, tuple[Code, str]] | None = None) -> bytes:
    """What a worker answers to a batch, or to a call alone."""
    if sent.path == INFER.alone:
        return tensors(sent.message) + ModelInferResponse(model_version=version).SerializeToString()
    failed = failures or {}
    batch = InferBatchResponse(
        model_version=version,
        responses=[b"" if index in failed else tensors(one) for index, one in enumerate(sent.requests)],
    )
    for index, (code, text) in failed.items():
        batch.failures[index].code, batch.failures[index].message = code, text
    encoded: bytes = batch.SerializeToString()
    return encoded


async def work(bench: Bench, failures: Mapping[int, tuple[Code, str]] | None = None) -> int:
    """Workers answer all that they have been sent; gives the number of batches."""
    batches = bench.open_batches()
    for replica, sent in batches:
        sent.answer(answer_to(replica.version, sent, failures))
    await turns()
    return len(batches)


def answered(call: FakeCall) -> ModelInferResponse:
    """The only answer, which must be a success."""
    assert isinstance(call.only, bytes), call.only
    return ModelInferResponse.FromString(call.only)


async def opened(config: str = CONFIG) -> Bench:
    bench = Bench(config=config)
    await bench.open()
    return bench


async def test_an_answer_says_who_served() -> None:
    """Names, id, experiment and group are the router's, whatever the worker said; all else is the worker's."""
    bench = await opened()
    call = infer(bench, message(id="r-1"), metadata=(("x-user-id", "on-v2"),))
    await bench.arrive(call)
    ((_, sent),) = bench.open_batches("v2")
    assert (sent.path, sent.requests) == (INFER.path, (call.payload,))
    await work(bench)
    answer = answered(call)
    assert (answer.model_name, answer.model_version, answer.id) == ("recommender", "v2", "r-1")
    assert answer.parameters["experiment"].string_param == "ranking"
    assert answer.parameters["group"].string_param == "experiment"
    assert answer.parameters["kept"].int64_param == 5
    assert [one.name for one in answer.outputs] == ["item_ids", "score", "odd"]
    (line,) = bench.log.exposures()
    assert bench.log.problems == []
    assert (line["method"], line["items"], line["history_length"]) == ("infer", None, None)
    assert "outputs" not in line
    assert (line["request_id"], line["user_id"], line["experiment"]) == ("r-1", "on-v2", "ranking")
    assert bench.rpc.handled(1) == {"OK": 1}
    bench.nothing_is_left()
    await bench.close()


async def test_what_the_file_names_is_logged() -> None:
    """Items are those of the output that `log` names, numbers those of its outputs; what is no number is left out."""
    bench = await opened(LOGGED)
    await bench.arrive(infer(bench, message(parameters={"user_id": "on-v1"})))
    await work(bench)
    (line,) = bench.log.exposures()
    assert bench.log.problems == []
    assert (line["items"], line["outputs"]) == ([7, 8, 9], {"score": [0.5, None]})
    await bench.close()


async def test_a_version_says_what_is_logged_of_it() -> None:
    """The version that served counts, not the file's default."""
    own = LOGGED.replace('v3: {target: "10.0.2.1:1"}', 'v3: {target: "10.0.2.1:1", log: {outputs: [item_ids]}}')
    bench = await opened(own)
    await bench.arrive(infer(bench, message(parameters={"user_id": "on-v3"})))
    await work(bench)
    (line,) = bench.log.exposures()
    assert (line["items"], line["outputs"]) == (None, {"item_ids": [7, 8, 9]})
    await bench.close()


async def test_a_named_version_answers_or_nobody() -> None:
    """It is asked whoever calls; where it cannot answer nobody does. The log says that nothing was assigned."""
    bench = await opened()
    first, second = (infer(bench, message(model_version="v3", parameters={"user_id": "on-v1"})) for _ in range(2))
    await bench.arrive(first)
    assert [replica.version for replica, _ in bench.open_batches()] == ["v3"]
    await work(bench)
    assert answered(first).model_version == "v3"
    assert answered(first).parameters["experiment"].string_param == ""
    await bench.arrive(second)
    while bench.open_batches():
        assert {replica.version for replica, _ in bench.open_batches()} == {"v3"}
        await bench.fail("v3", BatchFailed(FailureReason.MODEL_ERROR, "broken", connection_broke=False))
    assert second.code is Code.UNAVAILABLE
    lines = bench.log.exposures()
    assert bench.log.problems == []
    assert [(line["reason"], line["experiment"], line["model_version"], line["status"]) for line in lines] == [
        ("pinned", None, "v3", "OK"),
        ("pinned", None, "v3", "UNAVAILABLE"),
    ]
    assert [(line["served_version"], line["fallback"]) for line in lines] == [("v3", None), (None, None)]
    await bench.close()


@pytest.mark.parametrize(
    ("made", "code", "words"),
    [
        (message(model_name="other"), Code.NOT_FOUND, "model_name: 'other' is not allowed; allowed: recommender"),
        (message(model_version="v9"), Code.NOT_FOUND, "model_version: 'v9' is not allowed; allowed: v1, v2, v3, or"),
        (message(id="x" * 129), Code.INVALID_ARGUMENT, "id: "),
        (message(parameters={"user_id": 7}), Code.INVALID_ARGUMENT, "parameters[user_id]: "),
        (message(parameters={"user_id": "a\nb"}), Code.INVALID_ARGUMENT, "parameters[user_id]: "),
        (message(parameters={"sequence_id": 7}), Code.UNIMPLEMENTED, "parameters[sequence_id]: "),
        (b"\x0a\xff", Code.INVALID_ARGUMENT, "request: "),
        (b"\x0a\x01\xff", Code.INVALID_ARGUMENT, "request: "),
        (b"\x2a\x00" * (MOST_FIELDS + 1), Code.INVALID_ARGUMENT, "request: "),
        (b"\x0a" * 40, Code.INVALID_ARGUMENT, "request: "),
    ],
)
async def test_what_cannot_be_served_is_named(made: ModelInferRequest | bytes, code: Code, words: str) -> None:
    """Each refusal has its code, names what is wrong, asks no worker, and is on record."""
    bench = await opened()
    call = infer(bench, made)
    await bench.arrive(call)
    assert call.code is code
    assert words in str(call.only)
    assert not bench.open_batches()
    assert [line["event"] for line in bench.log.lines] == ["rejected"]
    assert bench.log.problems == []
    await bench.close()


async def test_who_calls_and_with_what_attributes() -> None:
    """Metadata wins over the parameter; the first 32 short texts, truth values and whole numbers are attributes."""
    bench = await opened(CONFIG.replace("[country]", "[country, premium, age, weight, long, a10, a30, a40]"))
    many = {f"a{49 - number}": "x" for number in range(50)}
    facts = {"country": "DE", "premium": True, "age": -3, "weight": 1.5, "long": "x" * 257}
    by_metadata = infer(
        bench, message(parameters={"user_id": "on-v1", **facts}), metadata=(("x-user-id-bin", b"on-v2"),)
    )
    await bench.arrive(by_metadata, infer(bench, _in_order({"user_id": "on-v3", **many})))
    await work(bench)
    first, second = sorted(bench.log.exposures(), key=lambda line: line["user_id"])
    assert (first["user_id"], second["user_id"]) == ("on-v2", "on-v3")
    assert first["attributes"] == {"country": "DE", "premium": "true", "age": "-3"}
    assert second["attributes"] == {"a30": "x", "a40": "x"}
    await bench.close()


def _in_order(parameters: Mapping[str, Any]) -> bytes:
    """A request whose parameters lie in this order, as a map that is serialised at once does not promise."""
    parts = [message().SerializeToString()]
    for name, value in parameters.items():
        parts.append(message(parameters={name: value}, raw_input_contents=[]).SerializeToString())
    return b"".join(part if index == 0 else _parameter_alone(part) for index, part in enumerate(parts))


def _parameter_alone(payload: bytes) -> bytes:
    made = ModelInferRequest.FromString(payload)
    for field in ("model_name", "inputs"):
        made.ClearField(field)
    encoded: bytes = made.SerializeToString()
    return encoded


async def test_batches_are_of_one_method_and_bounded() -> None:
    """Calls of two methods for one replica go in batches of their own; large ones are not joined beyond the bound."""
    bench = await opened()
    bench.draw = lambda: 0.0
    large = message(raw_input_contents=[bytes(INFER.most_bytes // 2)])
    user = (("x-user-id", "on-v3"),)
    held = bench.call("on-v3")
    await bench.arrive(held)
    calls = [infer(bench, one, metadata=user) for one in (message(), large, large, large)]
    recommend = bench.call("on-v3")
    await bench.arrive(*calls, recommend)
    paths, sizes = [], []
    while batches := bench.open_batches("v3"):
        ((replica, sent),) = batches
        paths.append(sent.path)
        sizes.append(len(sent.requests))
        if sent.path == RECOMMEND.path:
            await bench.answer()
        else:
            sent.answer(answer_to(replica.version, sent))
            await turns()
    assert list(zip(paths, sizes, strict=True)) == [
        (RECOMMEND.path, 1),
        (INFER.path, 2),
        (INFER.path, 1),
        (INFER.path, 1),
        (RECOMMEND.path, 1),
    ]
    assert all(call.code is Code.OK for call in (*calls, recommend, held))
    bench.nothing_is_left()
    await bench.close()


async def test_a_worker_without_the_batch_is_asked_one_by_one() -> None:
    """It says so once; then each call goes alone, several at a time, with the caller's bytes."""
    bench = await opened()
    user = (("x-user-id", "on-v3"),)
    first = [infer(bench, message(id=f"r-{number}"), metadata=user) for number in range(3)]
    await bench.arrive(*first)
    unknown = BatchFailed(FailureReason.MODEL_ERROR, "x", connection_broke=False, code=Code.UNIMPLEMENTED)
    await bench.fail("v3", unknown)
    sent = [one for _, one in bench.open_batches("v3")]
    assert [(one.path, one.message) for one in sent] == [(INFER.alone, call.payload) for call in first]
    wrong = BatchFailed(
        FailureReason.MODEL_ERROR,
        "INVALID_ARGUMENT: input 'x': is odd",
        connection_broke=False,
        code=Code.INVALID_ARGUMENT,
    )
    sent[1].fail(wrong)
    await work(bench)
    assert [call.code for call in first] == [Code.OK, Code.INVALID_ARGUMENT, Code.OK]
    assert "message=\"input 'x': is odd\"" in str(first[1].only)
    assert answered(first[0]).id == "r-0"
    assert bench.replica("v3").record.failures_in_a_row == 0
    assert [line["attempts"] for line in bench.log.exposures()] == [1, 1, 1]
    bench.nothing_is_left()
    await bench.close()


@pytest.mark.parametrize("code", [Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION, Code.UNIMPLEMENTED])
async def test_a_callers_fault_is_no_fault_of_the_worker(code: Code) -> None:
    """The caller gets it as the worker gave it, at once; the replica's record stays clean."""
    bench = await opened()
    call = infer(bench, message(), metadata=(("x-user-id", "on-v3"),))
    await bench.arrive(call)
    await work(bench, {0: (code, "why")})
    assert (call.code, call.only.message if not isinstance(call.only, bytes) else "") == (code, "why")
    assert bench.replica("v3").record.failures_in_a_row == 0
    (line,) = bench.log.exposures()
    assert (line["status"], line["attempts"]) == (code.name, 1)
    await bench.close()


async def test_a_model_that_cannot_recommend_is_not_ejected() -> None:
    """FAILED_PRECONDITION of Recommend, as a worker of a model of tensors says, goes to the caller likewise."""
    bench = await opened()
    call = bench.call("on-v3")
    await bench.arrive(call)
    await bench.answer("v3", {0: (Code.FAILED_PRECONDITION, "call ModelInfer")})
    assert call.code is Code.FAILED_PRECONDITION
    assert bench.replica("v3").record.failures_in_a_row == 0
    await bench.close()


async def test_an_answer_without_room_is_asked_for_again() -> None:
    """As often as it takes, as long as others are answered with each batch; no attempt and no failure is counted."""
    bench = await opened()
    calls = [infer(bench, message(), metadata=(("x-user-id", "on-v3"),)) for _ in range(4)]
    await bench.arrive(*calls)
    rounds = 0
    while batches := bench.open_batches():
        ((_, sent),) = batches
        full = (Code.UNAVAILABLE, "no room")
        await work(bench, dict.fromkeys(range(1, len(sent.requests)), full))
        rounds += 1
    assert rounds == 4
    assert all(call.code is Code.OK for call in calls)
    assert {line["attempts"] for line in bench.log.exposures()} == {1}
    assert bench.replica("v3").record.failures_in_a_row == 0
    bench.nothing_is_left()
    await bench.close()


async def test_a_worker_that_never_has_room_ends_with_an_error() -> None:
    """Where a batch brings nobody an answer, asking again is bounded as after any failure."""
    bench = await opened()
    call = infer(bench, message(model_version="v3"))
    await bench.arrive(call)
    rounds = 0
    while bench.open_batches():
        await work(bench, {0: (Code.UNAVAILABLE, "no room")})
        rounds += 1
    assert call.code is Code.UNAVAILABLE
    assert 1 < rounds < 5
    await bench.close()


async def test_fallback_is_as_for_recommend() -> None:
    """The default version answers, the caller is told which, and the log says why."""
    bench = await opened(LOGGED)
    call = infer(bench, message(), metadata=(("x-user-id", "on-v3"),))
    await bench.arrive(call)
    await work(bench, {0: (Code.INTERNAL, "broken")})
    assert [replica.version for replica, _ in bench.open_batches()] == ["v1"]
    await work(bench)
    assert answered(call).model_version == "v1"
    assert answered(call).parameters["group"].string_param == "canary"
    (line,) = bench.log.exposures()
    assert (line["served_version"], line["fallback"], line["items"]) == ("v1", "model_error", [7, 8, 9])
    assert bench.replica("v3").record.failures_in_a_row == 1
    await bench.close()


async def test_bytes_that_are_no_answer_are_the_workers_fault() -> None:
    """They never reach a caller."""
    bench = await opened()
    call = infer(bench, message(), metadata=(("x-user-id", "on-v3"),))
    await bench.arrive(call)
    ((_, sent),) = bench.open_batches()
    sent.answer(InferBatchResponse(model_version="v3", responses=[b"\x0a\xff"]).SerializeToString())
    await turns()
    await work(bench)
    assert answered(call).model_version == "v1"
    await bench.close()


async def test_a_request_is_not_kept_until_its_line_is_written() -> None:
    """Hundreds of calls wait for their lines, and each may be 16 MiB."""
    bench = await opened()
    first, second = (infer(bench, message(), metadata=(("x-user-id", "on-v3"),)) for _ in range(2))
    await bench.arrive(first)
    await work(bench)
    await bench.arrive(second)
    await work(bench, {0: (Code.INVALID_ARGUMENT, "no")})
    assert (first.payload, second.payload) == (b"", b"")
    await bench.close()


@given(
    st.lists(st.binary(max_size=40), max_size=4),
    st.text(max_size=20),
    st.dictionaries(st.text(max_size=8), st.one_of(st.text(max_size=8), st.booleans(), st.floats()), max_size=5),
)
async def test_requests_travel_byte_for_byte(raw: list[bytes], request_id: str, parameters: dict[str, Any]) -> None:
    """Whatever a request has, the worker gets the caller's bytes."""
    made = message(raw_input_contents=raw, id=request_id, parameters={**parameters, "user_id": "on-v3"})
    bench = await opened()
    call = infer(bench, made)
    payload = call.payload
    await bench.arrive(call)
    if "sequence_id" not in parameters:
        ((_, sent),) = bench.open_batches()
        assert sent.requests == (payload,)
    await work(bench)
    await bench.close()
