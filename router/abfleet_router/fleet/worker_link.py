"""The link to one worker: keeps a connection up, and carries batches and the health watch over it.

Health and batches share one connection, so that a connection that is gone, for whatever reason, is gone for both. A
worker that says goodbye to a connection (GOAWAY) is called on a new one; the old one stays until what it carries is
answered.
"""

import asyncio
import random
import ssl
import time
from collections.abc import Callable, Coroutine

import structlog
from abfleet_process.security.tls import ClientTls
from abfleet_protos import worker_pb2
from abfleet_transport.call import Code
from abfleet_transport.keepalive import keep_alive

from abfleet_router.fleet.failure import BatchFailed, BatchOutcome, FailureReason
from abfleet_router.fleet.http2_client import ClientConnection
from abfleet_router.fleet.http2_client_stream import ClientStream, RpcFailed

log = structlog.get_logger("abfleet.router.worker_link")

BATCH_METHOD = f"/{worker_pb2.DESCRIPTOR.services_by_name['Worker'].full_name}/RecommendBatch"
CONNECT_SECONDS = 1.0
FIRST_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 1.0
"""gRPC's default of 2 minutes would keep a restarted worker idle."""
KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 3}
"""Seconds, seconds and tries: how the kernel finds out that the machine at the other end has gone silent, while
no call asks."""
LASTING_SECONDS = 1.0
"""A connection that lasted so long was one; what accepts and hangs up at once, as a proxy without a worker does, is
tried no more often than what does not accept."""

REASONS = {
    Code.UNAVAILABLE: FailureReason.UNAVAILABLE,
    Code.CANCELLED: FailureReason.UNAVAILABLE,  # not by us: a grpcio worker that stops ends so what it has not begun
    Code.DEADLINE_EXCEEDED: FailureReason.TIMEOUT,
    Code.RESOURCE_EXHAUSTED: FailureReason.OVERLOAD,
}


class SentBatch:
    """A batch on its way over a link. What the worker refuses to begin is sent once more at once (gRFC A6, transparent
    retries)."""

    __slots__ = ("_connection", "_given_up", "_link", "_message", "_on_end", "_sent_again", "_stream", "_until")

    def __init__(
        self, link: "WorkerLink", message: bytes, timeout_seconds: float, on_end: Callable[[BatchOutcome], None]
    ) -> None:
        """As of `WorkerLink.send`, which makes it."""
        self._link = link
        self._message = message
        self._until = link.clock() + timeout_seconds
        self._on_end = on_end
        self._sent_again = self._given_up = False
        self._connection: ClientConnection | None = None
        self._stream: ClientStream | None = None
        self._send(timeout_seconds)

    def _send(self, timeout_seconds: float) -> None:
        self._connection = self._link.connection
        try:
            connection = self._link.usable_connection()
            self._stream = connection.call(BATCH_METHOD, self._message, timeout_seconds, self._ended)
        except RpcFailed as error:  # told later: who sends is not ready to hear of it
            asyncio.get_running_loop().call_soon(self._ended, error)

    def _ended(self, outcome: bytes | RpcFailed) -> None:
        if self._given_up:
            return
        if isinstance(outcome, bytes):
            self._on_end(outcome)
            return
        refused = outcome.unsent and self._connection is not None and self._connection is self._link.connection
        if refused and not self._sent_again:
            self._sent_again = True
            self._send(max(0.0, self._until - self._link.clock()))
            return
        reason = REASONS.get(outcome.code, FailureReason.MODEL_ERROR)
        broke, unsent = outcome.connection_broke, outcome.unsent and not refused
        self._on_end(BatchFailed(reason, str(outcome), connection_broke=broke, unsent=unsent))

    def cancel(self) -> None:
        """Gives the batch up; its end is not told any more."""
        self._given_up = True
        if self._connection is not None and self._stream is not None:
            self._connection.cancel(self._stream)


