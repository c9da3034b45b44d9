"""The story of a call: answered once, with its own answer, logged once, whatever fails on the way."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from abfleet_experiments.load import load_text
from abfleet_protos.recommender_pb2 import RecommendRequest, RecommendResponse
from abfleet_protos.worker_pb2 import RecommendBatchResponse
from abfleet_router.answers import code_of
from abfleet_router.ejection import EjectionPolicy
from abfleet_router.fallback import Reason
from abfleet_router.lane import HopFailed
from abfleet_router.onward import PUSHBACK_MS
from abfleet_router.replica import Health, LaneSettings
from abfleet_router.settings import RoutingSettings
from abfleet_transport.call import Code
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from tests.router.bench import CONFIG, Bench
from tests.router.fakes import Failed, FakeCall, broken, turns, worker_answer

TIMED_OUT = HopFailed(Reason.TIMEOUT, "late", connection_broke=False)
OVERLOADED = HopFailed(Reason.OVERLOAD, "full", connection_broke=False)
MODEL_ERROR = HopFailed(Reason.MODEL_ERROR, "INTERNAL: a fault", connection_broke=False)
USERS = ("on-v1", "on-v2", "on-v3", "user-1", "")


@pytest.fixture
async def make_bench() -> AsyncIterator[Callable[..., Any]]:
    """Makes open benches, and closes them afterwards."""
    made: list[Bench] = []

    async def make(**parts: Any) -> Bench:
        bench = Bench(**parts)
        made.append(bench)
        await bench.open()
        return bench

    yield make
    for bench in made:
        await bench.close()


Make = Callable[..., Any]


# --- everything at once -----------------------------------------------------------------------------------------------


class RouterMachine(RuleBasedStateMachine):
    """Callers come and go, workers answer, fail, lie, hang, vanish and come back, in any order."""

    calls = Bundle("calls")

    @initialize(
        max_batch=st.integers(1, 4),
        max_in_flight=st.integers(1, 2),
        banked=st.sampled_from([0.0, 1.0, 100.0]),
        max_waiting=st.sampled_from([2, 4096]),
        draws=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=10),
    )
    def open(self, max_batch: int, max_in_flight: int, banked: float, max_waiting: int, draws: list[float]) -> None:
        self.runner = asyncio.Runner()
        self.count = 0
        self.gone: list[FakeCall] = []
        self.draws, self.drawn = draws, 0
        self.bench = Bench(
            policy=EjectionPolicy(consecutive_failures=2),
            lanes=LaneSettings(max_batch=max_batch, max_in_flight=max_in_flight),
            settings=RoutingSettings(
                name="router-1", retry_per_call=0.1, retry_banked=banked, max_waiting_calls=max_waiting
            ),
            draw=self.draw,
        )
        self.runner.run(self.bench.open())

    def draw(self) -> float:
        """The next of the numbers that were drawn, over and over."""
        self.drawn += 1
        return self.draws[self.drawn % len(self.draws)]

    @rule(
        target=calls,
        user_id=st.sampled_from(USERS),
        seconds=st.sampled_from([None, None, 1.0, 0.3, 0.0005, 0.0, -1.0]),
        turn=st.booleans(),
    )
    def call_comes(self, user_id: str, seconds: float | None, turn: bool) -> FakeCall:
        self.count += 1
        call = self.bench.call(user_id, [self.count, 1000 * self.count], seconds=seconds, request_id=f"r{self.count}")
        self.runner.run(self.deliver([call], turn=turn))
        return call

    @rule(user_ids=st.lists(st.sampled_from(USERS), min_size=1, max_size=6))
    def calls_come(self, user_ids: list[str]) -> None:
        calls = []
        for user_id in user_ids:
            self.count += 1
            calls.append(self.bench.call(user_id, [self.count], request_id=f"r{self.count}"))
        self.runner.run(self.deliver(calls, turn=True))

    async def deliver(self, calls: list[FakeCall], *, turn: bool) -> None:
        """Delivers, with or without a turn for what follows."""
        self.bench.router.on_calls(list(calls))
        if turn:
            await turns()

    @rule(call=consumes(calls), turn=st.booleans())
    def caller_leaves(self, call: FakeCall, turn: bool) -> None:
        async def leave() -> None:
            if not call.answers:
                self.gone.append(call)
            self.bench.router.on_cancelled(call)
            if turn:
                await turns()

        self.runner.run(leave())

    @rule()
    def call_comes_and_goes_at_once(self) -> None:
        async def come_and_go() -> None:
            self.count += 1
            call = self.bench.call("on-v3", [self.count], request_id=f"r{self.count}")
            self.bench.router.on_calls([call])
            if not call.answers:
                self.gone.append(call)
            self.bench.router.on_cancelled(call)

        self.runner.run(come_and_go())

    @rule(
        which=st.integers(0, 7),
        what=st.sampled_from(
            ["fine"] * 5
            + ["items", "garbage", "one short", "wrong version", "item of garbage"]
            + ["broken", "late", "full", "fault"]
        ),
        codes=st.lists(st.sampled_from([3, 4, 8, 13, 99]), min_size=1, max_size=3),
    )
    def worker_does(self, which: int, what: str, codes: list[int]) -> None:
        batches = self.bench.open_batches()
        if not batches:
            return
        replica, sent = batches[which % len(batches)]
        good = worker_answer(replica.version, sent.requests)
        match what:
            case "fine":
                sent.answer(good)
            case "items":
                failures = {index: (Code(code) if code < 17 else Code.OK, "item") for index, code in enumerate(codes)}
                sent.answer(worker_answer(replica.version, sent.requests, failures))
            case "garbage":
                sent.answer(b"\xff\xff")
            case "one short":
                sent.answer(worker_answer(replica.version, sent.requests[1:]))
            case "wrong version":
                sent.answer(worker_answer("v9", sent.requests))
            case "item of garbage":
                answer = RecommendBatchResponse.FromString(good)
                answer.responses[0] = b"\xff"
                sent.answer(answer.SerializeToString())
            case "broken":
                sent.fail(broken())
            case "late":
                sent.fail(TIMED_OUT)
            case "full":
                sent.fail(OVERLOADED)
            case _:
                sent.fail(MODEL_ERROR)
        self.turn()

    @rule()
    def turn(self) -> None:
        self.runner.run(turns())

    @rule(seconds=st.sampled_from([0.01, 0.3, 0.6, 3.0]), sweep=st.booleans())
    def time_passes(self, seconds: float, sweep: bool) -> None:
        async def pass_time() -> None:
            self.bench.clock.advance(seconds)
            if sweep:
                self.bench.router.answers.sweep()
            await turns()

        self.runner.run(pass_time())

    @rule(which=st.integers(0, 4), health=st.sampled_from([*Health, Health.SERVING, Health.SERVING]))
    def health_changes(self, which: int, health: Health) -> None:
        async def change() -> None:
            if self.bench.fleet.made:
                self.bench.fleet.made[which % len(self.bench.fleet.made)].becomes(health)
            await turns()

        self.runner.run(change())

    @rule(numbers=st.lists(st.integers(1, 3), max_size=3, unique=True), version=st.sampled_from(["v1", "v2", "v3"]))
    def replicas_come_and_go(self, numbers: list[int], version: str) -> None:
        async def follow() -> None:
            self.bench.fleet.follow({version: [f"10.0.{version[1:]}.{number}:1" for number in numbers]})
            await turns()

        self.runner.run(follow())

    @invariant()
    def nobody_is_answered_twice(self) -> None:
        assert max((len(call.answers) for call in self.bench.calls), default=0) <= 1

    @invariant()
    def the_backlog_is_bounded(self) -> None:
        """Calls that move on after a failure were admitted before: they may exceed the bound, new ones may not."""
        assert self.bench.fleet.backlog.calls >= 0
        assert self.bench.fleet.backlog.bytes >= 0

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        try:
            self.runner.run(self.settle())
            self.bench.nothing_is_left()
            self.bench.books_balance(self.bench.calls, self.gone)
        finally:
            self.runner.run(self.bench.close())
            self.runner.close()

    async def settle(self) -> None:
        """Everybody works again, and time passes until nothing is under way."""
        for replica in self.bench.fleet.made:
            if not replica.draining:
                replica.becomes(Health.SERVING)
        await turns()
        await self.bench.run_dry()
        self.bench.clock.advance(10.0)
        self.bench.router.answers.sweep()
        await turns()
        await self.bench.run_dry()


RouterMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=35, deadline=None)
TestRouter = RouterMachine.TestCase


# --- one story at a time ----------------------------------------------------------------------------------------------


def line_of(bench: Bench, call: FakeCall) -> dict[str, Any]:
    """The one exposure of a call."""
    request_id = RecommendRequest.FromString(call.payload).request_id
    (line,) = [line for line in bench.log.exposures() if line["request_id"] == request_id]
    return line


def outcome(bench: Bench, call: FakeCall) -> tuple[str, str | None, str | None, int]:
    """What the log says of a call: status, who served, why not the assigned one, attempts."""
    line = line_of(bench, call)
    return line["status"], line["served_version"], line["fallback"], line["attempts"]


async def test_the_usual_story(make_bench: Make) -> None:
    """A call is answered by the version of its group, and the line says all there is to say."""
    bench = await make_bench()
    call = bench.call("on-v2", [5, 6], request_id="r1", attributes={"country": "DE", "name": "Ada"})
    await bench.arrive(call)
    bench.clock.advance(0.0125)
    await bench.answer("v2")
    assert call.response == RecommendResponse(
        item_ids=[12, 13],
        scores=[2.0, 1.0],
        request_id="r1",
        experiment="ranking",
        group="experiment",
        model_version="v2",
    )
    line = line_of(bench, call)
    assert line["ts"] == "2026-09-21T14:30:00.000000Z"
    line.pop("ts")
    assert line.pop("allocation") is not None
    assert line.pop("bucket") in range(10_000)
    assert line == {
        "schema": 1, "event": "exposure", "request_id": "r1", "user_id": "on-v2", "layer": "default",
        "experiment": "ranking", "group": "experiment", "reason": "override", "propensity": 0.2,
        "model_version": "v2", "served_version": "v2", "fallback": None, "attempts": 1, "status": "OK",
        "latency_ms": 12.5, "items": [12, 13], "history_length": 2, "attributes": {"country": "DE"},
        "config_revision": bench.config.revision, "synthetic": False, "trace_id": None, "client": None,
        "router": "router-1",
    }  # fmt: skip
    bench.books_balance([call])


async def test_calls_that_share_a_batch_get_their_own_answers(make_bench: Make) -> None:
    """Fifty users over three versions, all at once: nobody gets what was meant for a neighbour."""
    bench = await make_bench(lanes=LaneSettings(max_batch=7))
    calls = [bench.call(f"user-{n}", [n, n * n], request_id=f"r{n}") for n in range(50)]
    await bench.arrive(*calls)
    await bench.run_dry()
    bench.books_balance(calls)
    bench.nothing_is_left()
    versions = {line["served_version"] for line in bench.log.exposures()}
    assert versions == {"v1", "v2", "v3"}


@settings(max_examples=30, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=128).filter(lambda text: len(text.encode()) <= 128),
    st.sampled_from(USERS),
)
def test_request_ids_come_back(request_id: str, user_id: str) -> None:
    """0 to 128 bytes of any text, in answer and line; without one the router makes one, the same in both."""

    async def story() -> None:
        bench = Bench()
        await bench.open()
        call = bench.call(user_id, request_id=request_id)
        await bench.arrive(call)
        await bench.run_dry()
        (line,) = bench.log.exposures()
        assert line["request_id"] == call.response.request_id
        assert line["model_version"] == call.response.model_version
        if request_id:
            assert line["request_id"] == request_id
        else:
            assert line["request_id"]
        assert bench.log.problems == []
        await bench.close()

    asyncio.run(story())


async def test_request_ids_that_the_router_makes_differ(make_bench: Make) -> None:
    """Each call without an id gets one of its own, and two routers do not make the same."""
    made = []
    for bench in (await make_bench(), await make_bench()):
        calls = [bench.call("on-v1") for _ in range(20)]
        await bench.arrive(*calls)
        await bench.run_dry()
        made += [call.response.request_id for call in calls]
    assert len(set(made)) == 40


async def test_the_longest_request_id_in_bytes(make_bench: Make) -> None:
    """128 bytes take two bytes of length on the wire."""
    bench = await make_bench()
    call = bench.call("on-v3", request_id="ü" * 64)
    await bench.arrive(call)
    await bench.run_dry()
    assert call.response.request_id == "ü" * 64
    assert call.response.group == "canary"


async def test_an_answer_that_comes_after_the_call_moved_on_is_dropped(make_bench: Make) -> None:
    """A call whose attempt ran out is asked elsewhere; the first worker's late answer reaches its batch-mate alone."""
    bench = await make_bench()
    hasty = bench.call("on-v2", [1], seconds=0.3, request_id="hasty")
    patient = bench.call("on-v2", [2], request_id="patient")
    bench.replica("v2", 1).becomes(Health.NOT_SERVING)
    await bench.arrive(hasty, patient)
    bench.replica("v2", 1).becomes(Health.SERVING)
    bench.clock.advance(0.16)
    bench.router.answers.sweep()
    await turns()
    assert bench.hop("v2", 1).sent[0].requests == (hasty.payload,)
    first, second = bench.hop("v2", 0).sent[0], bench.hop("v2", 1).sent[0]
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
    bench.replica("v1", 1).becomes(Health.NOT_SERVING)
    call = bench.call("on-v1", [1], seconds=0.3, request_id="late")
    await bench.arrive(call)
    bench.clock.advance(0.29)
    bench.router.answers.sweep()
    await turns()
    sent = bench.hop("v1", 0).sent[0]
    sent.answer(worker_answer("v1", sent.requests))
    await turns()
    assert outcome(bench, call) == ("OK", "v1", None, 1)
    bench.nothing_is_left()


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
    bench.replica("v1", 1).becomes(Health.NOT_SERVING)
    await bench.arrive(*calls)
    bench.replica("v1", 1).becomes(Health.SERVING)
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
    asked = [len(one.fake.sent) for one in bench.fleet.made if one.version == "v1"]
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
    for replica in bench.fleet.made:
        replica.becomes(Health.LOST)
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
    other.becomes(Health.NOT_SERVING)
    waiting = [bench.call("on-v1", [n], request_id=f"w{n}") for n in range(3)]
    await bench.arrive(*waiting)
    other.becomes(Health.SERVING)
    sent.fail(broken())
    await turns()
    await bench.run_dry()
    assert [len(one.fake.sent) for one in (replica, other)] == [1, 1], "nobody is sent to where it was ejected"
    assert {outcome(bench, call) for call in waiting} == {("OK", "v1", None, 1)}
    assert outcome(bench, first) == ("OK", "v1", None, 2)
    assert bench.metrics.retries == 0
    bench.books_balance([first, *waiting])


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
    assert len(bench.hop("v3").sent[-1].requests) == (4 if sent else 3)
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
    assert all(one.fake.sent == [] and one.record.failures_in_a_row == 0 for one in bench.fleet.made)
    bench.nothing_is_left()


