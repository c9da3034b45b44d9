"""A pool over real gRPC workers in this process: who is in, who is out, who comes back, and who may finish."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_protos.worker_pb2 import RecommendBatchRequest
from abfleet_router.connection import Connection
from abfleet_router.ejection import EjectionPolicy
from abfleet_router.fallback import Reason
from abfleet_router.fleet import Fleet
from abfleet_router.hop import Hop
from abfleet_router.lane import Batch, HopFailed
from abfleet_router.pool import Pool
from abfleet_router.replica import PENALTY_SECONDS, Health, LaneSettings, Replica
from abfleet_router.ticket import Ticket
from abfleet_transport.call import Code

from tests.router.bench import Bench, HoplessReplica
from tests.router.fakes import turns
from tests.router.stub_worker import StubWorker

GENEROUS_SECONDS = 30


class Ears:
    """Stands for the router, and keeps what it is told."""

    def __init__(self) -> None:
        self.stranded: list[Ticket] = []

    def on_answered(self, replica: Replica, batch: Batch, message: bytes) -> None: ...

    def on_failed(self, replica: Replica, batch: Batch, failure: HopFailed) -> None: ...

    def on_expired(self, replica: Replica, tickets: list[Ticket]) -> None: ...

    def on_stranded(self, replica: Replica, tickets: list[Ticket], reason: Reason) -> None:
        self.stranded += tickets


class Place:
    """A fleet on real sockets, with the workers that a test starts."""

    def __init__(self) -> None:
        self.workers: list[StubWorker] = []
        self.fleet = Fleet(
            clock=time.monotonic,
            draw=lambda: 0.0,
            policy=EjectionPolicy(consecutive_failures=2, base_seconds=0.05, max_seconds=0.2),
            lanes=LaneSettings(),
        )
        self.fleet.set_receiver(Ears())

    async def worker(self, version: str = "v1", *, serving: bool = True, with_health: bool = True) -> StubWorker:
        """A worker that runs."""
        self.workers.append(await StubWorker(version, with_health=with_health).start(serving=serving))
        return self.workers[-1]

    def pool(self, *workers: StubWorker, version: str = "v1") -> Pool:
        """The pool of a version over these workers."""
        self.fleet.follow({version: [worker.address for worker in workers]})
        return self.fleet.pools[version]

    async def close(self) -> None:
        """Nothing is left listening."""
        await self.fleet.close()
        await asyncio.gather(*(worker.stop() for worker in self.workers))


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    """Closed at the end."""
    one = Place()
    yield one
    await one.close()


async def until(pool: Pool, condition: Callable[[], bool]) -> None:
    """Waits for a change of the pool after which the condition holds."""
    async with asyncio.timeout(GENEROUS_SECONDS):
        while True:
            changed = pool.changed
            if condition():
                return
            await changed.wait()


async def serving(pool: Pool, count: int) -> None:
    """Waits until so many replicas are in."""
    await until(pool, lambda: len(pool.available) == count)


# --- health -----------------------------------------------------------------------------------------------------------


async def test_a_worker_is_in_while_it_says_so(place: Place) -> None:
    """In when its version serves, out when it does not, in again: by its own word, at once."""
    worker = await place.worker(serving=False)
    pool = place.pool(worker)
    await until(pool, lambda: bool(pool.replicas) and pool.replicas[0].health is Health.NOT_SERVING)
    assert (pool.available, pool.pick(0.0), pool.out_because) == ([], None, Reason.UNAVAILABLE)
    await worker.health.set_serving(True)
    await serving(pool, 1)
    assert pool.pick(0.0) is pool.replicas[0]
    await worker.health.set_serving(False)
    await serving(pool, 0)


async def test_a_worker_of_another_version_is_not_in(place: Place) -> None:
    """It does not know the version by name, and gets no call."""
    worker = await place.worker("v2")
    pool = place.pool(worker, version="v1")
    await until(pool, lambda: bool(pool.replicas) and pool.replicas[0].health is Health.WRONG_VERSION)
    assert pool.available == []


async def test_a_worker_without_health_is_taken_as_healthy(place: Place) -> None:
    """As gRPC's own clients do it (gRFC A17)."""
    pool = place.pool(await place.worker(with_health=False))
    await serving(pool, 1)


