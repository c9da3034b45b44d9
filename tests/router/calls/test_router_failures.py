"""What becomes of calls when workers fail, lie or are too busy: retries, fallbacks, refusals."""

import pytest
from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_protos.worker_pb2 import RecommendBatchResponse
from abfleet_router.balancing.ejection import EjectionPolicy
from abfleet_router.calls.attempts import PUSHBACK_MS
from abfleet_router.fleet.health_watch import ReplicaHealth
from abfleet_router.settings import RoutingSettings
from abfleet_transport.call import Code

from tests.router.bench import CONFIG, fake
from tests.router.fakes import Failed, broken, turns, worker_answer
from tests.router.stories import MODEL_ERROR, OVERLOADED, Make, line_of, outcome


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (Code.INVALID_ARGUMENT, "item_ids: wrong", ("INVALID_ARGUMENT", None, None, 1)),
        (Code.INTERNAL, "a fault", ("OK", "v1", "model_error", 2)),
        (Code.UNKNOWN, "a fault", ("OK", "v1", "model_error", 2)),
        (Code.RESOURCE_EXHAUSTED, "full", ("OK", "v1", "overload", 2)),
        (Code.DEADLINE_EXCEEDED, "late", ("OK", "v1", "timeout", 2)),
    ],
)
async def test_one_item_of_a_batch_fails_alone(
    make_bench: Make, code: Code, text: str, expected: tuple[str, str | None, str | None, int]
) -> None:
    """The poisoned call goes its way, the calls around it are answered as if it had not been there."""
    bench = await make_bench()
    calls = [bench.call("on-v3", [n], request_id=f"r{n}") for n in range(5)]
    await bench.arrive(*calls)
    await bench.answer("v3", {2: (code, text)})
    assert [len(call.answers) for call in calls] == [1, 1, expected[0] != "OK", 1, 1]
    await bench.run_dry()
    assert [outcome(bench, call) for call in calls] == [("OK", "v3", None, 1)] * 2 + [expected] + [
        ("OK", "v3", None, 1)
    ] * 2
    if expected[0] != "OK":
        assert calls[2].only == Failed(code, text, None)
    bench.books_balance(calls)


async def test_an_item_whose_answer_is_garbage_fails_alone(make_bench: Make) -> None:
    """Its neighbours are answered and logged; it is asked of somebody else."""
    bench = await make_bench()
    calls = [bench.call("on-v3", [n], request_id=f"r{n}") for n in range(3)]
    await bench.arrive(*calls)
    ((_, sent),) = bench.open_batches("v3")
    answer = RecommendBatchResponse.FromString(worker_answer("v3", sent.requests))
    answer.responses[1] = b"\xff\xff"
    sent.answer(answer.SerializeToString())
    await turns()
    await bench.run_dry()
    assert [outcome(bench, call)[1:] for call in calls] == [("v3", None, 1), ("v1", "model_error", 2), ("v3", None, 1)]
    bench.books_balance(calls)


@pytest.mark.parametrize("what", ["garbage", "one short", "one more", "wrong version"])
async def test_an_answer_that_cannot_be_trusted_is_used_for_nobody(make_bench: Make, what: str) -> None:
    """Bytes that are no answer, another number of answers, another version: all of the batch asks another replica."""
    bench = await make_bench()
    calls = [bench.call("on-v1", [n], request_id=f"r{n}") for n in range(3)]
    bench.replica("v1", 1).becomes(ReplicaHealth.NOT_SERVING)
    await bench.arrive(*calls)
    bench.replica("v1", 1).becomes(ReplicaHealth.SERVING)
    ((replica, sent),) = bench.open_batches()
    match what:
        case "garbage":
            sent.answer(b"no message")
        case "one short":
            sent.answer(worker_answer("v1", sent.requests[:2]))
        case "one more":
            sent.answer(worker_answer("v1", (*sent.requests, sent.requests[0])))
        case _:
            sent.answer(worker_answer("v2", sent.requests))
    await turns()
    assert all(call.answers == [] for call in calls)
    assert replica not in bench.fleet.pools["v1"].available, "no chance made this: out at once"
    await bench.run_dry()
    assert {outcome(bench, call) for call in calls} == {("OK", "v1", None, 2)}
    bench.books_balance(calls)


