"""Calls whose time runs out, and callers that go: what is tried, what is logged, and that nobody else feels it."""

import pytest
from abfleet_experiments.config import ModelTarget
from abfleet_router.fleet.batching import BatchingSettings
from abfleet_router.fleet.health_watch import ReplicaHealth
from abfleet_transport.call import Code

from tests.router.bench import fake
from tests.router.fakes import turns, worker_answer
from tests.router.stories import Make, outcome


async def test_an_answer_that_comes_after_the_call_moved_on_is_dropped(make_bench: Make) -> None:
    """A call whose attempt ran out is asked elsewhere; the first worker's late answer reaches its batch-mate alone."""
    bench = await make_bench()
    hasty = bench.call("on-v2", [1], seconds=0.3, request_id="hasty")
    patient = bench.call("on-v2", [2], request_id="patient")
    bench.replica("v2", 1).becomes(ReplicaHealth.NOT_SERVING)
    await bench.arrive(hasty, patient)
    bench.replica("v2", 1).becomes(ReplicaHealth.SERVING)
    bench.clock.advance(0.16)
    bench.fleet.sweep()
    await turns()
    assert bench.link("v2", 1).sent[0].requests == (hasty.payload,)
    first, second = bench.link("v2", 0).sent[0], bench.link("v2", 1).sent[0]
    first.answer(worker_answer("v2", first.requests))
    await turns()
    assert hasty.answers == []
    assert list(patient.response.item_ids) == [3, 4]
    second.answer(worker_answer("v2", second.requests))
    await turns()
    assert outcome(bench, hasty) == ("OK", "v2", None, 2)
    bench.books_balance([hasty, patient])
    bench.nothing_is_left()


async def test_the_last_attempt_has_all_the_time_that_is_left(make_bench: Make) -> None:
    """Where no replica and no version is left to ask, an attempt is not cut at half: a worker that needs most of the
    caller's time answers in time."""
    bench = await make_bench()
    bench.replica("v1", 1).becomes(ReplicaHealth.NOT_SERVING)
    call = bench.call("on-v1", [1], seconds=0.3, request_id="late")
    await bench.arrive(call)
    bench.clock.advance(0.29)
    bench.fleet.sweep()
    await turns()
    sent = bench.link("v1", 0).sent[0]
    sent.answer(worker_answer("v1", sent.requests))
    await turns()
    assert outcome(bench, call) == ("OK", "v1", None, 1)
    bench.nothing_is_left()


@pytest.mark.parametrize("sent", [False, True], ids=["waiting", "in flight"])
async def test_a_caller_that_goes_touches_nobody(make_bench: Make, sent: bool) -> None:
    """Its batch-mates are answered, it is logged CANCELLED with nothing served, and no count is left."""
    bench = await make_bench()
    if not sent:
        await bench.arrive(bench.call("on-v3", request_id="before"))
    calls = [bench.call("on-v3", [n], request_id=f"r{n}") for n in range(4)]
    await bench.arrive(*calls)
    bench.router.on_cancelled(calls[1])
    bench.router.on_cancelled(calls[1])
    await bench.run_dry()
    assert outcome(bench, calls[1]) == ("CANCELLED", None, None, int(sent))
    assert len(bench.link("v3").sent[-1].requests) == (4 if sent else 3)
    bench.books_balance(bench.calls, [calls[1]])
    bench.nothing_is_left()


async def test_a_caller_whose_time_is_up_is_logged_so(make_bench: Make) -> None:
    """The transport tells of both in one way; the clock tells them apart."""
    bench = await make_bench()
    call = bench.call("on-v1", seconds=0.4, request_id="r1")
    await bench.arrive(call)
    bench.clock.advance(0.4)
    bench.router.on_cancelled(call)
    assert outcome(bench, call)[0] == "DEADLINE_EXCEEDED"


