"""Calls in the shadow: which are asked again, when, what the log says, and that no user's call knows of it."""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from abfleet_experiments.bucketing import bucket
from abfleet_experiments.file.load import load_text
from abfleet_log.user_id_hash import keyed_hash
from abfleet_protos.recommender_pb2 import RecommendResponse
from abfleet_protos.worker_pb2 import RecommendBatchResponse
from abfleet_router.calls.shadow_calls import ShadowCall, ShadowCalls
from abfleet_router.fleet.batch import INFER, RECOMMEND
from abfleet_router.fleet.failure import BatchFailed, FailureReason
from abfleet_router.fleet.shadow_queue import MOST_IN_FLIGHT, MOST_WAIT_SECONDS, MOST_WAITING
from abfleet_router.settings import RoutingSettings
from abfleet_transport.call import Code

from tests.router.bench import CONFIG, Bench
from tests.router.calls.test_infer import answer_to, infer, message
from tests.router.fakes import FakeCall, Sent, broken, turns, worker_answer
from tests.router.stories import Make


def shadowed(percent: float = 100, of: str = "", model: str = "v3") -> str:
    """The bench's file with v3 in the shadow of others."""
    return f"{CONFIG}shadow: [{{model: {model}, percent: {percent}{of}}}]\n"


async def until(condition: Callable[[], object]) -> None:
    """Waits for what a timer of the loop brings about."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.002)


async def served(bench: Bench, count: int = 1, user_id: str = "on-v1", **fields: Any) -> list[FakeCall]:
    """So many calls, answered."""
    calls = [bench.call(user_id, [n], request_id=f"r{n}", **fields) for n in range(count)]
    await answered(bench, *calls)
    return calls


async def answered(bench: Bench, *calls: FakeCall) -> None:
    """These calls have come and are answered; what is asked in the shadow is not."""
    await bench.arrive(*calls)
    while not all(call.answers for call in calls):
        for version in ("v1", "v2", "v3"):
            if version != "v3" or any(call.owner and call.owner.version == "v3" for call in calls):  # type: ignore[attr-defined]
                await bench.answer(version)


def sent_to(bench: Bench, version: str = "v3") -> list[Sent]:
    """What a version has been sent and not answered, once there is anything."""
    return [sent for _, sent in bench.open_batches(version)]


async def asked(bench: Bench, version: str = "v3") -> list[Sent]:
    """The same, once there is any."""
    await until(lambda: sent_to(bench, version))
    return sent_to(bench, version)


def lines(bench: Bench) -> list[dict[str, Any]]:
    """Those of calls in the shadow."""
    assert bench.log.problems == []
    return [line for line in bench.log.lines if line["event"] == "shadow"]


def shed(bench: Bench, version: str = "v3") -> dict[str, int]:
    return bench.metrics.shadow(version).shed


async def test_an_answered_call_is_asked_again_and_logged(make_bench: Make) -> None:
    """The line has both versions and the items of the answer in the shadow; the caller got one answer, of its own."""
    bench = await make_bench(config=shadowed())
    (call,) = await served(bench, attributes={"country": "DE"})
    assert call.response.model_version == "v1"
    (sent,) = await asked(bench)
    assert sent.requests == (call.payload,)
    bench.clock.advance(0.004)
    sent.answer(worker_answer("v3", sent.requests))
    (line,) = lines(bench)
    assert line.pop("ts") == "2026-09-21T14:30:00.000000Z"
    assert line == {
        "schema": 1,
        "event": "shadow",
        "request_id": "r0",
        "user_id": "on-v1",
        "version": "v3",
        "primary": "v1",
        "items": [1, 2],
        "status": "OK",
        "latency_ms": 4.0,
        "config_revision": bench.config.revision,
        "router": "router-1",
    }
    bench.books_balance(bench.calls)
    bench.nothing_is_left()
    stats = bench.metrics.shadow("v3")
    assert (stats.sent, stats.answers, stats.shed) == (1, {Code.OK: 1}, {})


async def test_nothing_is_sent_in_the_turn_that_answers(make_bench: Make) -> None:
    """However many calls are answered at once: the first is sent after the answers have left."""
    bench = await make_bench(config=shadowed())
    bench.router.on_calls([bench.call("on-v1", [n]) for n in range(2 * MOST_IN_FLIGHT)])
    await turns()
    order: list[str] = []
    bench.link("v3").on_send = lambda sent: order.append("shadow")
    for call in bench.calls:
        call.reply = lambda payload: order.append("answer")  # type: ignore[method-assign]
    for replica, sent in bench.open_batches("v1"):
        sent.answer(worker_answer(replica.version, sent.requests))
    assert order == ["answer"] * len(bench.calls)
    asyncio.get_running_loop().call_soon(order.append, "turn")
    await asked(bench)
    assert order.index("turn") < order.index("shadow")


async def test_who_is_in_the_sample(make_bench: Make) -> None:
    """Calls are drawn by the bucket of their request id under the version's own salt, whichever router has them."""
    bench = await make_bench(config=shadowed(12.5))
    wanted = {f"r{n}" for n in range(300) if bucket("shadow/v3", f"r{n}") < 1250}
    await served(bench, 300)
    while len(lines(bench)) < len(wanted):
        for sent in await asked(bench):
            assert len(sent.requests) <= MOST_IN_FLIGHT
            sent.answer(worker_answer("v3", sent.requests))
    assert {line["request_id"] for line in lines(bench)} == wanted
    assert 20 < len(wanted) < 60


