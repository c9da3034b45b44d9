"""The Call port on our own HTTP/2 server, which runs on the event loop.

No thread and no library stands between the socket and the port: a call is read, decided and sent on in one turn of the
loop. With few calls in flight that is most of what a call costs, because each thread that is woken costs more than all
that is done for the call.
"""

import asyncio
import contextlib
import os
import socket
import stat
import time
from collections.abc import Iterable
from typing import Final

from abfleet_process.errors import AddressError
from prometheus_client.core import Metric

from abfleet_transport.call import Cancelled, Deliver
from abfleet_transport.http2.call_queue import CallQueue
from abfleet_transport.http2.connection import ServerConnection
from abfleet_transport.http2.forwarding import GrpcioBackend
from abfleet_transport.keepalive import keep_alive
from abfleet_transport.plan import ServerPlan

MAX_PORT: Final = 65535
BACKLOG: Final = 1024
"""Connections that the kernel keeps until they are accepted."""
CHECK_SECONDS: Final = 5.0
"""Between checks for streams whose client takes too long."""
KEEPALIVE: Final = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}
"""Seconds, and tries: a machine that has gone silent would else keep its connection for ever."""
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
        return 0 if self._queue is None else self._queue.oversized

    async def start(self) -> None:
        """Binds and begins to deliver. Raises AddressError."""
        queue = self._queue = CallQueue(self._plan, self._deliver, self._cancelled, self._backend)
        sock = self._bound()
        loop = asyncio.get_running_loop()
        try:
            await self._backend.start()
        except BaseException:
            sock.close()
            raise
        self._checking = loop.create_task(keep_cutting_slow_streams(queue), name="cut slow streams")
        if sock.family == socket.AF_UNIX:
            self._listener = await loop.create_unix_server(lambda: ServerConnection(queue), sock=sock, backlog=BACKLOG)
        else:
            self._listener = await loop.create_server(lambda: ServerConnection(queue), sock=sock, backlog=BACKLOG)
            self.port = sock.getsockname()[1]

    def _bound(self) -> socket.socket:
        address = self._plan.address
        if address.startswith("unix:"):
            return self._bound_unix(address.removeprefix("unix:"))
        host, _, port = address.rpartition(":")
        if not port.isdecimal() or int(port) > MAX_PORT:
            raise AddressError(address, f"port: {port[:64]!r}; allowed are 0 to {MAX_PORT}")
        try:
            name = host.strip("[]") or None
            family, kind, protocol, _, where = socket.getaddrinfo(
                name, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            raise AddressError(address, error.strerror or str(error)) from error
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of connections that ended; not of a listener
            keep_alive(sock, KEEPALIVE)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(where)
            sock.listen(BACKLOG)  # a taken port may show only now
        except OSError as error:
            sock.close()
            raise AddressError(address, error.strerror or str(error)) from error
        sock.setblocking(False)
        return sock

    def _bound_unix(self, path: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISSOCK(os.stat(path).st_mode):
                    os.unlink(path)  # of a process that was killed
            sock.bind(path)
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise AddressError(self._plan.address, error.strerror or str(error)) from error
        self._socket_path = path
        sock.setblocking(False)
        return sock

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
        now = time.monotonic()
        for connection in list(queue.connections):
            connection.cut_slow_streams(now)