async def test_a_worker_that_hangs_costs_half_of_the_time_each(make_bench: Make) -> None:
    """Attempts take at most 500 ms and at most half of what is left; then another replica, then the default."""
    bench = await make_bench()
    call = bench.call("on-v2", seconds=0.8, request_id="r1")
    await bench.arrive(call)
    for left in (0.4, 0.2, 0.1):
        ((_, sent),) = [(one, batch) for one, batch in bench.open_batches() if not batch.outcome.done()]
        assert sent.timeout_seconds == pytest.approx(left)
        bench.clock.advance(left)
        bench.router.answers.sweep()
        await turns()
    await bench.run_dry()
    assert outcome(bench, call) == ("OK", "v1", "timeout", 4)
    assert sum(one.fake.cancelled for one in bench.fleet.made) == 3, "the hung workers were told to stop"
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
    assert all(one.record.failures_in_a_row == 0 for one in bench.fleet.made), "overload is no fault"


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


async def test_before_the_first_configuration(make_bench: Make) -> None:
    """UNAVAILABLE, and no line: there is nothing to say yet of an experiment."""
    bench = Bench()
    call = bench.call("on-v1")
    bench.router.on_calls([call])
    assert call.code is Code.UNAVAILABLE
    assert bench.log.lines == []
    assert bench.rpc.handled(0) == {"UNAVAILABLE": 1}


