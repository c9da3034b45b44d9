"""The queue: what goes in comes out once, in order, in batches that are bounded, whatever becomes of its neighbours."""

import asyncio
import math
from asyncio import events
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from abfleet_protos.worker_pb2 import RecommendBatchResponse
from abfleet_router.calls.routed_call import RoutedCall
from abfleet_router.configuration.snapshot import Snapshot
from abfleet_router.fleet.attempt_timer import AttemptTimer
from abfleet_router.fleet.batch import Batch
from abfleet_router.fleet.batch_queue import UNRESPONSIVE_SECONDS, BatchQueue
from abfleet_router.fleet.failure import BatchFailed, FailureReason
from abfleet_router.fleet.waiting_calls import Backlog
from abfleet_transport.call import Code
from abfleet_transport.end_of_turn import EndOfTurn, end_of_turn
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from tests.router.fakes import FakeCall, FakeClock, FakeLink, Sent, broken, turns

SNAPSHOT = cast(Snapshot, SimpleNamespace(arms=(None,)))
"""A queue reads no snapshot; a call wants its first arm."""


def new_call(number: int, clock: FakeClock, seconds: float) -> RoutedCall:
    """A call whose payload is its number, with this long to go."""
    routed = RoutedCall(FakeCall(b"%d" % number), SNAPSHOT, clock.now + 1000)
    routed.attempt_until = clock.now + seconds
    return routed


def call_of(routed: RoutedCall) -> FakeCall:
    """The transport's call, as the fake that it is."""
    assert isinstance(routed.call, FakeCall)
    return routed.call


def echo(sent: Sent) -> bytes:
    """Each request's own bytes as its answer."""
    return RecommendBatchResponse(responses=sent.requests).SerializeToString()


class Owner:
    """Stands for the router: answers what it gets back, or puts it into the same queue once more."""

    def __init__(self) -> None:
        self.queue: BatchQueue | None = None
        self.queues_again: Callable[[RoutedCall], bool] = lambda routed: False

    def end(self, routed: RoutedCall, code: Code) -> None:
        """Answers with an error, unless the call is to be queued again."""
        if self.queues_again(routed):
            assert self.queue is not None
            self.queue.append(routed)
            self.queue.send()
            return
        routed.done = True
        routed.call.fail(code, "")

    def on_answered(self, batch: Batch, message: bytes) -> None:
        answers = RecommendBatchResponse.FromString(message).responses
        for routed, answer in zip(batch.calls, answers, strict=True):
            if routed.batch is batch:
                routed.batch = None
                routed.done = True
                routed.call.reply(answer)

    def on_failed(self, batch: Batch, failure: BatchFailed) -> None:
        calls = [routed for routed in batch.calls if routed.batch is batch]
        for routed in calls:
            routed.batch = None
        for routed in calls:
            self.end(routed, Code.UNAVAILABLE)

    def on_expired(self, calls: list[RoutedCall]) -> None:
        for routed in calls:
            self.end(routed, Code.DEADLINE_EXCEEDED)


