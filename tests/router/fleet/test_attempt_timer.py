"""The timer of attempts: set to the earliest of them, and not set at all where there are none."""

import asyncio
import math
from collections.abc import AsyncIterator

import pytest
from abfleet_router.fleet.attempt_timer import LEAST_SECONDS, AttemptTimer

from tests.router.fakes import FakeClock
from tests.router.stories import Make, outcome


class Sweeps:
    """A timer, and what it has asked for: `next_due` is what the next sweep will find."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.next_due = math.inf
        self.swept = asyncio.Event()
        self.timer = AttemptTimer(self.sweep, self.clock)

    def sweep(self) -> float:
        self.swept.set()
        return self.next_due


@pytest.fixture
async def sweeps() -> AsyncIterator[Sweeps]:
    one = Sweeps()
    yield one
    one.timer.stop()


async def test_it_is_due_when_the_earliest_is(sweeps: Sweeps) -> None:
    """Not before it has something to watch; a later one changes nothing, an earlier one comes first."""
    timer, now = sweeps.timer, sweeps.clock.now
    assert timer.due == math.inf
    for seconds, due in ((30.0, 30.0), (40.0, 30.0), (20.0, 20.0)):
        timer.watch(now + seconds)
        assert timer.due == now + due
    timer.stop()
    assert timer.due == math.inf


async def test_after_a_sweep_it_is_due_with_the_next_attempt(sweeps: Sweeps) -> None:
    """Not at all where there is none, so that an idle router is not woken; and not at once again: many attempts that
    end one after the other are swept together."""
    timer, clock = sweeps.timer, sweeps.clock
    timer.watch(clock.now)
    await sweeps.swept.wait()
    assert timer.due == math.inf
    timer.watch(clock.now + 0.001)
    assert timer.due == clock.now + LEAST_SECONDS
    timer.stop()
    sweeps.swept.clear()
    clock.advance(1.0)
    sweeps.next_due = clock.now + 30.0
    timer.watch(clock.now)
    await sweeps.swept.wait()
    assert timer.due == clock.now + 30.0


async def test_an_attempt_ends_though_nobody_looks(make_bench: Make) -> None:
    """The router's own timer ends it, and is set no more once there is no call."""
    bench = await make_bench()
    call = bench.call("on-v1", seconds=0.02, request_id="late")
    timer = bench.fleet._timer
    assert timer.due == math.inf
    await bench.arrive(call)
    assert timer.due <= bench.clock.now + 0.02
    bench.clock.advance(0.03)
    async with asyncio.timeout(30):
        while not call.answers:
            await asyncio.sleep(0.001)
    assert outcome(bench, call)[0] == "DEADLINE_EXCEEDED"
    assert timer.due == math.inf
