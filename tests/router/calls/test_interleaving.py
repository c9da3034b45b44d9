"""Lists out of two versions: who is asked, what the caller gets, what the log says, and what happens when one fails."""

import asyncio
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog
from abfleet_experiments.config import LoggedOutputs
from abfleet_experiments.file.load import load_text
from abfleet_experiments.team_draft import team_draft
from abfleet_protos.inference_pb2 import ModelInferResponse
from abfleet_protos.recommender_pb2 import RecommendResponse
from abfleet_protos.worker_pb2 import InferBatchResponse, RecommendBatchResponse
from abfleet_router.calls import interleaving
from abfleet_router.calls.drafted_answer import NotDrafted, Toss, drafted_inference, drafted_recommendation
from abfleet_router.calls.infer_answer import DraftedItems, NamedItems
from abfleet_router.calls.log_line import listed
from abfleet_router.fleet.failure import BatchFailed
from abfleet_router.fleet.health_watch import ReplicaHealth
from abfleet_router.settings import RoutingSettings
from abfleet_transport.call import Code
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.router.bench import Bench
from tests.router.calls.test_held_answers import RefusingBench
from tests.router.calls.test_infer import infer, message
from tests.router.fakes import FakeCall, Sent, broken, turns, worker_answer
from tests.router.stories import MODEL_ERROR, OVERLOADED, TIMED_OUT, Make, line_of

CONFIG = """
version: 1
default: v1
log: {items: item_ids}
models:
  v1: {target: "10.0.0.1:1"}
  v2: {target: "10.0.1.1:1"}
  v3: {target: "10.0.2.1:1"}
experiments:
  - name: duel
    salt: s
    interleave: [v1, v2]
    overrides: {forced: interleaved}
    layer: a
    traffic: 50
  - name: ranking
    layer: b
    overrides: {on-v3: three}
    groups: [{name: three, model: v3, weight: 100}]
    traffic: 0
"""
THIRD = CONFIG.replace("[v1, v2]", "[v2, v3]")
"""The default is none of the two."""
Lists = Mapping[str, Sequence[Any]]
LISTS: Lists = {"v1": (1, 2, 3, 4), "v2": (1, 5, 2, 6), "v3": (7, 8, 9, 10)}


def answer_of(version: str, sent: Sent, lists: Lists | None = None) -> bytes:
    """What a worker says to a batch: the version's list, with scores that show whose it is."""
    items = (lists or LISTS)[version]
    named = bool(items) and isinstance(items[0], str)
    scores = [float(version[1]) + place / 8 for place in range(len(items))]
    one = RecommendResponse(scores=scores)
    (one.items if named else one.item_ids).extend(items)
    made = RecommendBatchResponse(model_version=version, responses=[one.SerializeToString()] * len(sent.requests))
    encoded: bytes = made.SerializeToString()
    return encoded


async def answer(bench: Bench, *versions: str, lists: Lists | None = None) -> None:
    """These versions answer all that they have been sent."""
    for version in versions:
        for _, sent in bench.open_batches(version):
            sent.answer(answer_of(version, sent, lists))
        await turns()


def draft_for(request_id: str, user_id: str = "forced", limit: int = 10, pair: tuple[str, str] = ("v1", "v2")) -> Any:
    first, second = (LISTS[version] for version in pair)
    return team_draft(first, second, limit, salt="s", user_id=user_id, request_id=request_id)


async def test_both_are_asked_at_once_and_answer_together(make_bench: Make) -> None:
    """The caller gets the draft of the two lists, with each item's own score; the line has both versions and teams."""
    bench = await make_bench(config=CONFIG)
    call = bench.call("forced", request_id="r1")
    await bench.arrive(call)
    assert {replica.version for replica, _ in bench.open_batches()} == {"v1", "v2"}
    assert all(sent.requests == (call.payload,) for _, sent in bench.open_batches())
    await answer(bench, "v1")
    assert call.answers == []
    bench.clock.advance(0.004)
    await answer(bench, "v2")
    wanted, response = draft_for("r1"), call.response
    assert tuple(response.item_ids) == wanted.items
    for item, letter, score in zip(wanted.items, wanted.teams, response.scores, strict=True):
        version = "v2" if letter == "B" or (letter == "=" and item not in LISTS["v1"]) else "v1"
        assert score == float(version[1]) + LISTS[version].index(item) / 8
    assert (response.request_id, response.experiment, response.group) == ("r1", "duel", "interleaved")
    assert response.model_version == ""
    line = line_of(bench, call)
    assert (line["versions"], line["teams"], line["items"]) == (["v1", "v2"], wanted.teams, list(wanted.items))
    assert (line["model_version"], line["served_version"], line["fallback"]) == (None, None, None)
    assert (line["reason"], line["propensity"], line["attempts"], line["status"]) == ("override", 1.0, 2, "OK")
    assert line["latency_ms"] == 4.0
    assert (bench.log.problems, bench.router.interleaving.pairs) == ([], {})
    bench.nothing_is_left()
    (stats,) = [one for one in bench.metrics.arms.values() if one.group == "interleaved"]
    assert (stats.version, list(stats.by_status())) == ("v1 + v2", [("v1 + v2", int(Code.OK), 1)])
    assert bench.rpc.handled(0) == {"OK": 1}