class WorkerLink:
    """Carries batches to one address.

    `on_lost` hears when the connection is gone. `on_moving` hears when another one is being made because the worker has
    said goodbye to the last, and again when it is there; where it cannot be made, `on_lost` hears of that.
    """

    def __init__(
        self,
        address: str,
        on_lost: Callable[[], None],
        *,
        tls: ClientTls | None = None,
        host_name: Callable[[], str] = lambda: "localhost",
        on_moving: Callable[[], None] = lambda: None,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`address`: `host:port` or `unix:path`, resolved; nothing is connected before `keep_connected`.

        `host_name`: what the worker's certificate must say, unless `tls` says otherwise.
        """
        self._address = address
        self._on_lost = on_lost
        self._on_moving = on_moving
        self._tls = tls
        self._host_name = host_name
        self._draw = draw
        self.clock = clock
        self._tls_problem = ""
        self.connection: ClientConnection | None = None
        """That a call would go over now; changed only here."""
        self._leaving: dict[ClientConnection, None] = {}  # open for what they carry; the worker has said goodbye
        self._wake = asyncio.Event()
        self.moving = False
        """Whether a new connection is being made after a goodbye; changed only here."""

    @property
    def connected(self) -> bool:
        """Whether a batch can be sent now."""
        return self.connection is not None

    @property
    def may_watch(self) -> bool:
        """Whether the worker allows a stream that never ends beside calls."""
        return self.connection is None or self.connection.may_watch

    async def keep_connected(self, use: Callable[[], Coroutine[None, None, None]]) -> None:
        """Connects, runs `use()` until the connection is lost or left, and connects again, for ever."""
        backoff, clock = FIRST_BACKOFF_SECONDS, asyncio.get_running_loop().time
        while True:
            begun = clock()
            self._wake.clear()
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    connection = await self._connect()
            except OSError as error:  # TimeoutError and ssl.SSLError are
                self._report(error)
            else:
                self._adopt(connection)
                using = asyncio.ensure_future(use())
                try:
                    await self._wake.wait()
                finally:
                    using.cancel()
                    await asyncio.gather(using, return_exceptions=True)
                if clock() - begun > LASTING_SECONDS or (self.moving and connection.served):
                    backoff = FIRST_BACKOFF_SECONDS
                    self._tls_problem = ""
                    continue
                if self._tls is not None:
                    # In TLS 1.3 a server that wants a certificate and gets none lets the client think that all is well.
                    self._report(ssl.SSLError("the worker closed the connection at once; it may require --worker-cert"))
            if self.moving:
                self.moving = False
                self._on_lost()
            # Jitter, or all routers would try a worker that comes back at the same moment.
            await asyncio.sleep(backoff * (0.8 + 0.4 * self._draw()))
            backoff = min(MAX_BACKOFF_SECONDS, backoff * 2)

    def _adopt(self, connection: ClientConnection) -> None:
        """Calls go over this connection from now on."""
        self.connection = connection
        if not connection.usable:  # lost before it was known here
            self._on_closed(connection)
        elif self.moving:
            self.moving = False
            self._on_moving()

    async def _connect(self) -> ClientConnection:
        loop = asyncio.get_running_loop()
        unix = self._address.startswith("unix:")
        context = self._tls.context if self._tls else None
        name = (self._tls.server_name or self._host_name()) if self._tls else None

        def make() -> ClientConnection:
            authority = "localhost" if unix else self._address
            secure = context is not None
            return ClientConnection(authority, self._on_closed, secure=secure, on_leaving=self._on_goodbye)

        if unix:
            path = self._address.removeprefix("unix:")
            _, connection = await loop.create_unix_connection(make, path, ssl=context, server_hostname=name)
            return connection
        host, _, port = self._address.rpartition(":")
        transport, connection = await loop.create_connection(
            make, host.strip("[]"), int(port), ssl=context, server_hostname=name
        )
        keep_alive(transport.get_extra_info("socket"), KEEPALIVE)
        return connection

    def _report(self, error: OSError) -> None:
        """Logs why it cannot connect: a TLS failure as an error, once for each text, and all else at level debug."""
        text = str(error)
        if not isinstance(error, ssl.SSLError):
            log.debug("cannot connect", address=self._address, error=text)
        elif text != self._tls_problem:
            self._tls_problem = text
            log.error("no TLS with a worker", address=self._address, error=text)

    def _on_closed(self, connection: ClientConnection) -> None:
        self._leaving.pop(connection, None)
        if connection is self.connection:
            self.connection = None
            self.moving = False
            self._wake.set()
            self._on_lost()

    def _on_goodbye(self, connection: ClientConnection) -> None:
        """The worker takes no more calls on a connection: others go on a new one."""
        if connection is self.connection:
            self.connection = None
            self._leaving[connection] = None
            self.moving = True
            self._wake.set()
            self._on_moving()

    def send(self, message: bytes, timeout_seconds: float, on_end: Callable[[BatchOutcome], None]) -> SentBatch:
        """Sends a RecommendBatchRequest; `on_end` hears later, once, of its answer, or why there is none."""
        return SentBatch(self, message, timeout_seconds, on_end)

    async def ask(self, path: str, message: bytes, timeout_seconds: float) -> bytes:
        """A unary call of another method. Raises RpcFailed, and TimeoutError where no answer comes in time."""
        async with asyncio.timeout(timeout_seconds):
            return await self._answer(path, message, timeout_seconds)

    async def watch(self, path: str, message: bytes, on_message: Callable[[bytes], None]) -> None:
        """A server-streaming call: hears each message until the stream ends. Raises RpcFailed."""
        await self._answer(path, message, None, on_message)

    def usable_connection(self) -> ClientConnection:
        """The connection for a call. Raises RpcFailed where there is none."""
        if self.connection is None:
            raise RpcFailed(Code.UNAVAILABLE, "the worker is not connected", unsent=True)
        return self.connection

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

        connection = self.usable_connection()
        stream = connection.call(path, message, timeout_seconds, on_end, on_message)
        try:
            return await done
        except asyncio.CancelledError:
            connection.cancel(stream)
            raise

    def check_liveness(self, *, alone: bool) -> None:
        """Called every 20 ms: has its connections check whether the worker still answers.

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
