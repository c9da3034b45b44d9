"""Callers, workers, replicas and the clock in any order: whatever comes, each call is answered and logged once."""

import asyncio

from abfleet_experiments.config import ModelTarget
from abfleet_protos.worker_pb2 import RecommendBatchResponse
from abfleet_router.balancing.ejection import EjectionPolicy
from abfleet_router.fleet.batching import BatchingSettings
from abfleet_router.fleet.health_watch import ReplicaHealth
from abfleet_router.fleet.replica import Replica
from abfleet_router.settings import RoutingSettings
from abfleet_transport.call import Code
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from tests.router.bench import Bench
from tests.router.fakes import FakeCall, Sent, broken, turns, worker_answer
from tests.router.stories import MODEL_ERROR, OVERLOADED, TIMED_OUT, USERS


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
            batching=BatchingSettings(max_batch=max_batch, max_in_flight=max_in_flight),
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
        if batches:
            self.runner.run(self.end(*batches[which % len(batches)], what, codes))

    async def end(self, replica: Replica, sent: Sent, what: str, codes: list[int]) -> None:
        """The worker does this with a batch; then everything that follows from it."""
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
        await turns()

    @rule()
    def turn(self) -> None:
        self.runner.run(turns())

    @rule(seconds=st.sampled_from([0.01, 0.3, 0.6, 3.0]), sweep=st.booleans())
    def time_passes(self, seconds: float, sweep: bool) -> None:
        async def pass_time() -> None:
            self.bench.clock.advance(seconds)
            if sweep:
                self.bench.fleet.sweep()
            await turns()

        self.runner.run(pass_time())

    @rule(
        which=st.integers(0, 4), health=st.sampled_from([*ReplicaHealth, ReplicaHealth.SERVING, ReplicaHealth.SERVING])
    )
    def health_changes(self, which: int, health: ReplicaHealth) -> None:
        async def change() -> None:
            if self.bench.made:
                self.bench.made[which % len(self.bench.made)].becomes(health)
            await turns()

        self.runner.run(change())

    @rule(numbers=st.lists(st.integers(1, 3), max_size=3, unique=True), version=st.sampled_from(["v1", "v2", "v3"]))
    def replicas_come_and_go(self, numbers: list[int], version: str) -> None:
        async def follow() -> None:
            targets = tuple(f"10.0.{version[1:]}.{number}:1" for number in numbers)
            self.bench.fleet.follow({version: ModelTarget(targets)})
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
        for replica in self.bench.made:
            if not replica.draining:
                replica.becomes(ReplicaHealth.SERVING)
        await turns()
        await self.bench.run_dry()
        self.bench.clock.advance(10.0)
        self.bench.fleet.sweep()
        await turns()
        await self.bench.run_dry()


RouterMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=35, deadline=None)
TestRouter = RouterMachine.TestCase