async def test_users_are_those_of_the_slice(make_bench: Make) -> None:
    """Half of the users are asked both, the others the default alone; batches carry both kinds of calls together."""
    bench = await make_bench(config=CONFIG)
    calls = [bench.call(f"user-{n}", request_id=f"r{n}") for n in range(60)]
    await bench.arrive(*calls)
    asked = {version: sum(len(sent.requests) for _, sent in bench.open_batches(version)) for version in ("v1", "v2")}
    assert asked["v1"] == 60
    assert 15 < asked["v2"] < 45
    assert len(bench.open_batches()) == 2
    await answer(bench, "v1", "v2")
    groups = [line_of(bench, call)["group"] for call in calls]
    assert groups.count("interleaved") == asked["v2"]
    for call in calls:
        line = line_of(bench, call)
        if line["group"] is None:
            assert (line["model_version"], line["items"], call.response.model_version) == ("v1", [1, 2, 3, 4], "v1")
            assert "teams" not in line
            assert "versions" not in line
        else:
            wanted = draft_for(line["request_id"], line["user_id"])
            assert (tuple(line["items"]), line["teams"]) == wanted
    bench.nothing_is_left()


async def test_a_longer_limit_begins_with_the_same(make_bench: Make) -> None:
    """Each version is asked for as much as is shown, and that is enough."""
    bench = await make_bench(config=CONFIG)
    shown = []
    for limit in (1, 2, 3, 4):
        call = bench.call("forced", request_id="r1", limit=limit)
        await bench.arrive(call)
        cut = {version: items[:limit] for version, items in LISTS.items()}
        await answer(bench, "v1", "v2", lists=cut)
        shown.append(tuple(call.response.item_ids))
    assert shown == [shown[-1][:limit] for limit in (1, 2, 3, 4)]
    assert shown[-1] == draft_for("r1", limit=4).items


async def test_the_same_lists_are_served_as_they_are(make_bench: Make) -> None:
    """They are nobody's."""
    bench = await make_bench(config=CONFIG)
    call = bench.call("forced", request_id="r1")
    await bench.arrive(call)
    await answer(bench, "v1", "v2", lists={"v1": (4, 3), "v2": (4, 3)})
    assert list(call.response.item_ids) == [4, 3]
    assert line_of(bench, call)["teams"] == "=="


async def test_items_may_have_names(make_bench: Make) -> None:
    """Then the line has names."""
    bench = await make_bench(config=CONFIG)
    call = bench.call("forced", (), request_id="r1", items=["x"])
    await bench.arrive(call)
    await answer(bench, "v1", "v2", lists={"v1": ("a", "b"), "v2": ("a", "c")})
    line = line_of(bench, call)
    assert list(call.response.items) == line["item_names"]
    assert (line["items"], line["teams"][0], set(line["teams"][1:])) == (None, "=", set(line["teams"][1:]) & set("AB="))


LOSSES: list[tuple[BatchFailed | bytes, str]] = [
    (broken(), "unavailable"),
    (TIMED_OUT, "timeout"),
    (OVERLOADED, "overload"),
    (MODEL_ERROR, "model_error"),
    (b"\xff garbage", "model_error"),
    (RecommendBatchResponse(model_version="v2", responses=[b"\xff"]).SerializeToString(), "model_error"),
    (worker_answer("v9", [b""]), "model_error"),
    (worker_answer("v2", [b""], {0: (Code.INTERNAL, "no")}), "model_error"),
    (worker_answer("v2", [b""], {0: (Code.RESOURCE_EXHAUSTED, "no")}), "overload"),
    (worker_answer("v2", [b""], {0: (Code.INVALID_ARGUMENT, "no")}), "model_error"),
]