async def test_a_broken_connection_is_re_sent_once_and_free(make_bench: Make) -> None:
    """The first break costs no budget, the second is a retry, the third ends the version."""
    bench = await make_bench(config=CONFIG.replace('["10.0.0.1:1"', '["10.0.0.3:1", "10.0.0.4:1", "10.0.0.1:1"'))
    call = bench.call("on-v1", request_id="r1")
    await bench.arrive(call)
    assert await bench.fail("v1", broken()) == 1
    assert bench.metrics.retries == 0
    assert await bench.fail("v1", broken()) == 1
    assert bench.metrics.retries == 1
    assert await bench.fail("v1", broken()) == 1
    assert call.code is Code.UNAVAILABLE
    assert outcome(bench, call) == ("UNAVAILABLE", None, None, 3)
    asked = [len(fake(one).sent) for one in bench.made if one.version == "v1"]
    assert sorted(asked) == [0, 1, 1, 1], "each break ejected where it happened"


async def test_a_version_that_is_gone_falls_back(make_bench: Make) -> None:
    """The default serves, the line says why, and the answer names the version that served."""
    bench = await make_bench()
    call = bench.call("on-v3", request_id="r1")
    await bench.arrive(call)
    await bench.fail("v3", broken())
    await bench.run_dry()
    assert outcome(bench, call) == ("OK", "v1", "unavailable", 2)
    assert (call.response.group, call.response.model_version) == ("canary", "v1")
    later = bench.call("on-v3", request_id="r2")
    await bench.arrive(later)
    await bench.run_dry()
    assert outcome(bench, later) == ("OK", "v1", "ejected", 1), "nobody is asked in vain"
    assert bench.metrics.arms[("ranking", "canary", "v3")].fallbacks == {"unavailable": 1, "ejected": 1}
    bench.books_balance([call, later])


async def test_both_versions_are_dead(make_bench: Make) -> None:
    """A clear UNAVAILABLE at once, without an attempt."""
    bench = await make_bench()
    for replica in bench.made:
        replica.becomes(ReplicaHealth.LOST)
    calls = [bench.call(user, request_id=user) for user in ("on-v1", "on-v2")]
    await bench.arrive(*calls)
    assert [call.code for call in calls] == [Code.UNAVAILABLE] * 2
    assert [outcome(bench, call) for call in calls] == [
        ("UNAVAILABLE", None, None, 0),
        ("UNAVAILABLE", None, "unavailable", 0),
    ]
    bench.books_balance(calls)


async def test_calls_that_wait_for_an_ejected_replica_move_on_for_free(make_bench: Make) -> None:
    """They have not been sent: no attempt is counted, and no budget is spent."""
    bench = await make_bench()
    first = bench.call("on-v1", [1], request_id="r1")
    await bench.arrive(first)
    ((replica, sent),) = bench.open_batches()
    other = bench.replica("v1", 1) if replica is bench.replica("v1", 0) else bench.replica("v1", 0)
    other.becomes(ReplicaHealth.NOT_SERVING)
    waiting = [bench.call("on-v1", [n], request_id=f"w{n}") for n in range(3)]
    await bench.arrive(*waiting)
    other.becomes(ReplicaHealth.SERVING)
    sent.fail(broken())
    await turns()
    await bench.run_dry()
    assert [len(fake(one).sent) for one in (replica, other)] == [1, 1], "nobody is sent to where it was ejected"
    assert {outcome(bench, call) for call in waiting} == {("OK", "v1", None, 1)}
    assert outcome(bench, first) == ("OK", "v1", None, 2)
    assert bench.metrics.retries == 0
    bench.books_balance([first, *waiting])


