"""The link to a worker over real gRPC: batches, refusals, deaths, and how it is connected again."""

import asyncio
from typing import Any

import grpc
import pytest
import uvloop
from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_protos.worker_pb2 import RecommendBatchRequest
from abfleet_router.fleet.connector import OnConnection, SocketConnector
from abfleet_router.fleet.failure import BatchFailed, BatchOutcome, FailureReason
from abfleet_router.fleet.http2_client import ClientConnection
from abfleet_router.fleet.worker_link import WorkerLink
from structlog.testing import capture_logs

from tests.router.fakes import Hasty
from tests.router.place import GENEROUS_SECONDS, Place, serving, socket_link
from tests.router.stub_worker import StubWorker


def batch_of(*histories: list[int]) -> bytes:
    """A batch as a queue sends it."""
    requests = [RecommendRequest(item_ids=history).SerializeToString() for history in histories]
    return RecommendBatchRequest(requests=requests).SerializeToString()


class Patient:
    """Waits for as long as a connection lasts."""

    async def on_connected(self) -> None:
        await asyncio.sleep(3600)

    def on_lost(self) -> None: ...

    def on_moving(self) -> None: ...


async def send(link: WorkerLink, message: bytes) -> bytes:
    """Sends a batch and waits for its end. Raises BatchFailed."""
    done: asyncio.Future[BatchOutcome] = asyncio.get_running_loop().create_future()
    sent = link.send(message, 30.0, done.set_result)
    try:
        outcome = await done
    except asyncio.CancelledError:
        sent.cancel()
        raise
    if isinstance(outcome, BatchFailed):
        raise outcome
    return outcome


async def link_to(place: Place, worker: StubWorker) -> WorkerLink:
    """The link to a worker, connected."""
    pool = place.pool(worker)
    await serving(pool, 1)
    link = pool.replicas[0].link
    assert isinstance(link, WorkerLink)
    return link


async def test_a_batch_goes_and_comes_back(place: Place) -> None:
    """Bytes out, bytes in; a batch of megabytes too, past every window and frame of HTTP/2."""
    worker = await place.worker()
    link = await link_to(place, worker)
    assert len(await send(link, batch_of([1], [2]))) > 0
    large = batch_of(*([list(range(1000, 3000))] * 500))
    assert len(large) > 1_500_000
    answer = await send(link, large)
    assert worker.batches == [2, 500]
    assert len(answer) > 5000


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, FailureReason.UNAVAILABLE),
        (grpc.StatusCode.CANCELLED, FailureReason.UNAVAILABLE),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, FailureReason.OVERLOAD),
        (grpc.StatusCode.DEADLINE_EXCEEDED, FailureReason.TIMEOUT),
        (grpc.StatusCode.INTERNAL, FailureReason.MODEL_ERROR),
        (grpc.StatusCode.UNIMPLEMENTED, FailureReason.MODEL_ERROR),
        (grpc.StatusCode.UNKNOWN, FailureReason.MODEL_ERROR),
    ],
)
async def test_what_a_refusal_means(place: Place, status: grpc.StatusCode, reason: FailureReason) -> None:
    """A status of the whole batch becomes a reason that routing knows, with the worker's words; no connection broke."""
    worker = await place.worker()
    link = await link_to(place, worker)
    worker.refusal = status
    with pytest.raises(BatchFailed, match="refused") as caught:
        await send(link, batch_of([1]))
    assert (caught.value.reason, caught.value.connection_broke, caught.value.unsent) == (reason, False, False)


async def test_a_worker_that_dies_under_a_batch(place: Place) -> None:
    """The batch fails at once as a broken connection."""
    worker = await place.worker()
    link = await link_to(place, worker)
    worker.hang.clear()
    sending = asyncio.create_task(send(link, batch_of([1])))
    async with asyncio.timeout(GENEROUS_SECONDS):
        await worker.came.wait()
        await worker.stop()
        with pytest.raises(BatchFailed) as caught:
            await sending
    assert caught.value.reason is FailureReason.UNAVAILABLE
    with pytest.raises(BatchFailed) as caught:
        await send(link, batch_of([1]))
    assert caught.value.unsent


