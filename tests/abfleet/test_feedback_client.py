"""The feedback client against a server that answers as the test says: batches, retries, and nothing lost silently."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from abfleet_protos.recommender_pb2 import RecordRequest, RecordResponse, Rejection
from abfleet_protos.recommender_pb2_grpc import FeedbackServicer, add_FeedbackServicer_to_server

from abfleet import feedback_client
from abfleet.feedback_client import FeedbackClient, Outcome, OutcomesLost


class Desk(FeedbackServicer):
    """Keeps every batch; fails as often as told."""

    def __init__(self) -> None:
        self.batches: list[RecordRequest] = []
        self.failures: list[grpc.StatusCode] = []
        self.address = ""

    async def Record(self, request: RecordRequest, context: Any) -> RecordResponse:
        self.batches.append(request)
        if self.failures:
            await context.abort(self.failures.pop(0), "told to")
        wrong = [index for index, one in enumerate(request.outcomes) if one.type == "wrong"]
        return RecordResponse(
            accepted=len(request.outcomes) - len(wrong),
            rejected=len(wrong),
            rejections=[Rejection(index=index, reason="type: 'wrong'") for index in wrong],
        )


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    """Served on a free port; back-off is short."""
    monkeypatch.setattr(feedback_client, "FIRST_BACKOFF_SECONDS", 0.001)
    one = Desk()
    server = grpc.aio.server()
    add_FeedbackServicer_to_server(one, server)  # type: ignore[no-untyped-call]
    one.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield one
    await server.stop(None)


def click(number: int, **changes: Any) -> Outcome:
    return Outcome(**{"outcome_id": f"o-{number}", "type": "click", "user_id": "u", **changes})


async def test_outcomes_travel_in_batches(desk: Desk) -> None:
    """Each once, in order, no batch larger than asked; leaving sends what waits, whatever the linger time."""
    async with FeedbackClient(desk.address, batch=100, linger_seconds=3600) as client:
        for number in range(250):
            await client.record(click(number))
    assert [len(batch.outcomes) for batch in desk.batches] == [100, 100, 50]
    assert [one.outcome_id for batch in desk.batches for one in batch.outcomes] == [f"o-{n}" for n in range(250)]
    assert client.tally.accepted == 250


async def test_an_outcome_does_not_wait_for_ever(desk: Desk) -> None:
    """After the linger time it is sent alone."""
    async with FeedbackClient(desk.address, linger_seconds=0.001) as client:
        await client.record(click(1))
        async with asyncio.timeout(30):
            while not desk.batches:
                await asyncio.sleep(0.001)


async def test_a_failure_is_tried_again(desk: Desk) -> None:
    """The same outcomes under the same ids and times, until they are acknowledged."""
    desk.failures = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED]
    async with FeedbackClient(desk.address) as client:
        await client.record(click(1, outcome_id=""))
    assert len(desk.batches) == 3
    assert desk.batches[0] == desk.batches[1] == desk.batches[2]
    assert desk.batches[0].outcomes[0].outcome_id
    assert desk.batches[0].outcomes[0].time
    assert (client.tally.accepted, client.tally.retries, client.tally.lost) == (1, 2, 0)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT])
async def test_what_will_not_change_is_given_up_aloud(desk: Desk, code: grpc.StatusCode) -> None:
    """Once, not again and again: counted, handed over, and raised at the end."""
    desk.failures = [code]
    lost: list[Any] = []
    client = FeedbackClient(desk.address, on_lost=lambda batch, why: lost.append((list(batch), why)))
    with pytest.raises(OutcomesLost, match=code.name) as caught:
        async with client:
            await client.record(click(1))
    assert caught.value.count == client.tally.lost == 1
    ((batch, why),) = lost
    assert [one.outcome_id for one in batch] == ["o-1"]
    assert code.name in why
    assert len(desk.batches) == 1


async def test_time_is_up(desk: Desk) -> None:
    """A router that never comes back: given up after the time that was given, aloud."""
    desk.failures = [grpc.StatusCode.UNAVAILABLE] * 1000
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    client = FeedbackClient(desk.address, give_up_seconds=5, clock=clock)
    with pytest.raises(OutcomesLost):
        async with client:
            await client.record(click(1))
    assert 2 <= len(desk.batches) <= 7


async def test_rejections_reach_the_caller(desk: Desk) -> None:
    """With the outcome that was meant and the reason; they are not lost, they are wrong."""
    told: list[tuple[str, str]] = []
    client = FeedbackClient(desk.address, on_rejected=lambda one, why: told.append((one.outcome_id, why)))
    async with client:
        for number, kind in enumerate(("click", "wrong", "click")):
            await client.record(click(number, type=kind))
    assert told == [("o-1", "type: 'wrong'")]
    assert (client.tally.accepted, client.tally.rejected) == (2, 1)


async def test_capacity(desk: Desk) -> None:
    """A caller who is faster than the router waits; nothing is dropped and nothing piles up."""
    async with FeedbackClient(desk.address, batch=5, capacity=10, linger_seconds=0) as client:
        async with asyncio.timeout(30):
            for number in range(100):
                await client.record(click(number))
                assert len(client._waiting) <= 10
    assert client.tally.accepted == 100


async def test_an_error_of_the_callers_own_is_not_hidden(desk: Desk) -> None:
    """What was raised inside counts, not what was lost."""
    desk.failures = [grpc.StatusCode.UNAUTHENTICATED]
    client = FeedbackClient(desk.address)

    async def stumble() -> None:
        async with client:
            await client.record(click(1))
            raise KeyError

    with pytest.raises(KeyError):
        await stumble()
    assert client.tally.lost == 1


async def test_closed(desk: Desk) -> None:
    """Nothing is taken any more."""
    client = FeedbackClient(desk.address)
    async with client:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        await client.record(click(1))


@pytest.mark.parametrize("batch", [0, 10_001])
def test_a_batch_size_that_is_not_allowed(batch: int) -> None:
    """The router would refuse it."""
    with pytest.raises(ValueError, match="1 to 10000"):
        FeedbackClient("x", batch=batch)