@pytest.mark.parametrize(
    ("of", "user_id", "asks"),
    [
        ("", "on-v1", True),
        ("", "on-v2", True),
        ("", "on-v3", False),
        (", of: [v1]", "on-v1", True),
        (", of: [v1]", "on-v2", False),
    ],
)
async def test_whose_calls_these_are(make_bench: Make, of: str, user_id: str, asks: bool) -> None:
    """`of` is about the version that answered; a version is never compared with itself."""
    bench = await make_bench(config=shadowed(100, of))
    await served(bench, user_id=user_id)
    assert bool(bench.router.shadows.open) is asks


async def test_failed_calls_are_not_asked_again(make_bench: Make) -> None:
    """There is no answer to compare with."""
    bench = await make_bench(config=shadowed())
    await bench.arrive(bench.call("on-v1"))
    while bench.open_batches("v1"):
        await bench.fail("v1", broken())
    assert bench.calls[0].code is Code.UNAVAILABLE
    assert bench.router.shadows.open == 0


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (broken(), "UNAVAILABLE"),
        (BatchFailed(FailureReason.TIMEOUT, "late", connection_broke=False), "DEADLINE_EXCEEDED"),
        (BatchFailed(FailureReason.MODEL_ERROR, "x", connection_broke=False, code=Code.UNKNOWN), "UNKNOWN"),
        (b"\xff\xff garbage", "INTERNAL"),
        (b"", "INTERNAL"),
        (worker_answer("v2", [b""]), "INTERNAL"),
        (worker_answer("v3", [b"", b""]), "INTERNAL"),
        (RecommendBatchResponse(model_version="v3", responses=[b"\xff"]).SerializeToString(), "INTERNAL"),
        (worker_answer("v3", [b""], {0: (Code.INVALID_ARGUMENT, "no")}), "INVALID_ARGUMENT"),
    ],
)
async def test_what_fails_in_the_shadow_stays_there(
    make_bench: Make, outcome: bytes | BatchFailed, status: str
) -> None:
    """A broken stream, garbage, another version, an error: one line says so, and no record of the replica does."""
    bench = await make_bench(config=shadowed())
    (call,) = await served(bench)
    (sent,) = await asked(bench)
    sent.fail(outcome) if isinstance(outcome, BatchFailed) else sent.answer(outcome)
    (line,) = lines(bench)
    assert (line["status"], line["items"]) == (status, None)
    assert call.code is Code.OK
    record = bench.replica("v3").record
    assert (record.failures_in_a_row, record.ejections_in_a_row) == (0, 0)
    assert not bench.fleet.pools["v3"].circuit_open(bench.clock())
    assert (bench.metrics.retries, bench.metrics.arm(bench.router.snapshot.arms[0]).errors) == (0, 0)  # type: ignore[union-attr]
    bench.books_balance(bench.calls)


async def test_a_version_that_hangs_has_a_line_for_each_call(make_bench: Make) -> None:
    """After the time of an attempt it is given up, and the calls that follow are asked all the same."""
    settings = RoutingSettings(name="router-1", attempt_timeout_seconds=0.05)
    bench = await make_bench(config=shadowed(), settings=settings)
    await served(bench, 2 * MOST_IN_FLIGHT)
    await until(lambda: len(lines(bench)) == 2 * MOST_IN_FLIGHT)
    assert {line["status"] for line in lines(bench)} == {"DEADLINE_EXCEEDED"}
    assert bench.link("v3").cancelled == len(bench.link("v3").sent) == 2
    assert bench.replica("v3").record.failures_in_a_row == 0