async def lose(bench: Bench, version: str, how: BatchFailed | bytes) -> None:
    """Whatever a version is sent ends so, as often as it is tried."""
    while batches := bench.open_batches(version):
        for _, sent in batches:
            sent.fail(how) if isinstance(how, BatchFailed) else sent.answer(how)
        await turns()


@pytest.mark.parametrize(("how", "reason"), LOSSES)
@pytest.mark.parametrize("first", [True, False], ids=["fails first", "fails last"])
async def test_the_other_list_is_served_alone(
    make_bench: Make, how: BatchFailed | bytes, reason: str, first: bool
) -> None:
    """Whatever becomes of one: the caller gets the other's list as it is, and the line says why and has no teams."""
    bench = await make_bench(config=CONFIG)
    call = bench.call("forced", request_id="r1")
    await bench.arrive(call)
    for version in ("v2", "v1") if first else ("v1", "v2"):
        await (lose(bench, "v2", how) if version == "v2" else answer(bench, "v1"))
    response, line = call.response, line_of(bench, call)
    assert (list(response.item_ids), response.model_version, response.group) == ([1, 2, 3, 4], "v1", "interleaved")
    assert (line["fallback"], line["served_version"], line["model_version"]) == (reason, "v1", None)
    assert (line["versions"], line["items"], "teams" in line) == (["v1", "v2"], [1, 2, 3, 4], False)
    assert line["status"] == "OK"
    (stats,) = [one for one in bench.metrics.arms.values() if one.group == "interleaved"]
    assert (stats.fallbacks, list(stats.by_status())) == ({reason: 1}, [("v1", int(Code.OK), 1)])
    assert bench.log.problems == []
    bench.nothing_is_left()


async def test_a_version_without_workers_is_not_waited_for(make_bench: Make) -> None:
    """Nobody is in: the other is asked alone, from the beginning."""
    bench = await make_bench(config=CONFIG)
    bench.replica("v2").becomes(ReplicaHealth.LOST)
    call = bench.call("forced", request_id="r1")
    await bench.arrive(call)
    await answer(bench, "v1")
    line = line_of(bench, call)
    assert (line["served_version"], line["fallback"], line["attempts"]) == ("v1", "unavailable", 1)


@pytest.mark.parametrize(
    ("config", "opened", "asked", "fallback"),
    [
        (CONFIG, ("v2",), {"v1"}, "ejected"),
        (CONFIG, ("v1",), {"v2"}, "ejected"),
        (CONFIG, ("v1", "v2"), {"v1", "v2"}, None),
        (THIRD, ("v2", "v3"), {"v1"}, "ejected"),
        (THIRD, ("v2", "v3", "v1"), {"v1"}, "ejected"),
    ],
)
async def test_an_open_circuit(
    make_bench: Make, config: str, opened: tuple[str, ...], asked: set[str], fallback: str | None
) -> None:
    """A version that nobody answers for is not asked where another one can; else it is."""
    bench = await make_bench(config=config)
    for version in opened:
        bench.fleet.pools[version]._circuit.open(bench.clock())
    call = bench.call("forced", request_id="r1")
    await bench.arrive(call)
    assert {replica.version for replica, _ in bench.open_batches()} == asked
    await answer(bench, *asked)
    assert (call.code, line_of(bench, call)["fallback"]) == (Code.OK, fallback)
    bench.nothing_is_left()


async def test_where_both_fail_the_default_answers(make_bench: Make) -> None:
    """As for any group whose version fails; the reason is that of the second version."""
    bench = await make_bench(config=THIRD)
    call = bench.call("forced", request_id="r1")
    await bench.arrive(call)
    await lose(bench, "v2", MODEL_ERROR)
    await lose(bench, "v3", TIMED_OUT)
    await answer(bench, "v1")
    line = line_of(bench, call)
    assert (line["status"], line["served_version"], line["fallback"]) == ("OK", "v1", "timeout")
    assert (list(call.response.item_ids), call.response.model_version) == ([1, 2, 3, 4], "v1")
    assert "teams" not in line
    bench.nothing_is_left()