async def test_a_caller_that_goes_after_its_answer_changes_nothing(make_bench: Make) -> None:
    """One line, one count."""
    bench = await make_bench()
    call = bench.call("on-v1", request_id="r1")
    await bench.arrive(call)
    await bench.run_dry()
    bench.router.on_cancelled(call)
    bench.books_balance([call])


@pytest.mark.parametrize("seconds", [0.0, -5.0])
async def test_a_call_without_time_is_not_sent(make_bench: Make, seconds: float) -> None:
    """Expired on arrival: DEADLINE_EXCEEDED at once, no attempt, and no replica is blamed."""
    bench = await make_bench()
    calls = [bench.call("on-v3", seconds=seconds, request_id=f"r{n}") for n in range(20)]
    await bench.arrive(*calls)
    assert {call.code for call in calls} == {Code.DEADLINE_EXCEEDED}
    assert {outcome(bench, call) for call in calls} == {("DEADLINE_EXCEEDED", None, None, 0)}
    assert all(fake(one).sent == [] and one.record.failures_in_a_row == 0 for one in bench.made)
    bench.nothing_is_left()


async def test_a_worker_that_hangs_costs_half_of_the_time_each(make_bench: Make) -> None:
    """Attempts take at most 500 ms and at most half of what is left; then another replica, then the default."""
    bench = await make_bench()
    call = bench.call("on-v2", seconds=0.8, request_id="r1")
    await bench.arrive(call)
    for left in (0.4, 0.2, 0.1):
        ((_, sent),) = [(one, batch) for one, batch in bench.open_batches() if not batch.over]
        assert sent.timeout_seconds == pytest.approx(left)
        bench.clock.advance(left)
        bench.fleet.sweep()
        await turns()
    await bench.run_dry()
    assert outcome(bench, call) == ("OK", "v1", "timeout", 4)
    assert sum(fake(one).cancelled for one in bench.made) == 3, "the hung workers were told to stop"
    bench.books_balance([call])
    bench.nothing_is_left()


async def test_attempts_are_bounded_when_there_is_time(make_bench: Make) -> None:
    """With much time left an attempt lasts the configured 500 ms; a caller without a deadline has 2 s."""
    bench = await make_bench()
    await bench.arrive(bench.call("on-v1", seconds=60.0), bench.call("on-v2"))
    assert [sent.timeout_seconds for _, sent in bench.open_batches()] == [pytest.approx(0.5)] * 2
    bench.clock.advance(1.6)
    await bench.answer()
    assert {line["status"] for line in bench.log.exposures()} == {"OK"}


async def test_calls_of_a_replica_that_leaves_still_time_out(make_bench: Make) -> None:
    """A replica that drains is watched as before: its calls move on when their attempt is over."""
    bench = await make_bench()
    hasty = bench.call("on-v3", seconds=0.2, request_id="hasty")
    patient = bench.call("on-v3", request_id="patient")
    await bench.arrive(hasty, patient)
    bench.fleet.follow({"v3": ModelTarget(("10.0.2.9:1",))})
    await turns()
    bench.clock.advance(0.11)
    bench.fleet.sweep()
    await turns()
    await bench.answer("v3")
    await bench.run_dry()
    assert outcome(bench, hasty)[1:] == ("v3", None, 2)
    assert outcome(bench, patient)[1:] == ("v3", None, 1)
    bench.books_balance([hasty, patient])


async def test_calls_of_a_fleet_that_closes_are_failed(make_bench: Make) -> None:
    """In flight or waiting, nobody is left without an answer."""
    bench = await make_bench(batching=BatchingSettings(max_batch=2))
    calls = [bench.call(user, [n], request_id=f"{user}{n}") for n in range(5) for user in ("on-v1", "on-v2", "on-v3")]
    await bench.arrive(*calls)
    bench.fleet.follow({"v3": ModelTarget(("10.0.2.9:1",))})
    bench.fleet.keep_only(["v1", "v3"])
    await bench.fleet.close()
    await turns()
    assert {call.code for call in calls} == {Code.UNAVAILABLE}
    bench.books_balance(calls)
    bench.nothing_is_left()