async def test_a_worker_that_dies_and_comes_back(place: Place) -> None:
    """Out when its connection breaks, in again when it listens on the same address, without help."""
    worker = await place.worker()
    pool = place.pool(worker)
    await serving(pool, 1)
    await worker.stop()
    await serving(pool, 0)
    await worker.start()
    await serving(pool, 1)


async def test_a_worker_that_is_not_there_yet(place: Place) -> None:
    """A pool may name a worker before it listens."""
    worker = await place.worker()
    await worker.stop()
    pool = place.pool(worker)
    await until(pool, lambda: len(pool.replicas) == 1)
    assert pool.available == []
    await worker.start()
    await serving(pool, 1)


async def test_one_fault_is_not_everybodys(place: Place) -> None:
    """Each replica has a connection of its own."""
    workers = [await place.worker() for _ in range(3)]
    pool = place.pool(*workers)
    await serving(pool, 3)
    await workers[1].stop()
    await serving(pool, 2)
    assert {replica.address for replica in pool.available} == {workers[0].address, workers[2].address}


# --- ejection ---------------------------------------------------------------------------------------------------------


async def bench_of(count: int, **policy: Any) -> tuple[Bench, Pool]:
    """A version with so many replicas, without a network."""
    targets = ", ".join(f'"10.0.0.{number}:1"' for number in range(1, count + 1))
    config = f"version: 1\ndefault: v1\nmodels: {{v1: {{target: [{targets}]}}}}\n"
    bench = Bench(config=config, policy=EjectionPolicy(consecutive_failures=2, **policy))
    await bench.open()
    return bench, bench.fleet.pools["v1"]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