async def test_where_the_default_is_one_of_the_two_that_fail_the_call_does(make_bench: Make) -> None:
    """There is nobody left; the error is that of any call whose default version fails."""
    bench = await make_bench(config=CONFIG)
    call = bench.call("forced", request_id="r1")
    await bench.arrive(call)
    await lose(bench, "v1", broken())
    await lose(bench, "v2", MODEL_ERROR)
    line = line_of(bench, call)
    assert call.code is Code.UNAVAILABLE
    assert (line["status"], line["served_version"], line["fallback"]) == ("UNAVAILABLE", None, None)
    assert (line["failure"], line["versions"], line["items"]) == ("unavailable", ["v1", "v2"], [])
    bench.nothing_is_left()


async def test_what_both_refuse_is_the_callers_mistake(make_bench: Make) -> None:
    """The caller gets the first version's words; no version is to blame."""
    bench = await make_bench(config=THIRD)
    call = bench.call("forced", request_id="r1")
    await bench.arrive(call)
    for version in ("v3", "v2"):
        await lose(bench, version, worker_answer(version, [b""], {0: (Code.INVALID_ARGUMENT, f"no, says {version}")}))
    assert call.code is Code.INVALID_ARGUMENT
    assert "no, says v2" in call.only.message
    line = line_of(bench, call)
    assert (line["fallback"], line.get("failure"), line["served_version"]) == (None, None, None)


async def test_one_that_is_late_is_not_waited_for_longer_than_an_attempt(make_bench: Make) -> None:
    """Its time ends with the attempt's, and the other's list goes out then."""
    bench = await make_bench(config=CONFIG, settings=RoutingSettings(name="router-1", attempt_timeout_seconds=0.05))
    call = bench.call("forced", request_id="r1", seconds=10)
    await bench.arrive(call)
    await answer(bench, "v1")
    bench.clock.advance(0.06)
    bench.fleet.sweep()
    line = line_of(bench, call)
    assert (line["served_version"], line["fallback"], line["status"]) == ("v1", "timeout", "OK")
    bench.nothing_is_left()


async def test_half_of_the_time_is_kept_for_the_default(make_bench: Make) -> None:
    """A caller with little patience gets an answer of the default in it."""
    bench = await make_bench(config=THIRD)
    call = bench.call("forced", request_id="r1", seconds=0.2)
    await bench.arrive(call)
    bench.clock.advance(0.11)
    bench.fleet.sweep()
    await turns()
    await answer(bench, "v1")
    assert line_of(bench, call)["served_version"] == "v1"
    assert call.code is Code.OK


@pytest.mark.parametrize("budget", [1.0, 0.0])
async def test_where_both_are_late_the_default_has_the_other_half(make_bench: Make, budget: float) -> None:
    """Though it is one of the two: each of both had half of the time only. That is a retry, and costs budget."""
    settings = RoutingSettings(name="router-1", retry_banked=budget, retry_per_call=0.0, retry_per_second=0.0)
    bench = await make_bench(config=CONFIG, settings=settings)
    call = bench.call("forced", request_id="r1", seconds=0.2)
    await bench.arrive(call)
    bench.clock.advance(0.11)
    bench.fleet.sweep()
    await turns()
    assert bench.metrics.retries == budget
    if budget:
        await answer(bench, "v1")
        assert list(call.response.item_ids) == [1, 2, 3, 4]
    line = line_of(bench, call)
    served = ("OK", "v1", "timeout") if budget else ("UNAVAILABLE", None, None)
    assert (line["status"], line["served_version"], line["fallback"]) == served
    assert line["failure"] == "timeout"
    assert "teams" not in line
    bench.nothing_is_left()


@pytest.mark.parametrize("answered", [(), ("v1",)])
async def test_a_caller_that_goes_takes_both_back(make_bench: Make, answered: tuple[str, ...]) -> None:
    """Nothing is left in any queue, and the call has one line."""
    bench = await make_bench(config=CONFIG)
    call = bench.call("forced", request_id="r1")
    await bench.arrive(call)
    await answer(bench, *answered)
    bench.router.on_cancelled(call)
    line = line_of(bench, call)
    assert (line["status"], line["attempts"], call.answers) == ("CANCELLED", 2, [])
    await answer(bench, "v1", "v2")
    bench.nothing_is_left()
    assert (len(bench.log.exposures()), bench.router.interleaving.pairs) == (1, {})


