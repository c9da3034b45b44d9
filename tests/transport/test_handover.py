"""What waits between the receiving thread and the event loop is bounded; what does not fit is refused at once."""

import asyncio
import threading
from typing import cast

import grpc
import pytest
from abfleet_transport.call import Call, Code
from abfleet_transport.handover import REFUSAL, Handover
from abfleet_transport.native import NativeServer
from abfleet_transport.plan import ServerPlan

from tests.router.fakes import Failed, FakeCall


class Loop:
    """An event loop that runs when it is told to."""

    def __init__(self) -> None:
        self.posted: list[tuple] = []  # type: ignore[type-arg]

    def call_soon_threadsafe(self, function: object, *arguments: object) -> None:
        self.posted.append((function, *arguments))

    def turn(self) -> None:
        """Runs all that was posted."""
        posted, self.posted = self.posted, []
        for function, *arguments in posted:
            function(*arguments)


def stage(*, max_calls: int = 10, max_bytes: int = 1000) -> tuple[Loop, list[Call], list[Call], Handover]:
    loop, taken, gone = Loop(), list[Call](), list[Call]()
    handover = Handover(
        cast(asyncio.AbstractEventLoop, loop), taken.extend, gone.append, max_calls=max_calls, max_bytes=max_bytes
    )
    return loop, taken, gone, handover


def calls(count: int, size: int = 1) -> list[Call]:
    return [cast(Call, FakeCall(bytes(size))) for _ in range(count)]


def test_what_fits_is_taken_in_order_and_the_rest_is_refused() -> None:
    """Ten may wait: of twelve the last two are refused with a pushback; after a turn of the loop there is room."""
    loop, taken, _, handover = stage()
    first, second = calls(7), calls(5)
    handover.deliver(first)
    handover.deliver(second)
    refused = [cast(FakeCall, call) for call in second[3:]]
    assert [call.only for call in refused] == [Failed(Code.RESOURCE_EXHAUSTED, REFUSAL, 200)] * 2
    assert (handover.waiting_calls, handover.refused) == (10, 2)
    assert taken == []
    loop.turn()
    assert taken == [*first, *second[:3]]
    assert (handover.waiting_calls, handover.waiting_bytes) == (0, 0)
    handover.deliver(more := calls(10))
    loop.turn()
    assert taken[10:] == more
    assert handover.refused == 2


def test_bytes_are_bounded_too() -> None:
    """A large call that does not fit is refused; a small one behind it is not, for it does."""
    loop, taken, _, handover = stage()
    large, larger, small = calls(1, 700)[0], calls(1, 301)[0], calls(1, 300)[0]
    handover.deliver([large, larger, small])
    assert cast(FakeCall, larger).code is Code.RESOURCE_EXHAUSTED
    assert (handover.waiting_calls, handover.waiting_bytes) == (2, 1000)
    handover.deliver(calls(3))
    assert len(loop.posted) == 1, "nothing is posted for nothing"
    loop.turn()
    assert taken == [large, small]


def test_who_has_gone_is_told_on_the_loop() -> None:
    """In the order in which it happened."""
    loop, taken, gone, handover = stage()
    (call,) = calls(1)
    handover.deliver([call])
    handover.cancelled(call)
    loop.turn()
    assert (taken, gone) == ([call], [call])


async def test_a_loop_that_stands_still_has_calls_refused_in_front_of_it() -> None:
    """On the native transport, with a loop that is held up: 50 calls may wait, the callers of all others hear at once
    that they do not fit, while the loop is still held up; then those 50 are answered."""
    pytest.importorskip("pygrpc_native")
    taken: list[Call] = []
    plan = ServerPlan(address="127.0.0.1:0", methods=("/test.Echo/Say",), add_services=lambda server: None)
    refused = threading.Event()

    def take(some: list[Call]) -> None:
        taken.extend(some)
        for call in some:
            call.reply(call.payload)

    handover = Handover(asyncio.get_running_loop(), take, lambda call: None, max_calls=50)
    server = NativeServer(plan, handover.deliver, handover.cancelled)
    await server.start()

    def callers() -> list[grpc.StatusCode]:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            say = channel.unary_unary("/test.Echo/Say", request_serializer=None, response_deserializer=None)
            done = threading.Semaphore(0)
            futures = [say.future(b"x", timeout=60) for _ in range(300)]
            for future in futures:
                future.add_done_callback(lambda _: done.release())
            if all(done.acquire(timeout=30) for _ in range(250)):
                refused.set()
            return [future.code() for future in futures]

    with_callers = asyncio.get_running_loop().run_in_executor(None, callers)
    assert refused.wait(60), "nobody was refused while the loop stood still"  # on purpose on the loop
    codes = await with_callers
    assert codes.count(grpc.StatusCode.OK) == len(taken) == 50
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == handover.refused == 250
    await server.close()
