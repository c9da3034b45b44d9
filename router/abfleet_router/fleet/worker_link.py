"""The link to one worker: keeps a connection up, and carries batches and the health watch over it.

Health and batches share one connection, so that a connection that is gone, for whatever reason, is gone for both. A
worker that says goodbye to a connection (GOAWAY) is called on a new one; the old one stays until what it carries is
answered.
"""

import asyncio
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

import structlog
from abfleet_process.backoff import backoff_seconds

from abfleet_router.fleet.batch import RECOMMEND
from abfleet_router.fleet.connector import Connector
from abfleet_router.fleet.failure import BatchOutcome
from abfleet_router.fleet.http2_client import ClientConnection
from abfleet_router.fleet.http2_client_stream import RpcFailed
from abfleet_router.fleet.sent_batch import SentBatch, not_connected

log = structlog.get_logger("abfleet.router.worker_link")

CONNECT_SECONDS = 1.0
FIRST_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 1.0
"""gRPC's default of 2 minutes would keep a restarted worker idle."""
LASTING_SECONDS = 1.0
"""A connection that lasted so long was one; what accepts and hangs up at once, as a proxy without a worker does, is
tried no more often than what does not accept."""


class LinkListener(Protocol):
    """Who hears what becomes of a link."""

    async def on_connected(self) -> None:
        """There is a connection; cancelled when it is lost or left."""

    def on_lost(self) -> None:
        """The connection is gone."""

    def on_moving(self) -> None:
        """Another connection is being made, because the worker has said goodbye to the last, or it is there now, as
        `moving` says; where it cannot be made, `on_lost` is called."""


class WorkerLink:
    """Carries batches to one address; nothing is connected before `keep_connected`."""

    def __init__(
        self,
        connector: Connector,
        *,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self._connector = connector
        self._draw = draw
        self.connection: ClientConnection | None = None
        """That a call would go over now; changed only here."""
        self._leaving: dict[ClientConnection, None] = {}  # open for what they carry; the worker has said goodbye
        self._wake = asyncio.Event()
        self.moving = False
        """Whether a new connection is being made after a goodbye; changed only here."""

    @property
    def may_watch(self) -> bool:
        """Whether the worker allows a stream that never ends beside calls."""
        return self.connection is None or self.connection.may_watch

    async def keep_connected(self, listener: LinkListener) -> None:
        """Connects, and connects again whenever the connection is lost or left, for ever."""
        failures, clock = 0, asyncio.get_running_loop().time
        on_closed, on_goodbye = partial(self._on_closed, listener), partial(self._on_goodbye, listener)
        while True:
            begun = clock()
            self._wake.clear()
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    connection = await self._connector.connect(on_closed, on_goodbye)
            except OSError as error:  # TimeoutError and ssl.SSLError are
                self._connector.report(error)
            else:
                self._adopt(listener, connection)
                using = asyncio.ensure_future(listener.on_connected())
                using.add_done_callback(partial(self._on_used, connection))
                try:
                    await self._wake.wait()
                finally:
                    using.cancel()
                    await asyncio.gather(using, return_exceptions=True)
                if clock() - begun > LASTING_SECONDS or (self.moving and connection.served):
                    failures = 0
                    self._connector.lasts()
                    continue
                self._connector.closed_at_once()
            if self.moving:
                self.moving = False
                listener.on_lost()
            failures += 1
            backoff = backoff_seconds(failures, first=FIRST_BACKOFF_SECONDS, most=MAX_BACKOFF_SECONDS)
            # Jitter, or all routers would try a worker that comes back at the same moment.
            await asyncio.sleep(backoff * (0.8 + 0.4 * self._draw()))

    def _on_used(self, connection: ClientConnection, using: asyncio.Future[None]) -> None:
        """Whoever was told of the connection has done with it; a fault of ours must not leave it open unwatched."""
        if not using.cancelled() and (error := using.exception()) is not None:
            log.error("the use of a worker's connection failed", exc_info=error)
            connection.close()

    def _adopt(self, listener: LinkListener, connection: ClientConnection) -> None:
        """Calls go over this connection from now on."""
        self.connection = connection
        if not connection.usable:  # lost before it was known here
            self._on_closed(listener, connection)
        elif self.moving:
            self.moving = False
            listener.on_moving()

    def _on_closed(self, listener: LinkListener, connection: ClientConnection) -> None:
        self._leaving.pop(connection, None)
        if connection is self.connection:
            self.connection = None
            self.moving = False
            self._wake.set()
            listener.on_lost()

    def _on_goodbye(self, listener: LinkListener, connection: ClientConnection) -> None:
        """The worker takes no more calls on a connection: others go on a new one."""
        if connection is self.connection:
            self.connection = None
            self._leaving[connection] = None
            self.moving = True
            self._wake.set()
            listener.on_moving()

    def send(
        self,
        message: bytes,
        timeout_seconds: float,
        on_end: Callable[[BatchOutcome], None],
        path: str = RECOMMEND.path,
    ) -> SentBatch:
        """Calls a method that takes a batch; `on_end` hears later, once, of its answer, or why there is none."""
        return SentBatch(self, message, timeout_seconds, on_end, path)

    async def ask(self, path: str, message: bytes, timeout_seconds: float) -> bytes:
        """A unary call of another method. Raises RpcFailed, and TimeoutError where no answer comes in time."""
        async with asyncio.timeout(timeout_seconds):
            return await self._answer(path, message, timeout_seconds)

    async def watch(self, path: str, message: bytes, on_message: Callable[[bytes], None]) -> None:
        """A server-streaming call: hears each message until the stream ends. Raises RpcFailed."""
        await self._answer(path, message, None, on_message)

    async def _answer(
        self,
        path: str,
        message: bytes,
        timeout_seconds: float | None,
        on_message: Callable[[bytes], None] | None = None,
    ) -> bytes:
        done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def on_end(outcome: bytes | RpcFailed) -> None:
            if done.cancelled():
                return
            if isinstance(outcome, RpcFailed):
                done.set_exception(outcome)
                done.exception()  # whoever waited may have gone: then nobody needs to be told
            else:
                done.set_result(outcome)

        connection = self.connection
        if connection is None:
            raise not_connected()
        stream = connection.call(path, message, timeout_seconds, on_end, on_message)
        try:
            return await done
        except asyncio.CancelledError:
            connection.cancel(stream)
            raise

    def check_liveness(self, *, alone: bool) -> None:
        """Called every 100 ms: has its connections check whether the worker still answers.

        `alone`: there is no other worker for the calls.
        """
        if self.connection is not None:
            self.connection.check_liveness(alone=alone)
        for connection in list(self._leaving):
            connection.check_liveness(alone=alone)

    def close(self) -> None:
        """Closes the connections; what is under way fails."""
        for connection in (*self._leaving, self.connection):
            if connection is not None:
                connection.close()