async def test_a_caller_that_goes_while_it_waits_is_never_sent(make_bench: Make) -> None:
    """Both wait behind a batch that is in flight: they are passed over, and counted once."""
    bench = await make_bench(config=CONFIG)
    first, second = bench.call("forced", request_id="r1"), bench.call("forced", request_id="r2")
    await bench.arrive(first)
    await bench.arrive(second)
    bench.router.on_cancelled(second)
    await answer(bench, "v1", "v2")
    assert (first.code, bench.open_batches()) == (Code.OK, [])
    assert [line["status"] for line in bench.log.exposures()] == ["CANCELLED", "OK"]
    bench.nothing_is_left()


async def test_an_answer_clears_the_record_of_its_replica(make_bench: Make) -> None:
    """Also where a batch has no other call than those of two versions."""
    bench = await make_bench(config=CONFIG)
    for number, fails in enumerate((True, False)):
        call = bench.call("forced", request_id=f"r{number}")
        await bench.arrive(call)
        await answer(bench, "v1")
        await (lose(bench, "v2", MODEL_ERROR) if fails else answer(bench, "v2"))
        assert bool(bench.replica("v2").record.failures_in_a_row) is fails


async def test_it_is_shed_like_any_call(make_bench: Make) -> None:
    """Over the limits it is refused before anybody is asked."""
    bench = await make_bench(config=CONFIG)
    bench.router.memory_over_limit = True
    call = bench.call("forced", request_id="r1")
    await bench.arrive(call)
    assert call.code is Code.RESOURCE_EXHAUSTED
    assert (bench.metrics.shed, bench.open_batches()) == (1, [])


async def test_configurations_come_and_go(make_bench: Make) -> None:
    """Calls under way end as they began; once the experiment is over, users get one version again."""
    bench = await make_bench(config=CONFIG)
    call = bench.call("forced", request_id="r1")
    await bench.arrive(call)
    bench.use(load_text(CONFIG.replace("    salt: s", "    salt: s\n    enabled: false")))
    await answer(bench, "v1", "v2")
    assert tuple(call.response.item_ids) == draft_for("r1").items
    later = bench.call("forced", request_id="r2")
    await bench.arrive(later)
    await answer(bench, "v1")
    assert later.response.model_version == "v1"


async def test_an_answer_waits_for_its_line(tmp_path: Path) -> None:
    """Under the policy `refuse`."""
    bench = RefusingBench(tmp_path, CONFIG)
    bench.real_log.open()
    await bench.open()
    call = bench.call("forced", request_id="r1")
    await bench.arrive(call)
    await answer(bench, "v1", "v2")
    async with asyncio.timeout(30):
        while not call.answers:
            await asyncio.sleep(0.001)
    (line,) = bench.lines()
    assert (tuple(line["items"]), line["served_version"]) == (draft_for("r1").items, None)
    await bench.close()
    bench.real_log.close()


def test_lists_of_two_kinds_make_none() -> None:
    """Names and numbers cannot be one list."""
    numbers, names = RecommendResponse(item_ids=[1]), RecommendResponse(items=["a"])
    with pytest.raises(NotDrafted, match="names of items"):
        drafted_recommendation(numbers, names, 10, Toss("s", "u", "r"))


def test_without_scores_there_are_none() -> None:
    """A version that gives no scores leaves the list without."""
    first, second = RecommendResponse(item_ids=[1, 2], scores=[1, 0]), RecommendResponse(item_ids=[2, 1])
    encoded, _ = drafted_recommendation(first, second, 10, Toss("s", "u", "r"))
    assert list(RecommendResponse.FromString(encoded).scores) == []


# --- ModelInfer -------------------------------------------------------------------------------------------------------


def tensors(
    items: Sequence[Any],
    *,
    scores: Sequence[float] | None = None,
    shape: Callable[[int], list[int]] = lambda n: [1, n],
    datatype: str = "INT64",
    typed: bool = False,
    extra: float | None = None,
    name: str = "item_ids",
) -> bytes:
    """An answer to ModelInfer with a list."""
    made = ModelInferResponse(model_name="theirs", model_version="theirs")
    texts = datatype == "BYTES"
    listed = made.outputs.add(name=name, datatype=datatype, shape=shape(len(items)))
    if typed:
        contents = listed.contents.bytes_contents if texts else listed.contents.int64_contents
        contents.extend([one.encode() if texts else one for one in items])
    elif texts:
        made.raw_output_contents.append(b"".join(struct.pack("<I", len(one)) + one.encode() for one in items))
    else:
        form = {"INT64": "q", "INT32": "i", "UINT64": "Q"}[datatype]
        made.raw_output_contents.append(struct.pack(f"<{len(items)}{form}", *items))
    if scores is not None:
        output = made.outputs.add(name="score", datatype="FP32", shape=shape(len(scores)))
        if typed:
            output.contents.fp32_contents.extend(scores)
        else:
            made.raw_output_contents.append(struct.pack(f"<{len(scores)}f", *scores))
    if extra is not None:
        made.outputs.add(name="temperature", datatype="FP64", shape=[1])
        made.raw_output_contents.append(struct.pack("<d", extra))
    encoded: bytes = made.SerializeToString()
    return encoded