async def test_it_waits_while_anything_waits_and_is_shed_after_a_while(make_bench: Make) -> None:
    """A single user's call in a queue holds all of it up."""
    bench = await make_bench(config=shadowed())
    await bench.arrive(bench.call("on-v2", [1]))  # two replicas have a call in flight, and one a call that waits
    await bench.arrive(bench.call("on-v2", [1]), bench.call("on-v2", [1]))
    await bench.arrive(*(bench.call("on-v2", [1]) for _ in range(4)))
    assert bench.fleet.backlog.calls > 0
    call = bench.call("on-v1", [1])
    await bench.arrive(call)
    await bench.answer("v1")
    queue = bench.router.shadows._routes[0][1]
    assert queue.open == 1
    for _ in range(3):
        await until(lambda: queue._next_try is not None)
        queue._try()
    assert (sent_to(bench), queue.open) == ([], 1)
    bench.clock.advance(MOST_WAIT_SECONDS + 0.1)
    await until(lambda: queue.open == 0)
    assert (shed(bench), lines(bench)) == ({"busy": 1}, [])
    await bench.run_dry()


@pytest.mark.parametrize("cause", ["memory", "log", "user"])
async def test_other_reasons_to_wait(make_bench: Make, cause: str) -> None:
    """Memory over its limit, a log short of room, and a user's call at the replica itself; it goes on afterwards."""
    bench = await make_bench(config=shadowed())
    user = bench.call("on-v3", [5])
    await served(bench)
    if cause == "user":
        await bench.arrive(user)
    bench.router.memory_over_limit = cause == "memory"
    bench.log.crowded = cause == "log"
    queue = bench.router.shadows._routes[0][1]
    before = len(sent_to(bench))
    queue._try()
    assert (queue.open, len(sent_to(bench))) == (1, before)
    if cause == "user":
        await bench.answer("v3")
    bench.router.memory_over_limit = bench.log.crowded = False
    (sent,) = await asked(bench)
    sent.answer(worker_answer("v3", sent.requests))
    assert len(lines(bench)) == 1


async def test_what_waits_is_bounded(make_bench: Make) -> None:
    """Beyond the bound calls are shed at once, and each of the sample has a line or is counted."""
    bench = await make_bench(config=shadowed())
    bench.router.memory_over_limit = False
    bench.log.crowded = True
    for start in range(0, MOST_WAITING + 88, 100):
        calls = [
            bench.call("on-v1", [n], request_id=f"r{n}") for n in range(start, min(start + 100, MOST_WAITING + 88))
        ]
        await answered(bench, *calls)
    assert shed(bench) == {"full": 88}
    bench.log.crowded = False
    while len(lines(bench)) < MOST_WAITING:
        for sent in await asked(bench):
            sent.answer(worker_answer("v3", sent.requests))
    stats = bench.metrics.shadow("v3")
    assert stats.sent == sum(stats.answers.values()) == MOST_WAITING
    bench.nothing_is_left()


async def test_without_a_replica_calls_are_shed(make_bench: Make) -> None:
    """A version whose workers are down costs nothing."""
    bench = Bench(config=shadowed())
    bench.down.add("v3")
    await bench.open()
    await served(bench, 3)
    await until(lambda: shed(bench) == {"unavailable": 3})
    await bench.close()


async def test_an_unsent_batch_is_shed(make_bench: Make) -> None:
    """What the worker never began says nothing of it."""
    bench = await make_bench(config=shadowed())
    await served(bench)
    (sent,) = await asked(bench)
    sent.fail(BatchFailed(FailureReason.UNAVAILABLE, "goodbye", connection_broke=False, unsent=True))
    assert (shed(bench), lines(bench)) == ({"unavailable": 1}, [])


async def test_an_edit_ends_it(make_bench: Make) -> None:
    """A configuration without the key gives up what waits and what is in flight; another percent does not."""
    bench = await make_bench(config=shadowed())
    await served(bench)
    (sent,) = await asked(bench)
    queue = bench.router.shadows._routes[0][1]
    bench.use(load_text(shadowed(50)))
    assert bench.router.shadows._routes[0][1] is queue
    assert not sent.cancelled
    queue.append(ShadowCall(queue, RECOMMEND, b"", "v1", "other", "u"))
    bench.use(load_text(CONFIG))
    assert sent.cancelled
    assert (bench.router.shadows.on, shed(bench)) == (False, {"stopped": 2})
    queue.append(ShadowCall(queue, RECOMMEND, b"", "v1", "late", "u"))
    assert (queue.open, shed(bench)) == (0, {"stopped": 3})
    await served(bench)
    assert (sent_to(bench), lines(bench)) == ([], [])


async def test_the_end_of_the_router_ends_it(make_bench: Make) -> None:
    """Nothing is left to run, and no line is written for what was given up."""
    bench = await make_bench(config=shadowed())
    await served(bench)
    await asked(bench)
    bench.router.shadows.close()
    assert (shed(bench), lines(bench)) == ({"stopped": 1}, [])