async def test_on_suspicion_at_most_half_is_out(count: int) -> None:
    """Every replica fails: floor(n / 2) are ejected, and the others go on; what was due is counted all the same."""
    bench, pool = await bench_of(count)
    for replica in pool.replicas:
        pool.note_failure(replica, Reason.MODEL_ERROR, certain=False, calls=2)
    assert len(pool.available) == count - count // 2
    assert (pool.counters.ejections_detected, pool.counters.ejections_enforced) == (count, count // 2)
    await bench.close()


async def test_suspicion_spares_the_half_that_is_left() -> None:
    """A replica that is dead is out as well: the last one that lives is not ejected on suspicion."""
    bench, pool = await bench_of(2)
    dead, alive = pool.replicas
    assert isinstance(dead, HoplessReplica)
    dead.becomes(Health.LOST)
    pool.note_failure(alive, Reason.TIMEOUT, certain=False, telling=True, calls=9)
    assert pool.available == [alive]
    await bench.close()


async def test_certainty_knows_no_half() -> None:
    """Broken connections take out everybody, and the pool says why nobody is there."""
    bench, pool = await bench_of(3)
    for replica in pool.replicas:
        pool.note_failure(replica, Reason.UNAVAILABLE, certain=True)
    assert pool.available == []
    assert pool.out_because is Reason.EJECTED
    await bench.close()


async def test_to_detect_is_not_to_eject() -> None:
    """With detect_only the counters tell what would have been done."""
    bench, pool = await bench_of(4, detect_only=True)
    for replica in pool.replicas:
        pool.note_failure(replica, Reason.UNAVAILABLE, certain=True)
    assert len(pool.available) == 4
    assert (pool.counters.ejections_detected, pool.counters.ejections_enforced) == (4, 0)
    await bench.close()


async def test_a_failure_looks_like_load() -> None:
    """A replica that fails fast does not attract the calls that it fails."""
    bench, pool = await bench_of(2)
    first, second = pool.replicas
    pool.note_failure(first, Reason.MODEL_ERROR, certain=False)
    assert {pool.pick(float(turn)) for turn in range(20)} == {second}
    pool.note_success(first, 1, 0.001)
    assert first.load == 0
    await bench.close()


async def test_a_failure_is_load_for_a_moment_only() -> None:
    """Else one failure would keep a replica from being tried again, and so from being ejected or trusted."""
    bench, pool = await bench_of(2)
    first, _ = pool.replicas
    pool.note_failure(first, Reason.MODEL_ERROR, certain=False)
    bench.clock.advance(PENALTY_SECONDS - 0.001)
    assert first.load > 0
    bench.clock.advance(0.002)
    assert first.load == 0
    assert first.record.failures_in_a_row == 1, "in a row they still are"
    await bench.close()


async def test_what_tells_enough_ejects_at_once_but_only_half() -> None:
    """One failure of a kind that no chance makes is reason enough, and suspicion all the same."""
    bench, pool = await bench_of(2)
    for replica in pool.replicas:
        pool.note_failure(replica, Reason.TIMEOUT, certain=False, telling=True)
    assert len(pool.available) == 1
    await bench.close()


async def test_a_version_rests_when_nobody_of_it_answers() -> None:
    """The last replica may not be ejected on suspicion, but calls with another place to go need not wait for it. It is
    tried again by one call at a time, and one answer ends the rest."""
    bench, pool = await bench_of(2)
    first, last = pool.replicas
    pool.note_failure(first, Reason.TIMEOUT, certain=False, telling=True)
    assert not pool.rests(bench.clock()), "the other one may be well"
    pool.note_failure(last, Reason.TIMEOUT, certain=False, telling=True)
    assert pool.available == [last]
    assert pool.rests(bench.clock())
    bench.clock.advance(1.0)
    assert not pool.rests(bench.clock())
    last.lane.load = 1
    assert pool.rests(bench.clock()), "one tries already"
    last.lane.load = 0
    pool.note_success(last, 1, 0.001)
    last.lane.load = 1
    assert not pool.rests(bench.clock())
    last.lane.load = 0
    await bench.close()


async def test_an_ejected_replica_comes_back_by_itself(place: Place) -> None:
    """When its time is over, without a call and without a change of health."""
    pool = place.pool(await place.worker())
    await serving(pool, 1)
    (replica,) = pool.replicas
    pool.note_failure(replica, Reason.UNAVAILABLE, certain=True)
    assert pool.available == []
    await serving(pool, 1)
    pool.note_failure(replica, Reason.MODEL_ERROR, certain=False)
    assert pool.counters.ejections_enforced == 1, "on probation one failure is reason enough, but it is all there is"
    assert pool.counters.ejections_detected == 2


async def test_a_timer_that_comes_early_comes_again() -> None:
    """The end of an ejection is by the router's clock: a timer that is a little early must not lose the replica."""
    bench, pool = await bench_of(1, base_seconds=0.002)
    (replica,) = pool.replicas
    pool.note_failure(replica, Reason.UNAVAILABLE, certain=True)
    async with asyncio.timeout(GENEROUS_SECONDS):
        while pool.available == []:
            await asyncio.sleep(0.001)  # the loop's timers fire while the router's clock stands still
            bench.clock.advance(0.0001)
    assert not replica.record.failures_in_a_row
    await bench.close()


async def test_pick_other_is_another() -> None:
    """Never the one that has just failed, none where there is no other."""
    bench, pool = await bench_of(3)
    for replica in pool.replicas:
        assert pool.pick_other(replica) not in (None, replica)
    lonely_bench, lonely = await bench_of(1)
    assert lonely.pick_other(lonely.replicas[0]) is None
    assert lonely.pick_other(None) is lonely.replicas[0]
    await bench.close()
    await lonely_bench.close()


async def test_calls_that_arrive_together_travel_together() -> None:
    """As long as they are about a millisecond of work for one replica; then, and in a new turn, it is drawn anew."""
    bench, pool = await bench_of(2)
    (replica, _), drawn = pool.replicas, 0

    def draw() -> float:
        nonlocal drawn
        drawn += 1
        return 0.0

    bench.draw = draw
    for _ in range(200):
        pool.note_success(replica, 8, 0.001)  # 125 µs a call: eight of them are a millisecond
    assert len({pool.pick(1.0) for _ in range(7)}) == 1
    assert drawn == 2, "one draw of two candidates"
    pool.pick(2.0)
    assert drawn == 4
    for _ in range(200):
        pool.note_success(replica, 1, 0.005)  # one alone is more than that
    pool.pick(3.0)
    pool.pick(3.0)
    assert drawn == 8
    await bench.close()


async def test_an_ejected_replica_is_not_picked_again_in_the_same_turn() -> None:
    """Calls that arrived together are kept together only while the replica is in."""
    bench, pool = await bench_of(3)
    for _ in range(200):
        pool.note_success(pool.replicas[0], 100, 0.001)
    first = pool.pick(1.0)
    assert first is not None
    pool.note_failure(first, Reason.UNAVAILABLE, certain=True)
    assert pool.pick(1.0) not in (None, first)
    await bench.close()


# --- coming and going -------------------------------------------------------------------------------------------------


async def test_replicas_follow_the_targets() -> None:
    """New ones get calls, gone ones get none, the others are not touched."""
    bench, pool = await bench_of(2)
    first, second = pool.replicas
    pool.set_targets(["10.0.0.2:1", "10.0.0.3:1", "10.0.0.3:1"])
    await turns()
    assert [replica.address for replica in pool.available] == ["10.0.0.2:1", "10.0.0.3:1"]
    assert pool.replicas[0] is second
    assert first.draining
    await bench.close()


async def test_a_version_that_moves_is_served_all_the_time() -> None:
    """The old replicas go when the first new one serves, and not before."""
    bench, pool = await bench_of(2)
    old = set(pool.replicas)
    bench.fleet.down.add("v1")
    pool.set_targets(["10.0.0.8:1", "10.0.0.9:1"])
    await turns()
    assert set(pool.available) == old
    await bench.arrive(bench.call("u", request_id="r1"))
    await bench.run_dry()
    new = bench.replica("v1", 3)
    new.becomes(Health.SERVING)
    assert pool.available == [new]
    assert set(pool.leaving) == old
    assert all(replica.draining for replica in old)
    bench.books_balance(bench.calls)
    assert bench.calls[0].code is Code.OK
    await bench.close()


async def test_a_version_that_moves_for_real_loses_no_call(place: Place) -> None:
    """Calls go on while the target of a version is changed from one worker to another that starts later."""
    first, second = await place.worker(), await place.worker()
    await second.stop()
    pool = place.pool(first)
    await serving(pool, 1)
    place.fleet.follow({"v1": [second.address]})
    await until(pool, lambda: len(pool.replicas) == 2)
    assert [replica.address for replica in pool.available] == [first.address]
    await second.start()
    await until(pool, lambda: [replica.address for replica in pool.available] == [second.address])


async def test_a_pool_without_targets_lets_everybody_go() -> None:
    """There is nobody to wait for."""
    bench, pool = await bench_of(2)
    pool.set_targets([])
    await turns()
    assert (pool.available, pool.replicas) == ([], ())
    await bench.close()


async def test_a_replica_that_leaves_finishes_its_calls() -> None:
    """It gets no more, answers what it has, and only then closes."""
    bench, pool = await bench_of(1)
    call = bench.call("u", [4], request_id="r1")
    await bench.arrive(call)
    (old,) = pool.replicas
    pool.set_targets(["10.0.0.9:1"])
    await turns()
    assert pool.leaving == (old,)
    await bench.arrive(bench.call("u", [5], request_id="r2"))
    assert [len(one.fake.sent) for one in bench.fleet.made] == [1, 1]
    await bench.run_dry()
    assert list(call.response.item_ids) == [5, 6]
    async with asyncio.timeout(GENEROUS_SECONDS):
        while pool.leaving:
            await asyncio.sleep(0.001)
    bench.books_balance(bench.calls)
    await bench.close()


async def test_a_pool_drains_when_its_last_call_is_answered() -> None:
    """`drain` returns after the answer, not before."""
    bench, pool = await bench_of(2)
    await bench.arrive(bench.call("u", request_id="r1"))
    drained = asyncio.create_task(pool.drain())
    await turns(20)
    assert not drained.done()
    assert pool.available == []
    await bench.run_dry()
    async with asyncio.timeout(GENEROUS_SECONDS):
        await drained
    assert (pool.replicas, pool.leaving) == ((), ())
    bench.books_balance(bench.calls)


async def test_calls_that_wait_are_stranded_when_the_worker_says_no() -> None:
    """What a worker has not been sent is given back the moment it is out; what it has been sent is its to answer."""
    bench, _ = await bench_of(1)
    await bench.arrive(bench.call("u", [1], request_id="r1"))
    await bench.arrive(bench.call("u", [2], request_id="r2"))
    bench.replica("v1").becomes(Health.NOT_SERVING)
    await turns()
    assert bench.calls[0].answers == []
    assert bench.calls[1].code is Code.UNAVAILABLE
    await bench.run_dry()
    assert bench.calls[0].code is Code.OK
    bench.books_balance(bench.calls)
    await bench.close()


async def test_names_are_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first failure is retried, replicas come and go with the answers, and a later failure changes nothing."""
    answers: list[list[str] | OSError] = [
        OSError("not yet"),
        ["10.1.0.1:1"],
        ["10.1.0.1:1", "10.1.0.2:1"],
        OSError("for a moment"),
        ["10.1.0.2:1"],
    ]
    step, seen = asyncio.Semaphore(0), []

    async def resolve(target: str) -> list[str]:
        await step.acquire()
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr("abfleet_router.pool.resolve", resolve)
    monkeypatch.setattr("abfleet_router.pool.asyncio", Hasty())
    bench, _ = await bench_of(1)
    step.release()
    bench.fleet.follow({"v2": ["dns:///workers:1"]})
    pool = bench.fleet.pools["v2"]
    await turns(20)
    for _ in range(5):
        seen.append([replica.address for replica in pool.available])
        step.release()
        await turns(20)
    assert seen == [[], ["10.1.0.1:1"], ["10.1.0.1:1", "10.1.0.2:1"], ["10.1.0.1:1", "10.1.0.2:1"], ["10.1.0.2:1"]]
    await bench.close()


class Hasty:
    """asyncio with sleeps that last one turn, and are kept."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


# --- the way to a worker ----------------------------------------------------------------------------------------------


def batch_of(*histories: list[int]) -> bytes:
    """A batch as a lane sends it."""
    requests = [RecommendRequest(item_ids=history).SerializeToString() for history in histories]
    return RecommendBatchRequest(requests=requests).SerializeToString()


async def hop_to(place: Place, worker: StubWorker) -> Hop:
    """A way to a worker that is connected."""
    pool = place.pool(worker)
    await serving(pool, 1)
    return pool.replicas[0].hop


async def test_a_batch_goes_and_comes_back(place: Place) -> None:
    """Bytes out, bytes in; a batch of megabytes too, past every window and frame of HTTP/2."""
    worker = await place.worker()
    hop = await hop_to(place, worker)
    assert len(await hop.send(batch_of([1], [2]), 30.0)) > 0
    large = batch_of(*([list(range(1000, 3000))] * 500))
    assert len(large) > 1_500_000
    answer = await hop.send(large, 30.0)
    assert worker.batches == [2, 500]
    assert len(answer) > 5000


@pytest.mark.parametrize(
    ("status", "reason", "broke"),
    [
        (grpc.StatusCode.UNAVAILABLE, Reason.UNAVAILABLE, True),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.OVERLOAD, False),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Reason.TIMEOUT, False),
        (grpc.StatusCode.INTERNAL, Reason.MODEL_ERROR, False),
        (grpc.StatusCode.UNIMPLEMENTED, Reason.MODEL_ERROR, False),
        (grpc.StatusCode.UNKNOWN, Reason.MODEL_ERROR, False),
    ],
)
async def test_what_a_refusal_means(place: Place, status: grpc.StatusCode, reason: Reason, broke: bool) -> None:
    """A status of the whole batch becomes a reason that routing knows, with the worker's words."""
    worker = await place.worker()
    hop = await hop_to(place, worker)
    worker.refusal = status
    with pytest.raises(HopFailed, match="refused") as caught:
        await hop.send(batch_of([1]), 30.0)
    assert (caught.value.reason, caught.value.connection_broke) == (reason, broke)


