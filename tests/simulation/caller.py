"""Callers of the routers: an HTTP/2 client of its own, so that a mistake of the product's client is not made twice.

It does what a gRPC client does and no more: calls again on another connection only what the server says it has not
read.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from abfleet_protos.recommender_pb2 import RecommendRequest, RecommendResponse
from abfleet_transport.http2 import frames as http2

from tests.simulation.network import Network
from tests.simulation.world import Process
from tests.support.frames import Frame, FrameReader

PATH = "/Recommender/Recommend"
STATUSES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
GRACE_SECONDS = 0.5
"""After its deadline, until a caller stops waiting for a router that says nothing."""


@dataclass(slots=True)
class CallResult:
    """One call as its caller saw it."""

    number: int
    user: str
    router: int
    deadline: float | None
    due: float
    """When it was meant to be sent."""
    sent: float | None = None
    """When it was written; None if it never was."""
    ended: float | None = None
    status: str = ""
    """Of gRPC; `left` where the caller cancelled it, `lost` where the connection ended, `silent` where nothing came."""
    text: str = ""
    pushback: bool = False
    items: list[int] = field(default_factory=list)
    version: str = ""
    group: str = ""
    request_id: str = ""
    alone: bool = False
    """Whether no other call to its router was open when it was sent."""
    answers: int = 0
    on_connection: "CallerConnection | None" = None


class CallerConnection(asyncio.Protocol):
    """One connection to a router."""

    def __init__(self, wrong: Callable[[str], None]) -> None:
        self.usable = False
        self.transport: Any = None
        self._wrong = wrong
        self._reader = FrameReader()
        self._next = 1
        self._open: dict[int, tuple[CallResult, asyncio.Future[str]]] = {}
        self._data: dict[int, bytes] = {}
        self._received = 0
        self._over: set[int] = set()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(http2.client_preface())
        self.usable = True

    def call(self, result: CallResult, payload: bytes) -> "asyncio.Future[str]":
        """Sends a call; the future has its status."""
        stream, self._next = self._next, self._next + 2
        head = http2.request_headers(PATH, "router")
        if result.deadline is not None:
            head += http2.timeout_header(result.deadline)
        body = http2.MESSAGE_PREFIX.pack(0, len(payload)) + payload
        self.transport.write(
            http2.frame(http2.HEADERS, http2.END_HEADERS, stream, head)
            + http2.frame(http2.DATA, http2.END_STREAM, stream, body)
        )
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._open[stream] = (result, done)
        return done

    def cancel(self, done: "asyncio.Future[str]") -> None:
        """Gives a call up."""
        for stream, (_, future) in list(self._open.items()):
            if future is done:
                del self._open[stream]
                self._over.add(stream)
                if self.usable:
                    self.transport.write(http2.frame(http2.RST_STREAM, 0, stream, http2.UINT32.pack(http2.CANCEL)))

    def data_received(self, data: bytes) -> None:
        for got in self._reader.feed(data):
            self._on_frame(got)

    def _on_frame(self, got: Frame) -> None:
        if got.kind == http2.SETTINGS and not got.flags & http2.ACK:
            self.transport.write(http2.frame(http2.SETTINGS, http2.ACK, 0))
        elif got.kind == http2.PING and not got.flags & http2.ACK:
            self.transport.write(http2.frame(http2.PING, http2.ACK, 0, got.payload))
        elif got.kind == http2.GOAWAY:
            self.usable = False
            last = http2.uint31(got.payload)
            for stream in [stream for stream in self._open if stream > last]:
                self._end(stream, "again")
            self._leave()
        elif got.kind == http2.RST_STREAM:
            self._end(got.stream, "RESET")
        elif got.kind == http2.DATA:
            self._data[got.stream] = self._data.get(got.stream, b"") + got.payload
        elif got.kind == http2.HEADERS and got.flags & http2.END_STREAM:
            fields = http2.decode_headers(got.payload)
            self._finish(got.stream, fields)

    def _finish(self, stream: int, fields: dict[str, str]) -> None:
        found = self._open.get(stream)
        if found is None:
            if stream not in self._over:
                self._wrong(f"an answer on stream {stream}, which was not opened or was answered before")
            return
        result = found[0]
        status = STATUSES[int(fields["grpc-status"])]
        result.text = fields.get("grpc-message", "")
        result.pushback = "grpc-retry-pushback-ms" in fields
        if status == "OK":
            data = self._data.get(stream, b"")
            answer = RecommendResponse.FromString(data[5:])
            result.items, result.version = list(answer.item_ids), answer.model_version
            result.group, result.request_id = answer.group, answer.request_id
        result.answers += 1
        self._end(stream, status)

    def _end(self, stream: int, status: str) -> None:
        self._data.pop(stream, None)
        found = self._open.pop(stream, None)
        if found is not None and not found[1].done():
            found[1].set_result(status)
        self._leave()

    def _leave(self) -> None:
        if not self.usable and not self._open:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        for stream in list(self._open):
            self._end(stream, "lost")


class Callers:
    """One process that makes all calls, each as a task of its own."""

    def __init__(self, process: Process, network: Network, hosts: list[str], wrong: Callable[[str], None]) -> None:
        self.process = process
        self.results: list[CallResult] = []
        self._network = network
        self._hosts = hosts
        self._wrong = wrong
        self._connections: dict[tuple[int, int], CallerConnection] = {}
        self._connecting: dict[tuple[int, int], asyncio.Task[CallerConnection]] = {}
        self._outstanding = [0] * len(hosts)

    def make(self, result: CallResult, payload: bytes, *, lane: int, leaves_after: float | None) -> None:
        """Begins a call now; in a turn of the callers' loop."""
        self.results.append(result)
        asyncio.get_running_loop().create_task(
            self._call(result, payload, lane, leaves_after), name=f"call {result.number}"
        )

    async def _connected(self, router: int, lane: int) -> CallerConnection:
        key = (router, lane)
        connection = self._connections.get(key)
        if connection is not None and connection.usable:
            return connection
        task = self._connecting.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._connect(key), name=f"connect {key}")
            self._connecting[key] = task
        return await asyncio.shield(task)

    async def _connect(self, key: tuple[int, int]) -> CallerConnection:
        try:
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(1.0):
                _, connection = await loop.create_connection(
                    lambda: CallerConnection(self._wrong), self._hosts[key[0]], 50051
                )
            self._connections[key] = connection
            return connection
        finally:
            del self._connecting[key]

    async def _call(self, result: CallResult, payload: bytes, lane: int, leaves_after: float | None) -> None:
        world = self.process.world
        status = "again"
        for _ in range(5):
            try:
                connection = await self._connected(result.router, lane)
            except OSError:
                status = "refused"
                break
            status = await self._on(connection, result, payload, leaves_after)
            if status != "again":
                break
        result.status, result.ended = status, world.now
        world.say(f"call {result.number} {status} {result.version} {result.items[:1]}")

    async def _on(
        self, connection: CallerConnection, result: CallResult, payload: bytes, leaves_after: float | None
    ) -> str:
        world, outstanding = self.process.world, self._outstanding
        result.sent = world.now
        result.alone = outstanding[result.router] == 0
        outstanding[result.router] += 1
        done = connection.call(result, payload)
        deadline = 2.0 if result.deadline is None else result.deadline
        patience = leaves_after if leaves_after is not None else deadline + GRACE_SECONDS
        try:
            async with asyncio.timeout(patience):
                return await asyncio.shield(done)
        except TimeoutError:
            connection.cancel(done)
            return "left" if leaves_after is not None else "silent"
        finally:
            outstanding[result.router] -= 1


def request(result: CallResult, item: int) -> bytes:
    """Its message; the largest item of the history is its own."""
    return RecommendRequest(
        item_ids=[1, 2, item], user_id=result.user, request_id=f"call-{result.number}"
    ).SerializeToString()
