"""The Call port on grpc.aio: the transport that runs everywhere, and the one with TLS.

grpc.aio runs one coroutine a call whatever we do; calls that arrive in one turn of the loop are still delivered
together, so that what is behind the port sees the same batches as on the native transport.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

import grpc
import structlog
from abfleet_process.errors import AddressError
from abfleet_process.lasting import start_lasting
from abfleet_process.security.tls import identity
from prometheus_client.core import Metric

from abfleet_transport.call import Call, Cancelled, Code, Deliver, Metadata
from abfleet_transport.grpcio.drain import idle_instant
from abfleet_transport.grpcio.grpcio_server import add_methods, open_server
from abfleet_transport.plan import (
    OTHER_MESSAGE_BYTES,
    PUSHBACK,
    ServerPlan,
    hand_over,
    too_large,
)

if TYPE_CHECKING:  # the stubs are generic, the class itself is not
    Context = grpc.aio.ServicerContext[bytes, bytes]
else:
    Context = grpc.aio.ServicerContext
log = structlog.get_logger("abfleet.transport")
MAX_PORT = 65535
REBIND_SECONDS = 0.05
LAST_CALLS_SECONDS = 0.5
"""For calls that come at the moment of closing: the time of an attempt. While somebody watches health it is used up."""
LEAST_PING_MS = 9_000
"""Between two pings of a client: 10 s, and a second for what the network does to them."""
STATUS = {code.value[0]: code for code in grpc.StatusCode}


class ReplyFailed(Exception):
    """Carries a failure from `fail` to the coroutine of its call."""

    def __init__(self, code: Code, message: str, pushback_ms: int | None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.pushback_ms = pushback_ms


class GrpcioCall:
    """One call of a grpc.aio server; `reply` and `fail` may come from any thread."""

    __slots__ = (
        "_loop",
        "_thread",
        "answer",
        "arrived",
        "client",
        "deadline",
        "metadata",
        "method",
        "owner",
        "payload",
        "peer",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        thread: int,
        method: int,
        payload: bytes,
        context: Context,
        *,
        client: str | None,
    ) -> None:
        self._loop = loop
        self._thread = thread
        self.answer: asyncio.Future[bytes] = loop.create_future()
        self.method = method
        self.payload = payload
        self.metadata: Metadata = tuple(context.invocation_metadata() or ())
        self.peer = context.peer()
        self.client = client
        remaining: float | None = context.time_remaining()
        self.arrived = time.monotonic()
        self.deadline: float | None = None if remaining is None else self.arrived + remaining
        self.owner: object = None

    def reply(self, payload: bytes) -> None:
        if threading.get_ident() == self._thread:
            self._settle(payload, None)
        else:
            self._loop.call_soon_threadsafe(self._settle, payload, None)

    def fail(self, code: Code, message: str, *, pushback_ms: int | None = None) -> None:
        error = ReplyFailed(code, message, pushback_ms)
        if threading.get_ident() == self._thread:
            self._settle(b"", error)
        else:
            self._loop.call_soon_threadsafe(self._settle, b"", error)

    def _settle(self, payload: bytes, error: ReplyFailed | None) -> None:
        if self.answer.done():
            return
        self.owner = None  # which has the call, too: together they would wait for the collector
        if error is None:
            self.answer.set_result(payload)
        else:
            self.answer.set_exception(error)


class GrpcioServer:
    """Serves everything with grpc.aio on the running loop."""

    transport = "grpcio"

    def __init__(self, plan: ServerPlan, deliver: Deliver, cancelled: Cancelled) -> None:
        self._plan = plan
        self._deliver = deliver
        self._cancelled = cancelled
        self._server: grpc.aio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._arrived: list[Call] = []  # changed only on the loop
        self._in_progress = 0
        self._last_event = 0.0
        self.oversized = 0  # changed only on the loop
        self.restarts = 0  # changed only on the loop
        self.port = 0
        self._watch: asyncio.Task[None] | None = None
        self._closing = False

    def families(self) -> Iterable[Metric]:
        """No metrics of its own: grpcio does not say what waits inside it."""
        return ()

    @property
    def in_progress(self) -> int:
        """Calls that have been delivered and not answered."""
        return self._in_progress

    async def start(self) -> None:
        """Binds and begins to deliver. Raises AddressError."""
        self._loop = asyncio.get_running_loop()
        self._server = await self._opened(self._plan.address)
        self._watch = start_lasting(self._keep_up, "keep grpcio up")

    async def _opened(self, address: str) -> "grpc.aio.Server":
        plan, loop = self._plan, asyncio.get_running_loop()
        server = open_server(plan.interceptors, options(plan))
        by_service: dict[str, dict[str, grpc.RpcMethodHandler[bytes, bytes]]] = {}
        for index, path in enumerate(plan.methods):
            service, name = path[1:].split("/")
            handler = grpc.unary_unary_rpc_method_handler(self._handler(index, loop))
            by_service.setdefault(service, {})[name] = handler
        for service, handlers in by_service.items():
            add_methods(server, service, handlers)
        plan.add_services(server)
        try:
            self.port = self._bind(server, address)
        except AddressError:
            await server.stop(0)
            raise
        await server.start()
        return server

    async def _keep_up(self) -> None:
        """Starts the server again at the same address when it has ended by itself. Calls under way are cut then.

        With a version of it that `open_server` was not tried with, a call whose path is not UTF-8 is enough for that.
        """
        while True:
            server = self._server
            assert server is not None
            with contextlib.suppress(Exception):  # why it ended, which the library has logged
                await server.wait_for_termination()
            if self._closing:
                return
            self.restarts += 1
            log.error(
                "grpcio server ended by itself; starting it again", address=self._plan.address, restarts=self.restarts
            )
            while self._server is server and not self._closing:
                try:
                    self._server = await self._opened(again_at(self._plan.address, self.port))
                except AddressError as error:
                    log.warning("the address is not free yet", reason=str(error))
                    await asyncio.sleep(REBIND_SECONDS)

    def _bind(self, server: grpc.aio.Server, address: str) -> int:
        unix = address.startswith("unix:")
        asked = address.rpartition(":")[2]
        if not unix and asked.isdecimal() and int(asked) > MAX_PORT:
            raise AddressError(address, f"a port is at most {MAX_PORT}")  # the library would take it modulo 65536
        try:
            tls = self._plan.tls
            port = server.add_secure_port(address, tls.credentials()) if tls else server.add_insecure_port(address)
        except RuntimeError as error:
            raise AddressError(address, str(error)) from error
        if port == 0 and not unix:
            raise AddressError(address, "it is taken or not an address of this machine")
        return 0 if unix else port

    def _handler(self, method: int, loop: asyncio.AbstractEventLoop) -> Callable[[bytes, Context], Awaitable[bytes]]:
        thread, limit = threading.get_ident(), self._plan.most_bytes[method]
        asks_clients = self._plan.tls is not None and self._plan.tls.asks_clients

        async def handle(payload: bytes, context: Context) -> bytes:
            if len(payload) > limit:
                self.oversized += 1
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, too_large(len(payload), limit))
            client = identity(context.auth_context()) if asks_clients else None
            call = GrpcioCall(loop, thread, method, payload, context, client=client)
            self._in_progress += 1
            self._last_event = call.arrived
            try:
                if not self._arrived:
                    loop.call_soon(self._flush)
                self._arrived.append(call)
                return await call.answer
            except asyncio.CancelledError:
                if not call.answer.done() or call.answer.cancelled():
                    self._cancelled(call)
                raise
            except ReplyFailed as failure:
                trailer: tuple[tuple[str, str], ...] = ()
                if failure.pushback_ms is not None:
                    trailer = tuple((key, str(failure.pushback_ms)) for key in ("grpc-" + PUSHBACK, PUSHBACK))
                await context.abort(STATUS[failure.code], failure.message, trailer)
                raise AssertionError("abort raises") from None
            finally:
                self._in_progress -= 1
                self._last_event = time.monotonic()

        return handle

    def _flush(self) -> None:
        calls, self._arrived = self._arrived, []
        hand_over(self._deliver, calls)

    async def close(self, grace_seconds: float = 0.0) -> None:
        """Goes on serving until an idle instant, or for at most `grace_seconds`, and stops; what is open then is cut.

        It does not stop first and wait then, as the library would: at a stop grpc-core ends calls that it took from
        the socket and not handed over yet, and their callers get CANCELLED, which nobody retries. Nor would it ever
        finish while somebody watches health.
        """
        if self._server is None:
            return
        end = time.monotonic() + grace_seconds
        await idle_instant(lambda: self._in_progress, lambda: self._last_event, grace_seconds)
        self._closing = True
        # A call that was handed over after that instant may still end. One stop alone: a second one while the first is
        # under way, to end it sooner, crashes the process (grpcio 1.85.1).
        await self._server.stop(max(0.0, min(LAST_CALLS_SECONDS, end - time.monotonic())))
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)


def again_at(address: str, port: int) -> str:
    """The address with the port that was bound; a unix socket as it is."""
    return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"


def options(plan: ServerPlan) -> list[tuple[str, int]]:
    """Channel options of a server (https://grpc.github.io/grpc/core/group__grpc__arg__keys.html)."""
    arguments = [
        # The library has one limit for all services; that of the calls themselves is kept where they are handled.
        ("grpc.max_receive_message_length", max((OTHER_MESSAGE_BYTES, *plan.most_bytes))),
        ("grpc.max_concurrent_streams", plan.max_concurrent_streams),
        # Refused from the first byte above on: between a soft and a hard limit it would refuse at random.
        ("grpc.max_metadata_size", plan.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", plan.max_metadata_bytes),
        ("grpc.so_reuseport", 0),  # a taken port is an error, not a silent share
        # Clients that ask each 10 s whether the connection lives, with and without calls; the library's own bound of
        # five minutes ends theirs with too_many_pings.
        ("grpc.http2.min_ping_interval_without_data_ms", LEAST_PING_MS),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
    if plan.max_connections is not None:
        arguments.append(("grpc.max_allowed_incoming_connections", plan.max_connections))
    return arguments