async def test_a_refused_call_leaves_no_user_behind(make_bench: Make) -> None:
    """INVALID_ARGUMENT is `event: rejected`, names the field, and has neither the user id nor the wrong value."""
    bench = await make_bench()
    calls = [
        bench.call("secret-user", limit=101, request_id="r1", metadata=(("x-synthetic", "1"),)),
        bench.call("secret\x00user", request_id="r2"),
        bench.call("", metadata=(("x-user-id-bin", b"secret\xff"),), request_id="r3"),
        bench.call(payload=b"\x12\x0csecret-use"),
        bench.call("fine", request_id="r5"),
    ]
    await bench.arrive(*calls)
    await bench.run_dry()
    assert [call.code.name for call in calls] == ["INVALID_ARGUMENT"] * 4 + ["OK"]
    rejected = [line for line in bench.log.lines if line["event"] == "rejected"]
    assert [(line["field"], line["request_id"], line["synthetic"]) for line in rejected] == [
        ("limit", "r1", True),
        ("user_id", "r2", False),
        ("x-user-id-bin", "r3", False),
        ("request", None, False),
    ]
    assert not any("secret" in str(line) for line in rejected)
    assert bench.metrics.rejected == 4
    assert bench.log.problems == []


async def test_metadata_is_looked_at(make_bench: Make) -> None:
    """User id, synthetic mark and trace id may come as metadata; the message's user id wins."""
    bench = await make_bench()
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    metadata = (
        ("x-user-id", "on-v2"),
        ("x-synthetic", "1"),
        ("traceparent", f"00-{trace}-00f067aa0ba902b7-01"),
        ("user-agent", "grpc"),
    )
    calls = [
        bench.call("", request_id="r1", metadata=metadata),
        bench.call("on-v3", request_id="r2", metadata=metadata),
    ]
    await bench.arrive(*calls)
    await bench.run_dry()
    lines = [line_of(bench, call) for call in calls]
    assert [(line["user_id"], line["group"]) for line in lines] == [("on-v2", "experiment"), ("on-v3", "canary")]
    assert {(line["synthetic"], line["trace_id"]) for line in lines} == {(True, trace)}


