"""The Call port on our own HTTP/2 server, which runs on the event loop.

No thread and no library stands between the socket and the port: a call is read, decided and sent on in one turn of the
loop. With few calls in flight that is most of what a call costs, because each thread that is woken costs more than all
that is done for the call.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterable
from functools import partial
from typing import Final

from abfleet_process.lasting import start_lasting
from prometheus_client.core import Metric

from abfleet_transport.call import Cancelled, Deliver
from abfleet_transport.http2.call_queue import CallQueue
from abfleet_transport.http2.connection import ServerConnection
from abfleet_transport.http2.forwarding import GrpcioBackend
from abfleet_transport.machine import BACKLOG
from abfleet_transport.plan import ServerPlan

CHECK_SECONDS: Final = 5.0
"""Between checks for streams whose client takes too long."""
CUT_SECONDS: Final = 0.5
"""What a client has, to read what was written before its connection is cut."""


class Http2Server:
    """Serves the hot methods itself and the rest through grpcio. `start` binds; `close` drains, then cuts."""

    transport = "native"

    def __init__(self, plan: ServerPlan, deliver: Deliver, cancelled: Cancelled) -> None:
        self._plan = plan
        self._deliver = deliver
        self._cancelled = cancelled
        self._backend = GrpcioBackend(plan)
        self._queue: CallQueue | None = None
        self._listener: asyncio.Server | None = None
        self._checking: asyncio.Task[None] | None = None
        self._socket_path: str | None = None
        self.port = 0

    @property
    def in_progress(self) -> int:
        """Calls that have been delivered and not answered."""
        return 0 if self._queue is None else self._queue.in_progress

    def families(self) -> Iterable[Metric]:
        """The metrics of the queue of calls; none before `start`."""
        return () if self._queue is None else self._queue.families()

    @property
    def oversized(self) -> int:
        """Calls refused because their message was too large."""
        return 0 if self._queue is None else self._queue.counts.oversized

    async def start(self) -> None:
        """Binds and begins to deliver. Raises AddressError."""
        queue = self._queue = CallQueue(self._plan, self._deliver, self._cancelled, self._backend)
        sock = self._plan.machine.bind(self._plan.address)
        if self._plan.address.startswith("unix:"):
            self._socket_path = self._plan.address.removeprefix("unix:")
        loop = asyncio.get_running_loop()
        try:
            await self._backend.start()
        except BaseException:
            sock.close()
            raise
        self._checking = start_lasting(partial(keep_cutting_slow_streams, queue), "cut slow streams")
        if sock.family == socket.AF_UNIX:
            self._listener = await loop.create_unix_server(lambda: ServerConnection(queue), sock=sock, backlog=BACKLOG)
        else:
            self._listener = await loop.create_server(lambda: ServerConnection(queue), sock=sock, backlog=BACKLOG)
            self.port = sock.getsockname()[1]

    async def close(self, grace_seconds: float = 0.0) -> None:
        """Takes no more connections, answers what has been sent for at most `grace_seconds`, and cuts the rest.

        Clients get GOAWAY first, with the last of their calls, so none is lost on the way.
        """
        queue = self._queue
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._socket_path is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._socket_path)
            self._socket_path = None
        if queue is not None and grace_seconds > 0:
            await self._drained(queue, grace_seconds)
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.gather(self._checking, return_exceptions=True)
        await self._backend.close()
        if queue is not None:
            await self._cut(queue)

    async def _drained(self, queue: CallQueue, at_most_seconds: float) -> None:
        queue.draining = True
        for connection in list(queue.connections):
            connection.drain()
        await self._emptied(queue, at_most_seconds)

    async def _cut(self, queue: CallQueue) -> None:
        for connection in list(queue.connections):
            connection.abort()
        await self._emptied(queue, CUT_SECONDS)

    async def _emptied(self, queue: CallQueue, at_most_seconds: float) -> None:
        queue.emptied.clear()
        if queue.connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(queue.emptied.wait(), at_most_seconds)


async def keep_cutting_slow_streams(queue: CallQueue) -> None:
    """Checks every CHECK_SECONDS, until it is cancelled."""
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        now = queue.clock()
        for connection in list(queue.connections):
            connection.cut_slow_streams(now)