def values(answer: ModelInferResponse, name: str, form: str) -> tuple[Any, ...]:
    """The numbers of an output."""
    (place,) = [place for place, one in enumerate(answer.outputs) if one.name == name]
    raw = answer.raw_output_contents[place]
    return struct.unpack(f"<{len(raw) // struct.calcsize(form)}{form}", raw)


def torn_number() -> bytes:
    """An answer whose only item has half of its bytes."""
    made = ModelInferResponse(raw_output_contents=[b"\1\0\0\0"])
    made.outputs.add(name="item_ids", datatype="INT64", shape=[1])
    encoded: bytes = made.SerializeToString()
    return encoded


def torn_text() -> bytes:
    """An answer whose only item says that it is longer than it is."""
    made = ModelInferResponse(raw_output_contents=[struct.pack("<I", 5) + b"ab"])
    made.outputs.add(name="item_ids", datatype="BYTES", shape=[1])
    encoded: bytes = made.SerializeToString()
    return encoded


ITEMS = LoggedOutputs("item_ids")
TOSS = Toss("s", "u", "r")


@pytest.mark.parametrize("shape", [lambda n: [1, n], lambda n: [n], lambda n: [n, 1]], ids=["row", "flat", "column"])
@pytest.mark.parametrize("typed", [False, True])
def test_scores_go_where_their_items_go(shape: Callable[[int], list[int]], typed: bool) -> None:
    """Outputs of the items' shape are merged with them, whichever way they were sent; names of versions are gone."""
    lists = {0: [1, 2, 3, 4], 1: [1, 5, 2, 6]}
    answers = [
        tensors(items, scores=[team + item / 8 for item in items], shape=shape, typed=typed)
        for team, items in lists.items()
    ]
    encoded, logged = drafted_inference(answers[0], answers[1], (ITEMS, ITEMS), TOSS)
    answer = ModelInferResponse.FromString(encoded)
    wanted = team_draft(lists[0], lists[1], 4, **TOSS._asdict())
    assert values(answer, "item_ids", "q") == wanted.items == logged.items
    assert logged.teams == wanted.teams
    teams = [1 if letter == "B" else 0 for letter in wanted.teams]
    assert values(answer, "score", "f") == tuple(
        team + item / 8 for team, item in zip(teams, wanted.items, strict=True)
    )
    assert [list(one.shape) for one in answer.outputs] == [shape(4)] * 2
    assert (answer.model_name, answer.model_version) == ("", "")


def test_what_a_model_pads_with_stays_behind_the_end() -> None:
    """A list ends at a 0; the answer is as long as the longer of the two, and padding is nobody's."""
    first, second = [3, 1, 0, 0], [1, 2, 4, 0]
    encoded, logged = drafted_inference(tensors(first), tensors(second), (ITEMS, ITEMS), TOSS)
    wanted = team_draft(first[:2], second[:3], 4, **TOSS._asdict())
    padded = (*wanted.items, *[0] * (4 - len(wanted.items)))
    assert values(ModelInferResponse.FromString(encoded), "item_ids", "q") == padded == logged.items
    assert logged.teams == wanted.teams.ljust(4, "=")


def test_names_and_outputs_of_other_names() -> None:
    """Items may be texts, and the output of each version may have a name of its own; padding is in no line."""
    first = tensors(["a", "b", ""], datatype="BYTES")
    second = tensors(["a", "c", ""], datatype="BYTES", name="ids")
    encoded, logged = drafted_inference(first, second, (ITEMS, LoggedOutputs("ids")), TOSS)
    wanted = team_draft(["a", "b"], ["a", "c"], 3, **TOSS._asdict())
    assert (tuple(logged.items or ()), logged.teams) == wanted
    assert [one.name for one in ModelInferResponse.FromString(encoded).outputs] == ["item_ids"]