@pytest.mark.parametrize(
    "limits",
    [{"max_waiting_calls": 4}, {"max_waiting_bytes": 4 * len(RecommendRequest(user_id="on-v1").SerializeToString())}],
    ids=["calls", "bytes"],
)
async def test_past_its_bound_the_router_sheds(make_bench: Make, limits: dict[str, int]) -> None:
    """RESOURCE_EXHAUSTED at once with a pushback, whatever the group; what was admitted is answered."""
    bench = await make_bench(settings=RoutingSettings(name="router-1", **limits))
    users = ["on-v1", "on-v2", "on-v3"] * 3
    calls = [bench.call(user, history=(), request_id="") for user in users]
    await bench.arrive(*calls)
    shed = [call for call in calls if call.answers]
    assert shed == calls[4:]
    for call in shed:
        assert isinstance(call.only, Failed)
        assert (call.code, call.only.pushback_ms) == (Code.RESOURCE_EXHAUSTED, PUSHBACK_MS)
    await bench.run_dry()
    assert [call.code for call in calls[:4]] == [Code.OK] * 4
    lines = [line for line in bench.log.exposures() if line["status"] == "RESOURCE_EXHAUSTED"]
    assert len(lines) == bench.metrics.shed == 5
    assert {(line["served_version"], line["fallback"], line["attempts"]) for line in lines} == {(None, None, 0)}
    assert {line["group"] for line in lines} == {"control", "experiment", "canary"}
    bench.nothing_is_left()


async def test_an_overloaded_worker_is_not_asked_twice(make_bench: Make) -> None:
    """The default serves instead; where it is the default itself, the caller is told to hold back."""
    bench = await make_bench()
    canary, control = bench.call("on-v3", request_id="r3"), bench.call("on-v1", request_id="r1")
    await bench.arrive(canary, control)
    await bench.fail("v3", OVERLOADED)
    await bench.fail("v1", OVERLOADED)
    await bench.run_dry()
    assert outcome(bench, control) == ("RESOURCE_EXHAUSTED", None, None, 1)
    assert isinstance(control.only, Failed)
    assert control.only.pushback_ms == PUSHBACK_MS
    assert line_of(bench, canary)["fallback"] == "overload"
    assert all(one.record.failures_in_a_row == 0 for one in bench.made), "overload is no fault"


async def test_without_budget_there_is_no_retry(make_bench: Make) -> None:
    """A treatment falls back at once, the default fails at once; neither asks another replica of the version."""
    bench = await make_bench(settings=RoutingSettings(name="router-1", retry_per_call=0.0, retry_banked=0.0))
    calls = [bench.call("on-v2", request_id="r2"), bench.call("on-v1", request_id="r1")]
    await bench.arrive(*calls)
    await bench.fail("v1", MODEL_ERROR)
    await bench.fail("v2", MODEL_ERROR)
    await bench.run_dry()
    assert outcome(bench, calls[0]) == ("OK", "v1", "model_error", 2)
    assert outcome(bench, calls[1]) == ("UNAVAILABLE", None, None, 1)
    assert bench.metrics.retries == 0


async def test_retries_stop_when_the_budget_is_spent(make_bench: Make) -> None:
    """When every call fails, extra attempts are what was banked and earned, and no more."""
    bench = await make_bench(
        settings=RoutingSettings(name="router-1", retry_per_call=0.2, retry_banked=3.0),
        policy=EjectionPolicy(consecutive_failures=1_000_000),
    )
    calls = [bench.call("on-v1", request_id=f"r{n}") for n in range(40)]
    for call in calls:
        await bench.arrive(call)
        while await bench.fail("v1", MODEL_ERROR):
            pass
    attempts = sum(line["attempts"] for line in bench.log.exposures())
    assert attempts - len(calls) == bench.metrics.retries
    assert 3 + 0.2 * 40 - 2 <= bench.metrics.retries <= 3 + 0.2 * 40
    bench.books_balance(calls)
