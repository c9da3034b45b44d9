"""A pool over real gRPC workers in this process: who is in, who is out, who comes back, and who may finish."""

import asyncio

import pytest
from abfleet_experiments.config import ModelTarget
from abfleet_router.fleet.failure import FailureReason
from abfleet_router.fleet.health_watch import ReplicaHealth
from abfleet_transport.call import Code

from tests.router.bench import fake
from tests.router.fakes import Hasty, turns
from tests.router.place import GENEROUS_SECONDS, Place, bench_of, serving, until


async def test_a_worker_is_in_while_it_says_so(place: Place) -> None:
    """In when its version serves, out when it does not, in again: by its own word, at once."""
    worker = await place.worker(serving=False)
    pool = place.pool(worker)
    await until(pool, lambda: bool(pool.replicas) and pool.replicas[0].health is ReplicaHealth.NOT_SERVING)
    assert (pool.available, pool.picker.pick(0.0), pool.unavailable_reason) == ([], None, FailureReason.UNAVAILABLE)
    await worker.health.set_serving(True)
    await serving(pool, 1)
    assert pool.picker.pick(0.0) is pool.replicas[0]
    await worker.health.set_serving(False)
    await serving(pool, 0)


async def test_a_worker_of_another_version_is_not_in(place: Place) -> None:
    """It does not know the version by name, and gets no call."""
    worker = await place.worker("v2")
    pool = place.pool(worker, version="v1")
    await until(pool, lambda: bool(pool.replicas) and pool.replicas[0].health is ReplicaHealth.WRONG_VERSION)
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
    bench.down.add("v1")
    pool.set_targets(["10.0.0.8:1", "10.0.0.9:1"])
    await turns()
    assert set(pool.available) == old
    await bench.arrive(bench.call("u", request_id="r1"))
    await bench.run_dry()
    new = bench.replica("v1", 3)
    new.becomes(ReplicaHealth.SERVING)
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
    place.fleet.follow({"v1": ModelTarget((second.address,))})
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
    assert tuple(pool.leaving) == (old,)
    await bench.arrive(bench.call("u", [5], request_id="r2"))
    assert [len(fake(one).sent) for one in bench.made] == [1, 1]
    await bench.run_dry()
    assert list(call.response.item_ids) == [5, 6]
    async with asyncio.timeout(GENEROUS_SECONDS):
        while tuple(pool.leaving):
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
    assert (pool.replicas, tuple(pool.leaving)) == ((), ())
    bench.books_balance(bench.calls)


async def test_calls_that_wait_are_given_back_when_the_worker_says_no() -> None:
    """What a worker has not been sent is given back the moment it is out; what it has been sent is its to answer."""
    bench, _ = await bench_of(1)
    await bench.arrive(bench.call("u", [1], request_id="r1"))
    await bench.arrive(bench.call("u", [2], request_id="r2"))
    bench.replica("v1").becomes(ReplicaHealth.NOT_SERVING)
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

    monkeypatch.setattr("abfleet_router.fleet.resolve.resolve", resolve)
    monkeypatch.setattr("abfleet_router.fleet.resolve.asyncio", Hasty())
    bench, _ = await bench_of(1)
    step.release()
    bench.fleet.follow({"v2": ModelTarget(("dns:///workers:1",))})
    pool = bench.fleet.pools["v2"]
    await turns(20)
    for _ in range(5):
        seen.append([replica.address for replica in pool.available])
        step.release()
        await turns(20)
    assert seen == [[], ["10.1.0.1:1"], ["10.1.0.1:1", "10.1.0.2:1"], ["10.1.0.1:1", "10.1.0.2:1"], ["10.1.0.2:1"]]
    await bench.close()