async def test_a_keyed_hash_stands_for_the_user(make_bench: Make, tmp_path: Any) -> None:
    """As in an exposure; a call without a user has neither."""
    key = tmp_path / "key"
    key.write_text("0123456789abcdef")
    bench = await make_bench(config=shadowed())
    hashed = keyed_hash(key)
    bench.router.shadows._hashed = hashed
    await answered(bench, bench.call("on-v1", [1], request_id="a"), bench.call("", [1], request_id="b"))
    for sent in await asked(bench):
        sent.answer(worker_answer("v3", sent.requests))
    found = {line["request_id"]: (line["user_id"], line.get("user_id_hmac")) for line in lines(bench)}
    assert found == {"a": (None, hashed("on-v1")), "b": (None, None)}


async def test_names_of_items_are_logged_as_names(make_bench: Make) -> None:
    """`items` is null then, as in an exposure."""
    bench = await make_bench(config=shadowed())
    await served(bench)
    (sent,) = await asked(bench)
    response = RecommendResponse(items=["a", "b"], scores=[2, 1]).SerializeToString()
    sent.answer(RecommendBatchResponse(model_version="v3", responses=[response]).SerializeToString())
    (line,) = lines(bench)
    assert (line["items"], line["item_names"]) == (None, ["a", "b"])


@pytest.mark.parametrize("named", [False, True])
async def test_items_are_cut_to_the_calls_limit(make_bench: Make, *, named: bool) -> None:
    """A version that gives more than it was asked for does not fill the log; the default limit is one too."""
    bench = await make_bench(config=shadowed())
    await answered(bench, bench.call("on-v1", [1], request_id="a", limit=3), bench.call("on-v1", [1], request_id="b"))
    response = RecommendResponse(**({"items": ["x"] * 5000} if named else {"item_ids": [7] * 5000}))
    for sent in await asked(bench):
        many = [response.SerializeToString()] * len(sent.requests)
        sent.answer(RecommendBatchResponse(model_version="v3", responses=many).SerializeToString())
    found = {line["request_id"]: line["item_names" if named else "items"] for line in lines(bench)}
    assert {key: len(items) for key, items in found.items()} == {"a": 3, "b": 10}


async def test_calls_of_model_infer_are_asked_again(make_bench: Make) -> None:
    """Whole, although nothing keeps their bytes for the log; with the items that `log` names, here of one version."""
    logged = shadowed().replace("v3: {target: ", "v3: {log: {items: item_ids}, target: ")
    bench = await make_bench(config=logged)
    call = infer(bench, message(id="i"), metadata=(("x-user-id", "on-v1"),))
    payload = call.payload
    await bench.arrive(call, bench.call("on-v1", [1], request_id="r"))
    for replica, sent in bench.open_batches("v1"):
        sent.answer(answer_to(replica.version, sent) if sent.path == INFER.path else worker_answer("v1", sent.requests))
    await turns()
    for replica, sent in bench.open_batches("v1"):  # what is of the other method is a batch of its own
        sent.answer(answer_to(replica.version, sent) if sent.path == INFER.path else worker_answer("v1", sent.requests))
    await until(lambda: len(sent_to(bench)) == 2)
    found = {sent.path: sent for sent in sent_to(bench)}
    assert found[INFER.path].requests == (payload,)
    found[INFER.path].answer(answer_to("v3", found[INFER.path]))
    found[RECOMMEND.path].answer(worker_answer("v3", found[RECOMMEND.path].requests))
    assert {line["request_id"]: line["items"] for line in lines(bench)} == {"i": [7, 8, 9], "r": [2, 3]}
    assert call.payload == b""


async def test_without_the_key_nothing_is_looked_at(make_bench: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """No call is sampled, and no bucket computed."""
    bench = await make_bench()
    monkeypatch.setattr(ShadowCalls, "sample", None)
    monkeypatch.setattr(ShadowCalls, "add", None)
    await served(bench, 5)
    bench.books_balance(bench.calls)


async def test_metrics_say_what_became_of_them(make_bench: Make) -> None:
    """Sent, by status and shed by reason, for each version."""
    bench = await make_bench(config=shadowed())
    stats = bench.metrics.shadow("v3")
    stats.sent, stats.answers, stats.shed = 3, {0: 2, 14: 1}, {"busy": 4}
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in bench.metrics.collect()
        if family.name.startswith("abfleet_shadow")
        for sample in family.samples
    }
    assert found == {
        ("abfleet_shadow_sent_total", "v3"): 3,
        ("abfleet_shadow_answers_total", "v3", "OK"): 2,
        ("abfleet_shadow_answers_total", "v3", "UNAVAILABLE"): 1,
        ("abfleet_shadow_shed_total", "v3", "busy"): 4,
    }
    assert orjson.dumps(bench.log.lines) == b"[]"
