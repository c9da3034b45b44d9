"""What every server process does as a process: stop on signals, show metrics."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server

from abfleet_process.errors import AddressError


class StopSignals:
    """SIGTERM and SIGINT as events: the first asks to drain, the second to stop at once."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        (self.second if self.first.is_set() else self.first).set()

    async def drain(self, drain: Callable[[], Awaitable[None]]) -> bool:
        """Runs a drain until it ends or a second signal comes; says whether it ended."""
        draining = asyncio.ensure_future(drain())
        again = asyncio.ensure_future(self.second.wait())
        await asyncio.wait((draining, again), return_when=asyncio.FIRST_COMPLETED)
        ended = draining.done()
        for task in (draining, again):
            task.cancel()
        await asyncio.gather(draining, again, return_exceptions=True)
        return ended


class MetricsServer:
    """/metrics over HTTP, in a thread of its own."""

    def __init__(self, host: str, port: int | None, registry: CollectorRegistry) -> None:
        """`port`: 0 for any free one, None for no endpoint."""
        self._host = host
        self._wanted = port
        self._registry = registry
        self._server: WSGIServer | None = None

    @property
    def port(self) -> int | None:
        """The port that was bound, None without one."""
        return None if self._server is None else self._server.server_port

    def start(self) -> None:
        """Binds the port and serves in a thread; does nothing without a port. Raises AddressError."""
        if self._wanted is None:
            return
        try:
            self._server, _ = start_http_server(self._wanted, self._host, registry=self._registry)
        except OSError as error:
            raise AddressError(f"{self._host}:{self._wanted} for /metrics", error.strerror or str(error)) from error

    def close(self) -> None:
        """Stops the thread and closes the socket."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
