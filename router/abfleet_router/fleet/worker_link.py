"""The link to one worker: keeps a connection up, and carries batches and the health watch over it.

Health and batches share one connection, so that a connection that is gone, for whatever reason, is gone for both.
"""

import asyncio
import random
import ssl
from collections.abc import Callable, Coroutine

import structlog
from abfleet_process.security.tls import ClientTls
from abfleet_protos import worker_pb2
from abfleet_transport.call import Code
from abfleet_transport.keepalive import keep_alive

from abfleet_router.fleet.failure import BatchFailed, FailureReason
from abfleet_router.fleet.http2_client import ClientConnection
from abfleet_router.fleet.http2_client_stream import RpcFailed

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


class WorkerLink:
    """Carries batches to one address; `on_lost` hears when the connection is gone."""

    def __init__(
        self,
        address: str,
        on_lost: Callable[[], None],
        *,
        tls: ClientTls | None = None,
        host_name: Callable[[], str] = lambda: "localhost",
    ) -> None:
        """`address`: `host:port` or `unix:path`, resolved; nothing is connected before `keep_connected`.

        `host_name`: what the worker's certificate must say, unless `tls` says otherwise.
        """
        self._address = address
        self._on_lost = on_lost
        self._tls = tls
        self._host_name = host_name
        self._tls_problem = ""
        self._connection: ClientConnection | None = None
        self._wake = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether a batch can be sent now."""
        return self._connection is not None

    async def keep_connected(self, use: Callable[[], Coroutine[None, None, None]]) -> None:
        """Connects, runs `use()` until the connection is lost, and connects again, for ever."""
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
                self._connection = connection
                if not connection.usable:  # lost before it was known here
                    self._on_closed(connection)
                using = asyncio.ensure_future(use())
                try:
                    await self._wake.wait()
                finally:
                    using.cancel()
                    await asyncio.gather(using, return_exceptions=True)
                if clock() - begun > LASTING_SECONDS:
                    backoff = FIRST_BACKOFF_SECONDS
                    self._tls_problem = ""
                    continue
                if self._tls is not None:
                    # In TLS 1.3 a server that wants a certificate and gets none lets the client think that all is well.
                    self._report(ssl.SSLError("the worker closed the connection at once; it may require --worker-cert"))
            # Jitter, or all routers would try a worker that comes back at the same moment.
            await asyncio.sleep(backoff * random.uniform(0.8, 1.2))  # noqa: S311
            backoff = min(MAX_BACKOFF_SECONDS, backoff * 2)

    async def _connect(self) -> ClientConnection:
        loop = asyncio.get_running_loop()
        unix = self._address.startswith("unix:")
        context = self._tls.context if self._tls else None
        name = (self._tls.server_name or self._host_name()) if self._tls else None

        def make() -> ClientConnection:
            authority = "localhost" if unix else self._address
            return ClientConnection(authority, self._on_closed, secure=context is not None)

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
        if connection is self._connection:
            self._connection = None
            self._wake.set()
            self._on_lost()

    async def send(self, message: bytes, timeout_seconds: float) -> bytes:
        """Sends a RecommendBatchRequest and returns the bytes of its answer. Raises BatchFailed."""
        connection = self._connection
        if connection is None:
            raise BatchFailed(FailureReason.UNAVAILABLE, "the worker is not connected", connection_broke=True)
        try:
            stream = connection.call(BATCH_METHOD, message, timeout_seconds)
            try:
                return await stream.done
            except asyncio.CancelledError:
                connection.cancel(stream)
                raise
        except RpcFailed as error:
            reason = REASONS.get(error.code, FailureReason.MODEL_ERROR)
            broke = error.connection_broke or error.code in (Code.UNAVAILABLE, Code.CANCELLED)
            raise BatchFailed(reason, str(error), connection_broke=broke) from None

    async def watch(self, path: str, message: bytes, on_message: Callable[[bytes], None]) -> None:
        """A server-streaming call: hears each message until the stream ends. Raises RpcFailed."""
        connection = self._connection
        if connection is None:
            raise RpcFailed(Code.UNAVAILABLE, "the worker is not connected", connection_broke=True)
        stream = connection.call(path, message, None, on_message)
        try:
            await stream.done
        except asyncio.CancelledError:
            connection.cancel(stream)
            raise

    def check_liveness(self, *, alone: bool) -> None:
        """Called every 20 ms: has the connection check whether the worker still answers.

        `alone`: there is no other worker for the calls.
        """
        if self._connection is not None:
            self._connection.check_liveness(alone=alone)

    def close(self) -> None:
        """Closes the connection; what is under way fails."""
        if self._connection is not None:
            self._connection.close()