async def test_a_call_without_user_is_served_by_the_default(make_bench: Make) -> None:
    """It belongs to no experiment, and the line says so."""
    bench = await make_bench()
    call = bench.call("", request_id="r1")
    await bench.arrive(call)
    await bench.run_dry()
    line = line_of(bench, call)
    assert (line["reason"], line["user_id"], line["experiment"], line["group"], line["bucket"]) == (
        "no_user_id", None, None, None, None,
    )  # fmt: skip
    assert (call.response.experiment, call.response.group, call.response.model_version) == ("", "", "v1")


async def test_a_call_keeps_its_configuration(make_bench: Make) -> None:
    """What comes into force while a call is under way is for the calls after it."""
    bench = await make_bench()
    edited = load_text(CONFIG.replace("weight: 20", "weight: 19").replace("weight: 10", "weight: 11"))
    call, later = bench.call("on-v3", request_id="r1"), bench.call("on-v3", request_id="r2")
    await bench.arrive(call)
    bench.use(edited)
    await bench.fail("v3", broken())
    await bench.arrive(later)
    await bench.run_dry()
    lines = [line_of(bench, call), line_of(bench, later)]
    assert [line["config_revision"] for line in lines] == [bench.config.revision, edited.revision]
    assert [line["propensity"] for line in lines] == [0.1, 0.11]