def test_names_that_are_not_logged_have_no_letter() -> None:
    """One that no outcome could name is shown, and is in no line."""
    made = ModelInferResponse(raw_output_contents=[b"".join(struct.pack("<I", n) + b"\xff" * n for n in (100, 2))])
    made.outputs.add(name="item_ids", datatype="BYTES", shape=[2])
    _, logged = drafted_inference(made.SerializeToString(), made.SerializeToString(), (ITEMS, ITEMS), TOSS)
    assert (len(logged.items or ()), logged.teams) == (1, "="), "100 bytes that are no UTF-8 become 300"


def test_outputs_that_belong_to_no_item_must_agree() -> None:
    """One that is the same in both is kept."""
    encoded, _ = drafted_inference(tensors([1, 2], extra=0.5), tensors([2, 1], extra=0.5), (ITEMS, ITEMS), TOSS)
    assert values(ModelInferResponse.FromString(encoded), "temperature", "d") == (0.5,)


@pytest.mark.parametrize(
    ("first", "second", "wanted", "why"),
    [
        (tensors([1]), tensors([2]), (LoggedOutputs(), ITEMS), "the file's `log` names no output with the items"),
        (tensors([1], name="x"), tensors([2]), (ITEMS, ITEMS), "has no output `item_ids`"),
        (tensors([1]), tensors([2], datatype="INT32"), (ITEMS, ITEMS), "different datatypes"),
        (tensors([1, 2], scores=[1, 2]), tensors([2, 1]), (ITEMS, ITEMS), "`score` is not of the same datatype"),
        (tensors([1, 2], extra=1), tensors([2, 1], extra=2), (ITEMS, ITEMS), "has no value for each item"),
        (tensors([1, 2, 3, 4], shape=lambda n: [2, 2]), tensors([1]), (ITEMS, ITEMS), "more than one list"),
        (tensors([1, 2], shape=lambda n: [3]), tensors([1]), (ITEMS, ITEMS), "not as long as its shape"),
        (tensors([1]), b"\xff", (ITEMS, ITEMS), "is no message"),
        (torn_text(), torn_text(), (ITEMS, ITEMS), "not as long as its shape"),
        (torn_number(), torn_number(), (ITEMS, ITEMS), "not as long as its shape"),
        (tensors([1], scores=[1]), tensors([1], scores=[1]), (LoggedOutputs("score"),) * 2, "has no items: it is FP32"),
    ],
)
def test_answers_that_make_no_list(
    first: bytes, second: bytes, wanted: tuple[LoggedOutputs, LoggedOutputs], why: str
) -> None:
    """Each says why."""
    with pytest.raises(NotDrafted, match=why):
        drafted_inference(first, second, wanted, TOSS)


TENSORS = st.tuples(
    st.sampled_from(("item_ids", "score", "x")),
    st.sampled_from(("INT64", "INT8", "UINT64", "BYTES", "FP16", "FP32", "BOOL", "BF16", "")),
    st.lists(st.integers(-2, 4), max_size=3),
    st.one_of(st.none(), st.binary(max_size=33)),
    st.lists(st.integers(-300, 300), max_size=4),
)


def strange(parts: list[Any]) -> bytes:
    """An answer of any tensors."""
    made = ModelInferResponse()
    for name, datatype, shape, raw, typed in parts:
        output = made.outputs.add(name=name, datatype=datatype, shape=shape)
        output.contents.int_contents.extend(typed)
        output.contents.int64_contents.extend(typed)
        output.contents.fp32_contents.extend(typed)
        output.contents.bytes_contents.extend(str(one).encode() for one in typed)
        if raw is not None:
            made.raw_output_contents.append(raw)
    encoded: bytes = made.SerializeToString()
    return encoded


@settings(max_examples=400, deadline=None)
@given(st.lists(TENSORS, max_size=3), st.lists(TENSORS, max_size=3))
def test_whatever_a_model_answers(first: list[Any], second: list[Any]) -> None:
    """There is a list with as many letters as items are logged, or a reason why there is none."""
    wanted = LoggedOutputs("item_ids", ("score",))
    try:
        encoded, logged = drafted_inference(strange(first), strange(second), (wanted, wanted), TOSS)
    except NotDrafted:
        return
    assert ModelInferResponse.FromString(encoded).outputs
    assert logged.teams is not None
    assert len(logged.teams) == len(logged.items or ())