class QueueMachine(RuleBasedStateMachine):
    """Everything that can happen to a queue, in any order, with and without a turn of the loop between."""

    calls = Bundle("calls")

    @initialize(max_batch=st.integers(1, 4), max_in_flight=st.integers(1, 3))
    def open(self, max_batch: int, max_in_flight: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock, self.link, self.backlog, self.owner = FakeClock(), FakeLink(), Backlog(), Owner()
        self.max_batch, self.max_in_flight = max_batch, max_in_flight
        self.queue = BatchQueue(
            self.link,
            self.owner,
            self.backlog,
            self.clock,
            turn=EndOfTurn(self.loop),
            timer=AttemptTimer(lambda: math.inf, self.clock),
            max_batch=max_batch,
            max_in_flight=max_in_flight,
        )
        self.owner.queue = self.queue
        self.owner.queues_again = self.is_queued_again
        self.link.on_send = self.check
        self.all: list[RoutedCall] = []
        self.abandoned: set[int] = set()  # calls whose caller left: they get no answer
        self.repeated: set[int] = set()
        self.newest_sent = -1
        self.chances: list[bool] = []

    def is_queued_again(self, routed: RoutedCall) -> bool:
        """Whether a call that failed is put into the queue again; changes what it needs for that."""
        if not self.chances or not self.chances.pop():
            return False
        routed.attempt_until = self.clock.now + 1.0
        self.repeated.add(int(routed.call.payload))
        return True

    def check(self, sent: Sent) -> None:
        """Each batch is small enough, has time left for each call, and has what came first first."""
        assert 1 <= len(sent.requests) <= self.max_batch
        assert len(sent.timeouts_ms) == len(sent.requests)
        assert all(timeout_ms >= 1 for timeout_ms in sent.timeouts_ms)
        for number in map(int, sent.requests):
            if number not in self.repeated:
                assert number > self.newest_sent
                self.newest_sent = number

    def act(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """Runs code on the loop without giving any task a turn."""
        events._set_running_loop(self.loop)
        try:
            return action(*arguments)
        finally:
            events._set_running_loop(None)

    @rule(target=calls, seconds=st.sampled_from([-1.0, 0.0, 0.5, 2.0, 2.0, 2.0]), send=st.booleans())
    def append(self, seconds: float, send: bool) -> RoutedCall:
        routed = new_call(len(self.all), self.clock, seconds)
        self.all.append(routed)
        self.act(self.queue.append, routed)
        if send:
            self.act(self.queue.send)
        return routed

    @rule()
    def send(self) -> None:
        self.act(self.queue.send)

    @rule()
    def turn(self) -> None:
        self.loop.run_until_complete(turns())

    @rule(routed=consumes(calls))
    def caller_leaves(self, routed: RoutedCall) -> None:
        if routed.done:
            return
        routed.done = True
        self.abandoned.add(int(routed.call.payload))
        self.act(self.queue.remove, routed)

    @rule(
        outcome=st.sampled_from(["answer", "answer", "break", "time out"]),
        which=st.integers(0, 5),
        turn=st.booleans(),
        chances=st.lists(st.booleans(), max_size=4),
    )
    def worker_does(self, outcome: str, which: int, turn: bool, chances: list[bool]) -> None:
        if not self.link.open:
            return
        self.chances = chances
        sent = self.link.open[which % len(self.link.open)]
        match outcome:
            case "answer":
                self.act(sent.answer, echo(sent))
            case "break":
                self.act(sent.fail, broken())
            case _:
                self.act(sent.fail, BatchFailed(FailureReason.TIMEOUT, "late", connection_broke=False))
        if turn:
            self.turn()

    @rule(seconds=st.sampled_from([0.1, 0.6, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(chances=st.lists(st.booleans(), max_size=4))
    def sweep(self, chances: list[bool]) -> None:
        self.chances = chances
        waited, in_flight, _, due = self.act(self.queue.expire, self.clock.now)
        ended = {id(routed) for routed in (*waited, *in_flight)}
        left = [one for one in self.all if not one.done and id(one) not in ended]
        assert due == min((one.attempt_until for one in left), default=math.inf)
        assert due > self.clock.now
        for routed in (*waited, *in_flight):
            assert routed.attempt_until <= self.clock.now
            self.act(self.owner.end, routed, Code.DEADLINE_EXCEEDED)

    @rule()
    def take_waiting(self) -> None:
        for routed in self.act(self.queue.take_waiting):
            assert not routed.done
            routed.done = True
            routed.call.fail(Code.UNAVAILABLE, "taken out")

    @invariant()
    def counts_agree(self) -> None:
        live = [routed for routed in self.all if not routed.done]
        waiting = [routed for routed in live if routed.batch is None]
        assert self.queue.load == len(live)
        assert self.backlog.calls == len(waiting)
        assert self.backlog.bytes == sum(len(routed.call.payload) for routed in waiting)
        assert len(self.queue.in_flight) <= self.max_in_flight
        assert len(self.link.open) <= self.max_in_flight

    @invariant()
    def nothing_is_sent_too_late(self) -> None:
        for routed in self.all:
            assert routed.batch is None or routed.batch.sent < routed.attempt_until

    @invariant()
    def at_most_one_answer_and_the_own_one(self) -> None:
        for routed in self.all:
            answers = call_of(routed).answers
            assert len(answers) == (routed.done and int(routed.call.payload) not in self.abandoned)
            if answers and isinstance(answers[0], bytes):
                assert answers[0] == routed.call.payload

    def teardown(self) -> None:
        if not hasattr(self, "queue"):
            return
        try:
            self.chances = []
            self.act(self.queue.send)
            for _ in range(2 * len(self.all) + 2):
                self.turn()
                for sent in self.link.open:
                    self.act(sent.answer, echo(sent))
            self.counts_agree()
            self.at_most_one_answer_and_the_own_one()
            assert all(routed.done for routed in self.all), "a call was forgotten"
            assert self.queue.load == len(self.queue.in_flight) == self.backlog.calls == self.backlog.bytes == 0
        finally:
            self.loop.close()


QueueMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestQueue = QueueMachine.TestCase


class Bench:
    """One queue with its fakes."""

    def __init__(self, **limits: int) -> None:
        self.clock, self.link, self.backlog, self.owner = FakeClock(), FakeLink(), Backlog(), Owner()
        self.timer = AttemptTimer(lambda: math.inf, self.clock)
        turn = end_of_turn(asyncio.get_running_loop())
        self.queue = BatchQueue(self.link, self.owner, self.backlog, self.clock, turn=turn, timer=self.timer, **limits)
        self.owner.queue = self.queue

    def append(self, count: int, seconds: float = 0.5) -> list[RoutedCall]:
        """Puts in so many new calls."""
        calls = [new_call(number, self.clock, seconds) for number in range(count)]
        for routed in calls:
            self.queue.append(routed)
        return calls

    def leave(self, routed: RoutedCall) -> None:
        """The caller goes."""
        routed.done = True
        self.queue.remove(routed)


@pytest.fixture
async def make_bench() -> AsyncIterator[Callable[..., Bench]]:
    """Makes benches, and closes their queues afterwards."""
    made: list[Bench] = []

    def make(**limits: int) -> Bench:
        made.append(Bench(**limits))
        return made[-1]

    yield make
    for bench in made:
        bench.queue.close()


async def test_an_idle_queue_sends_at_once_and_a_busy_one_gathers(make_bench: Callable[..., Bench]) -> None:
    """The first call does not wait for company; those that come while it is away travel together."""
    bench = make_bench()
    bench.append(1)
    bench.queue.send()
    await turns()
    bench.append(7)
    bench.queue.send()
    await turns()
    assert [len(sent.requests) for sent in bench.link.sent] == [1]
    bench.link.sent[0].answer(echo(bench.link.sent[0]))
    await turns()
    assert [len(sent.requests) for sent in bench.link.sent] == [1, 7]


async def test_each_item_carries_its_own_time_and_the_batch_the_longest(make_bench: Callable[..., Bench]) -> None:
    """The worker hears what each call has left, rounded up to whole milliseconds; the RPC lasts as long as the last."""
    bench = make_bench()
    for number, seconds in enumerate((0.0004, 0.25, 0.1)):
        bench.queue.append(new_call(number, bench.clock, seconds))
    bench.queue.send()
    await turns()
    (sent,) = bench.link.sent
    assert sent.timeouts_ms[0] == 1
    assert [round(ms, -1) for ms in sent.timeouts_ms[1:]] == [250, 100]
    assert sent.timeout_seconds == pytest.approx(0.25)


async def test_a_batch_whose_caller_leaves_at_once_does_not_hold_the_queue(
    make_bench: Callable[..., Bench],
) -> None:
    """A call that is cancelled in the very turn of its arrival leaves the queue as it found it."""
    bench = make_bench()
    (routed,) = bench.append(1)
    bench.queue.send()
    bench.leave(routed)
    await turns()
    assert len(bench.queue.in_flight) == 0
    (other,) = bench.append(1)
    bench.queue.send()
    await turns()
    bench.link.sent[-1].answer(echo(bench.link.sent[-1]))
    await turns()
    assert call_of(other).answers == [b"0"]


async def test_a_batch_that_every_caller_has_left_is_called_off_and_makes_room(
    make_bench: Callable[..., Bench],
) -> None:
    """The worker is told to stop, and the next batch need not wait for it."""
    bench = make_bench()
    calls = bench.append(3)
    bench.queue.send()
    await turns()
    waiting = bench.append(2)
    for routed in calls[:2]:
        bench.leave(routed)
    await turns()
    assert bench.link.cancelled == 0
    bench.leave(calls[2])
    await turns()
    assert bench.link.cancelled == 1
    assert [len(sent.requests) for sent in bench.link.sent] == [3, 2]
    assert all(call_of(routed).answers == [] for routed in waiting)


async def test_a_batch_without_an_answer_tells_of_an_unresponsive_replica(make_bench: Callable[..., Bench]) -> None:
    """When all of it is given up after a fair time and nothing has come since; impatient callers prove nothing."""
    bench = make_bench(max_in_flight=1)
    for seconds, patient in ((UNRESPONSIVE_SECONDS / 2, False), (UNRESPONSIVE_SECONDS, True)):
        bench.append(2, seconds=seconds)
        bench.queue.send()
        await turns()
        bench.clock.advance(seconds + 0.001)
        waited, in_flight, unresponsive, _ = bench.queue.expire(bench.clock.now)
        assert (len(waited), len(in_flight), unresponsive) == (0, 2, patient)
        await turns()


async def test_the_batch_after_an_answer_takes_what_was_read_in_the_same_turn(make_bench: Callable[..., Bench]) -> None:
    """It is not sent at the end of what the answer brought: calls of that turn of the loop would each need a batch."""
    bench, turn = make_bench(), end_of_turn(asyncio.get_running_loop())
    bench.append(1)
    await turns()
    bench.append(1)
    turn.begin()
    bench.link.sent[0].answer(echo(bench.link.sent[0]))
    turn.end()
    bench.append(1)
    await turns()
    assert [len(sent.requests) for sent in bench.link.sent] == [1, 2]


async def test_calls_that_expire_may_come_back_to_the_same_queue(make_bench: Callable[..., Bench]) -> None:
    """What the owner does with expired calls may send on this very queue; no more than allowed is in flight for
    that."""
    bench = make_bench(max_in_flight=1)
    bench.append(1, seconds=0.0)
    bench.append(1, seconds=1.0)

    def queue_again(routed: RoutedCall) -> bool:
        routed.attempt_until = bench.clock.now + 1.0
        return True

    bench.owner.queues_again = queue_again
    bench.queue.send()
    await turns()
    assert (len(bench.queue.in_flight), len(bench.link.sent), bench.queue.load) == (1, 1, 2)


async def test_closing_gives_back_what_is_in_flight_and_what_waits(make_bench: Callable[..., Bench]) -> None:
    """Calls of a queue that is closed are failed by their owner, each once; nothing is sent any more."""
    bench = make_bench(max_batch=2)
    calls = bench.append(5)
    bench.queue.send()
    await turns()
    bench.queue.close()
    waiting = bench.queue.take_waiting()
    assert [call_of(routed).answers != [] for routed in calls] == [True, True, False, False, False]
    assert waiting == calls[2:]
    bench.queue.send()
    await turns()
    assert len(bench.link.sent) == 1
    assert (bench.queue.load, len(bench.queue.in_flight), bench.backlog.calls) == (0, 0, 0)


async def test_a_fault_with_one_batch_does_not_hold_the_queue(
    make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of our own, on the way from the connection that carries others, goes no further; the next batch goes."""
    bench = make_bench(max_batch=1)

    def fault(batch: Batch, message: bytes) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(bench.owner, "on_answered", fault)
    bench.append(2)
    bench.queue.send()
    bench.link.sent[0].answer(echo(bench.link.sent[0]))
    await turns()
    assert (len(bench.link.sent), len(bench.queue.in_flight), bench.queue.load) == (2, 1, 1)


async def test_the_bytes_that_wait_are_counted(make_bench: Callable[..., Bench]) -> None:
    """The bound on waiting calls is by bytes too: each counts from its arrival until it is sent."""
    bench = make_bench(max_batch=1)
    for size in (10, 200, 3000):
        routed = new_call(0, bench.clock, 0.5)
        call_of(routed).payload = b"x" * size
        bench.queue.append(routed)
    assert (bench.backlog.calls, bench.backlog.bytes) == (3, 3210)
    bench.queue.send()
    assert (bench.backlog.calls, bench.backlog.bytes) == (2, 3200)