async def test_calls_of_a_replica_that_leaves_still_time_out(make_bench: Make) -> None:
    """A replica that drains is watched as before: its calls move on when their attempt is over."""
    bench = await make_bench()
    hasty = bench.call("on-v3", seconds=0.2, request_id="hasty")
    patient = bench.call("on-v3", request_id="patient")
    await bench.arrive(hasty, patient)
    bench.fleet.follow({"v3": ["10.0.2.9:1"]})
    await turns()
    bench.clock.advance(0.11)
    bench.router.answers.sweep()
    await turns()
    await bench.answer("v3")
    await bench.run_dry()
    assert outcome(bench, hasty)[1:] == ("v3", None, 2)
    assert outcome(bench, patient)[1:] == ("v3", None, 1)
    bench.books_balance([hasty, patient])


async def test_calls_of_a_fleet_that_closes_are_failed(make_bench: Make) -> None:
    """In flight or waiting, nobody is left without an answer."""
    bench = await make_bench(lanes=LaneSettings(max_batch=2))
    calls = [bench.call(user, [n], request_id=f"{user}{n}") for n in range(5) for user in ("on-v1", "on-v2", "on-v3")]
    await bench.arrive(*calls)
    bench.fleet.follow({"v3": ["10.0.2.9:1"]})
    bench.fleet.keep_only(["v1", "v3"])
    await bench.fleet.close()
    await turns()
    assert {call.code for call in calls} == {Code.UNAVAILABLE}
    bench.books_balance(calls)
    bench.nothing_is_left()


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (3, Code.INVALID_ARGUMENT),
        (16, Code.UNAUTHENTICATED),
        (0, Code.UNKNOWN),
        (17, Code.UNKNOWN),
        (-1, Code.UNKNOWN),
        (10**9, Code.UNKNOWN),
    ],
)
def test_code_of(number: int, code: Code) -> None:
    """A worker's status code is taken where it is one of an error."""
    assert code_of(number) is code