async def test_an_error_of_our_own_ends_one_call(make_bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other calls of the batch are answered, and nothing is left."""
    bench = await make_bench(config=CONFIG)
    real = interleaving.drafted_recommendation

    def once(*arguments: Any) -> Any:
        monkeypatch.setattr(interleaving, "drafted_recommendation", real)
        raise ZeroDivisionError

    monkeypatch.setattr(interleaving, "drafted_recommendation", once)
    calls = [bench.call("forced", request_id=f"r{number}") for number in range(3)]
    await bench.arrive(*calls)
    await answer(bench, "v1", "v2")
    assert [call.code for call in calls] == [Code.INTERNAL, Code.OK, Code.OK]
    assert [line["status"] for line in bench.log.exposures()] == ["INTERNAL", "OK", "OK"]
    bench.nothing_is_left()


async def infer_both(bench: Bench, call: FakeCall, answers: dict[str, bytes]) -> None:
    await bench.arrive(call)
    for version, one in answers.items():
        for _, sent in bench.open_batches(version):
            batch = InferBatchResponse(model_version=version, responses=[one] * len(sent.requests))
            sent.answer(batch.SerializeToString())
        await turns()


async def test_model_infer_is_interleaved_too(make_bench: Make) -> None:
    """Both are asked; the answer has no version, the line has teams."""
    bench = await make_bench(config=CONFIG)
    call = infer(bench, message(id="r1", parameters={"user_id": "forced"}))
    await infer_both(bench, call, {"v1": tensors([1, 2, 3]), "v2": tensors([4, 2, 5])})
    assert isinstance(call.only, bytes)
    assert call.payload == b"", "large tensors would be kept until the line is made"
    answer = ModelInferResponse.FromString(call.only)
    wanted = team_draft([1, 2, 3], [4, 2, 5], 3, salt="s", user_id="forced", request_id="r1")
    assert values(answer, "item_ids", "q") == wanted.items
    assert (answer.model_name, answer.model_version, answer.id) == ("recommender", "", "r1")
    assert {key: one.string_param for key, one in answer.parameters.items()} == {
        "experiment": "duel",
        "group": "interleaved",
    }
    (line,) = bench.log.exposures()
    assert (line["method"], line["items"], line["teams"]) == ("infer", list(wanted.items), wanted.teams)
    assert bench.log.problems == []
    bench.nothing_is_left()


async def test_tensors_that_make_no_list_are_the_first_versions(make_bench: Make) -> None:
    """Logged as its fallback, so that nobody takes it for a list out of two; the operator is told why, once."""
    with structlog.testing.capture_logs() as told:
        await two_that_do_not_fit(await make_bench(config=CONFIG))
    said = [one for one in told if one["event"] == "two answers make no list"]
    assert [(one["experiment"], one["versions"]) for one in said] == [("duel", ("v1", "v2"))]
    assert "more than one list" in said[0]["reason"]


async def two_that_do_not_fit(bench: Bench) -> None:
    """Two calls whose second version answers two lists."""
    call = infer(bench, message(id="r1", parameters={"user_id": "forced"}))
    await infer_both(bench, call, {"v1": tensors([1, 2]), "v2": tensors([1, 2, 3, 4], shape=lambda n: [2, 2])})
    (line,) = bench.log.exposures()
    assert (line["served_version"], line["fallback"], line["items"]) == ("v1", "model_error", [1, 2])
    assert "teams" not in line
    again = infer(bench, message(id="r2", parameters={"user_id": "forced"}))
    await infer_both(bench, again, {"v1": tensors([1, 2]), "v2": tensors([1, 2, 3, 4], shape=lambda n: [2, 2])})


async def test_whoever_names_a_version_gets_that_one(make_bench: Make) -> None:
    """Nothing is interleaved for a pinned call."""
    bench = await make_bench(config=CONFIG)
    call = infer(bench, message(id="r1", model_version="v2", parameters={"user_id": "forced"}))
    await infer_both(bench, call, {"v2": tensors([4])})
    (line,) = bench.log.exposures()
    assert (line["reason"], line["served_version"]) == ("pinned", "v2")


def test_lines_are_json() -> None:
    """Whatever is in a name."""
    text = listed(DraftedItems(NamedItems(('"', "é")), "A="))
    assert orjson.loads(b'{"items":' + text + b"}") == {"items": None, "item_names": ['"', "é"], "teams": "A="}
    assert (listed(()), listed(DraftedItems((), ""))) == (b"[]", b'[],"teams":""')
