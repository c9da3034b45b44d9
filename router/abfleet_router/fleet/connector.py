"""How a worker is connected to: a socket of TCP or unix, TLS where it is wanted, keepalive."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol

import structlog
from abfleet_process.security.tls import ClientTls
from abfleet_transport.keepalive import keep_alive

from abfleet_router.fleet.http2_client import ClientConnection

log = structlog.get_logger("abfleet.router.worker_link")

KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 3}
"""Seconds, seconds and tries: how the kernel finds out that the machine at the other end has gone silent, while
no call asks."""
OnConnection = Callable[[ClientConnection], None]


class Connector(Protocol):
    """Makes connections to one worker."""

    async def connect(self, on_closed: OnConnection, on_leaving: OnConnection) -> ClientConnection:
        """A new connection; both callbacks as of ClientConnection. Raises OSError."""

    def report(self, error: OSError) -> None:
        """Logs why there is no connection."""

    def closed_at_once(self) -> None:
        """A connection was closed by the worker as soon as it was made."""

    def lasts(self) -> None:
        """A connection has lasted."""


class SocketConnector:
    """Connects to `host:port` or `unix:path`."""

    def __init__(
        self, address: str, host_name: Callable[[], str] = lambda: "localhost", *, tls: ClientTls | None = None
    ) -> None:
        """`address`: resolved; `host_name`: what the worker's certificate must say, unless `tls` says otherwise."""
        self._address = address
        self._host_name = host_name
        self._tls = tls
        self._tls_problem = ""

    async def connect(self, on_closed: OnConnection, on_leaving: OnConnection) -> ClientConnection:
        loop = asyncio.get_running_loop()
        unix = self._address.startswith("unix:")
        context = self._tls.context if self._tls else None
        name = (self._tls.server_name or self._host_name()) if self._tls else None

        def make() -> ClientConnection:
            authority = "localhost" if unix else self._address
            return ClientConnection(authority, on_closed, secure=context is not None, on_leaving=on_leaving)

        if unix:
            path = self._address.removeprefix("unix:")
            _, connection = await loop.create_unix_connection(make, path, ssl=context, server_hostname=name)
            return connection
        host, _, port = self._address.rpartition(":")
        transport, connection = await loop.create_connection(
            make, host.strip("[]"), int(port), ssl=context, server_hostname=name
        )
        sock = transport.get_extra_info("socket")
        if sock is not None:  # else the connection is lost already, as is heard when this returns
            keep_alive(sock, KEEPALIVE)
        return connection

    def report(self, error: OSError) -> None:
        """A TLS failure is an error, logged once for each text, and all else is at level debug."""
        text = str(error)
        if not isinstance(error, ssl.SSLError):
            log.debug("cannot connect", address=self._address, error=text)
        elif text != self._tls_problem:
            self._tls_problem = text
            log.error("no TLS with a worker", address=self._address, error=text)

    def closed_at_once(self) -> None:
        """In TLS 1.3 a server that wants a certificate and gets none lets the client think that all is well."""
        if self._tls is not None:
            self.report(ssl.SSLError("the worker closed the connection at once; it may require --worker-cert"))

    def lasts(self) -> None:
        self._tls_problem = ""