async def test_a_batch_that_is_given_up_is_given_up_by_the_worker(place: Place) -> None:
    """The worker hears of it, and the connection goes on."""
    worker = await place.worker()
    link = await link_to(place, worker)
    worker.hang.clear()
    sending = asyncio.create_task(send(link, batch_of([1])))
    async with asyncio.timeout(GENEROUS_SECONDS):
        await worker.came.wait()
        sending.cancel()
        await worker.given_up.wait()
    worker.hang.set()
    assert await send(link, batch_of([1]))


async def test_what_hangs_up_at_once_is_not_tried_without_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that accepts and closes, as a proxy without a worker does, is tried with growing pauses."""
    hasty, tries, enough = Hasty(), 0, asyncio.Event()
    monkeypatch.setattr("abfleet_router.fleet.worker_link.asyncio", hasty)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        writer.close()
        if tries == 6:
            enough.set()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    link = socket_link(f"127.0.0.1:{port}")
    keeping = asyncio.create_task(link.keep_connected(Patient()))
    async with asyncio.timeout(GENEROUS_SECONDS):
        await enough.wait()
    assert hasty.slept[:5] == [0.1, 0.2, 0.4, 0.8, 1.0]
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    link.close()
    server.close()
    await server.wait_closed()


class DeadConnections(SocketConnector):
    """Gives connections that were lost before anybody had them."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1:1")
        self.made, self.third = 0, asyncio.Event()

    async def connect(self, on_closed: OnConnection, on_leaving: OnConnection) -> ClientConnection:
        self.made += 1
        if self.made == 3:
            self.third.set()
        return ClientConnection("127.0.0.1:1", on_closed)  # was never up


async def test_a_connection_that_is_lost_before_it_is_known_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes back from connecting may be dead already: it is not waited for."""
    monkeypatch.setattr("abfleet_router.fleet.worker_link.asyncio", Hasty())
    connections = DeadConnections()
    link = WorkerLink(connections)
    keeping = asyncio.create_task(link.keep_connected(Patient()))
    async with asyncio.timeout(GENEROUS_SECONDS):
        await connections.third.wait()
    assert link.connection is None
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)


class LosingLoop:
    """A loop whose connections are gone by the time that whoever asked for one gets it."""

    def get_running_loop(self) -> "LosingLoop":
        return self

    async def create_connection(self, *arguments: Any, **more: Any) -> tuple[Any, Any]:
        transport, protocol = await asyncio.get_running_loop().create_connection(*arguments, **more)
        transport.abort()
        while protocol.usable:  # the loop needs a turn or two
            await asyncio.sleep(0)
        return transport, protocol


def test_a_connection_that_is_reset_as_it_is_made_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed may still take a connection and reset it before anybody has it. On uvloop, which the
    router runs on, there is no socket to be set up then."""
    monkeypatch.setattr("abfleet_router.fleet.connector.asyncio", LosingLoop())

    async def connect() -> None:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        connector = SocketConnector(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        connection = await connector.connect(lambda _: None, lambda _: None)
        assert not connection.usable
        server.close()
        await server.wait_closed()

    uvloop.run(connect())


class Forgetful(Patient):
    """Has a fault of its own when it hears of the first connection."""

    def __init__(self) -> None:
        self.connected, self.again = 0, asyncio.Event()

    async def on_connected(self) -> None:
        self.connected += 1
        if self.connected == 1:
            raise ZeroDivisionError
        self.again.set()
        await super().on_connected()


async def test_a_fault_in_the_use_of_a_connection_leaves_none_unwatched(place: Place) -> None:
    """It is told, and the worker is connected anew."""
    worker, listener = await place.worker(), Forgetful()
    link = socket_link(worker.address)
    with capture_logs() as lines:
        keeping = asyncio.create_task(link.keep_connected(listener))
        async with asyncio.timeout(GENEROUS_SECONDS):
            await listener.again.wait()
    assert [line["log_level"] for line in lines if "connection failed" in line["event"]] == ["error"]
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    link.close()