async def test_a_worker_that_dies_under_a_batch(place: Place) -> None:
    """The batch fails at once as a broken connection."""
    worker = await place.worker()
    hop = await hop_to(place, worker)
    worker.hang.clear()
    sending = asyncio.create_task(hop.send(batch_of([1]), 30.0))
    async with asyncio.timeout(GENEROUS_SECONDS):
        await worker.came.wait()
        await worker.stop()
        with pytest.raises(HopFailed) as caught:
            await sending
    assert caught.value.reason is Reason.UNAVAILABLE
    with pytest.raises(HopFailed) as caught:
        await hop.send(batch_of([1]), 30.0)
    assert caught.value.connection_broke


async def test_a_batch_that_is_given_up_is_given_up_by_the_worker(place: Place) -> None:
    """The worker hears of it, and the connection goes on."""
    worker = await place.worker()
    hop = await hop_to(place, worker)
    worker.hang.clear()
    sending = asyncio.create_task(hop.send(batch_of([1]), 30.0))
    async with asyncio.timeout(GENEROUS_SECONDS):
        await worker.came.wait()
        sending.cancel()
        await worker.given_up.wait()
    worker.hang.set()
    assert await hop.send(batch_of([1]), 30.0)


async def test_what_hangs_up_at_once_is_not_knocked_at_without_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that accepts and closes, as a proxy without a worker does, is tried with growing pauses."""
    hasty, knocks, enough = Hasty(), 0, asyncio.Event()
    monkeypatch.setattr("abfleet_router.hop.asyncio", hasty)
    monkeypatch.setattr("abfleet_router.hop.random", SimpleNamespace(uniform=lambda low, high: 1.0))

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal knocks
        knocks += 1
        writer.close()
        if knocks == 6:
            enough.set()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    hop = Hop(f"127.0.0.1:{port}", lambda: None)
    keeping = asyncio.create_task(hop.keep_connected(lambda: asyncio.sleep(3600)))
    async with asyncio.timeout(GENEROUS_SECONDS):
        await enough.wait()
    assert hasty.slept[:5] == [0.1, 0.2, 0.4, 0.8, 1.0]
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    hop.close()
    server.close()
    await server.wait_closed()


async def test_a_connection_that_is_lost_before_it_is_known_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes back from connecting may be dead already: it is not waited for."""
    monkeypatch.setattr("abfleet_router.hop.asyncio", Hasty())
    hop, again, connects = Hop("127.0.0.1:1", lambda: None), asyncio.Event(), 0

    async def connect() -> Connection:
        nonlocal connects
        connects += 1
        if connects == 3:
            again.set()
        return Connection("127.0.0.1:1", lambda connection: None)  # was never up

    monkeypatch.setattr(hop, "_connect", connect)
    keeping = asyncio.create_task(hop.keep_connected(lambda: asyncio.sleep(3600)))
    async with asyncio.timeout(GENEROUS_SECONDS):
        await again.wait()
    assert not hop.connected
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
