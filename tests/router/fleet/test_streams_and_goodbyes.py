"""Pools whose workers refuse streams, allow few, or say goodbye to connections: over real sockets."""

import asyncio
from collections.abc import Callable

import pytest
from abfleet_router.fleet.failure import BatchFailed, FailureReason
from abfleet_router.fleet.health_watch import ReplicaHealth

from tests.router.bench import fake
from tests.router.fakes import FakeCall, turns
from tests.router.live import LiveRouter
from tests.router.place import bench_of
from tests.router.stories import Make
from tests.support.fake_worker import Ending, FakeWorker

REFUSED, CANCEL = Ending("reset", 7), Ending("reset", 8)


def each(number: int, ending: Ending) -> Callable[[], Ending | None]:
    """One of so many batches ends so."""
    came = 0

    def due() -> Ending | None:
        nonlocal came
        came += 1
        return None if came % number else ending

    return due


async def answered(calls: list[FakeCall]) -> list[bool]:
    """Whether each was, once all of them have an end."""
    async with asyncio.timeout(30):
        while not all(call.answers for call in calls):
            await asyncio.sleep(0.002)
    return [isinstance(call.only, bytes) for call in calls]


async def sent_one_by_one(live: LiveRouter, count: int) -> list[FakeCall]:
    """So many calls, each of which is a batch."""
    calls = []
    for _ in range(count):
        calls += live.arrive(1)
        await answered(calls[-1:])
    return calls


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("ending", [REFUSED, CANCEL, Ending("status", 14), Ending("goodbye"), Ending("last")])
async def test_batches_that_end_otherwise_lose_no_call(workers: int, ending: Ending) -> None:
    """Every third batch: all calls are answered, once each, and nobody is ejected."""
    async with FakeWorker(each(3, ending)) as one, FakeWorker(each(3, ending)) as two:
        async with LiveRouter([one.address, two.address][:workers]) as live:
            calls = await sent_one_by_one(live, 40)
            assert all(await answered(calls))
            assert live.fleet.pools["v1"].outliers.counters.detected == 0
            attempts = {line["attempts"] for line in live.log.exposures()}
        assert one.ended
    uncounted = ending in (REFUSED, Ending("goodbye"), Ending("last"))
    if uncounted:
        assert attempts == {1}, "what was never begun is no attempt"
    else:
        assert {1, 2} <= attempts <= set(range(1, workers + 2)), "each worker ends a call once at most"


async def test_a_worker_that_refuses_everything_is_a_failure() -> None:
    """A batch is sent again once for nothing; after that its calls go on as failed, and end."""
    async with FakeWorker(lambda: REFUSED) as worker, LiveRouter([worker.address]) as live:
        calls = live.arrive(3)
        assert await answered(calls) == [False] * 3
        (replica,) = live.fleet.pools["v1"].replicas
        assert replica.record.failures_in_a_row > 0
        assert worker.batches <= 2 * 3


async def test_a_worker_that_says_goodbye_to_everything_is_lost() -> None:
    """What it never begins is not sent for ever."""
    async with FakeWorker(lambda: Ending("goodbye")) as worker, LiveRouter([worker.address]) as live:
        assert await answered(live.arrive(3)) == [False] * 3
        assert worker.batches <= 3


async def test_a_worker_that_allows_one_stream_serves() -> None:
    """Its calls have the stream, and its health is asked for between them; never are two open."""
    async with FakeWorker(most_streams=1) as worker, LiveRouter([worker.address]) as live:
        assert all(await answered(await sent_one_by_one(live, 30) + live.arrive(50)))
        assert live.fleet.pools["v1"].replicas[0].health is ReplicaHealth.SERVING
        assert worker.most_open == 1


async def test_calls_wait_for_a_new_connection_only_where_nobody_else_is() -> None:
    """A replica that is being connected anew gets no calls while another is in, and gives back those that wait."""
    bench, pool = await bench_of(2)
    first, second = bench.made
    fake(first).moving = True
    first.on_moving()
    assert pool.available == [second]
    second.becomes(ReplicaHealth.LOST)
    assert pool.available == [first]
    call = bench.call(request_id="r1")
    await bench.arrive(call)
    assert bench.open_batches() == [], "it waits"
    fake(first).moving = False
    first.on_moving()
    await turns()
    assert [replica for replica, _ in bench.open_batches()] == [first]
    await bench.run_dry()
    bench.books_balance([call])
    await bench.close()


async def test_what_was_never_begun_counts_nowhere(make_bench: Make) -> None:
    """Neither as an attempt nor as the resend, nor against the replica, however often it happens."""
    bench = await make_bench()
    calls = [bench.call("on-v3", [n], request_id=f"r{n}") for n in range(3)]
    await bench.arrive(*calls)
    for _ in range(9):
        assert await bench.fail(
            "v3", BatchFailed(FailureReason.UNAVAILABLE, "goodbye", connection_broke=False, unsent=True)
        )
    await bench.run_dry()
    assert {(line["served_version"], line["attempts"]) for line in bench.log.exposures()} == {("v3", 1)}
    assert bench.replica("v3").record.failures_in_a_row == 0
    assert bench.metrics.retries == 0
    bench.books_balance(calls)


async def test_a_stream_that_ends_is_one_failure_whatever_it_carried(make_bench: Make) -> None:
    """A batch of many calls counts once; five in a row eject, and of a pool of one nobody ever is."""
    bench = await make_bench()
    ended = BatchFailed(FailureReason.UNAVAILABLE, "reset", connection_broke=False)
    calls = [bench.call("on-v3", [n], request_id=f"r{n}") for n in range(20)]
    await bench.arrive(*calls)
    await bench.fail("v3", ended)
    assert bench.replica("v3").record.failures_in_a_row == 1
    await bench.run_dry()
    assert {(line["served_version"], line["attempts"]) for line in bench.log.exposures()} == {("v3", 2)}
    for number in range(30):
        await bench.arrive(bench.call("on-v3", [number], request_id=f"s{number}"))
        while await bench.fail("v3", ended):
            pass
    assert bench.replica("v3") in bench.fleet.pools["v3"].available
    await bench.run_dry()
    bench.books_balance(bench.calls)
