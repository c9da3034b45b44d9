"""The Call port on grpc.aio: the transport that runs everywhere. Knows that library, nothing of what a call means.

grpc.aio runs one coroutine a call whatever we do; calls that arrive in one turn of the loop are still delivered
together, so that what is behind the port sees the same batches as on the native transport.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import grpc

from abfleet_transport.call import Call, Cancelled, Code, Deliver, Metadata
from abfleet_transport.errors import AddressError
from abfleet_transport.server import QUIET_SECONDS, ServerPlan

if TYPE_CHECKING:  # the stubs are generic, the class itself is not
    Context = grpc.aio.ServicerContext[bytes, bytes]
else:
    Context = grpc.aio.ServicerContext
STATUS = {code.value[0]: code for code in grpc.StatusCode}


class CallFailed(Exception):
    """Carries a failure from `fail` to the coroutine of its call."""

    def __init__(self, code: Code, message: str, pushback_ms: int | None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.pushback_ms = pushback_ms


class GrpcioCall:
    """One call of a grpc.aio server; `reply` and `fail` may come from any thread."""

    __slots__ = ("_loop", "_thread", "answer", "arrived", "deadline", "metadata", "method", "owner", "payload", "peer")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        thread: int,
        method: int,
        payload: bytes,
        context: Context,
    ) -> None:
        self._loop = loop
        self._thread = thread
        self.answer: asyncio.Future[bytes] = loop.create_future()
        self.method = method
        self.payload = payload
        self.metadata: Metadata = tuple(context.invocation_metadata() or ())
        self.peer = context.peer()
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
        error = CallFailed(code, message, pushback_ms)
        if threading.get_ident() == self._thread:
            self._settle(b"", error)
        else:
            self._loop.call_soon_threadsafe(self._settle, b"", error)

    def _settle(self, payload: bytes, error: CallFailed | None) -> None:
        if self.answer.done():
            return
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
        self._last_answer = 0.0
        self.port = 0

    @property
    def in_progress(self) -> int:
        """Calls that have been delivered and not answered."""
        return self._in_progress

    async def start(self) -> None:
        """Binds and begins to deliver. Raises AddressError."""
        plan = self._plan
        self._loop = asyncio.get_running_loop()
        server = grpc.aio.server(
            interceptors=plan.interceptors,
            options=[
                ("grpc.max_receive_message_length", plan.max_message_bytes),
                ("grpc.max_concurrent_streams", plan.max_concurrent_streams),
                ("grpc.so_reuseport", 0),  # a taken port is an error, not a silent share
            ],
        )
        by_service: dict[str, dict[str, grpc.RpcMethodHandler[bytes, bytes]]] = {}
        for index, path in enumerate(plan.methods):
            service, name = path[1:].split("/")
            handler = grpc.unary_unary_rpc_method_handler(self._handler(index, self._loop))
            by_service.setdefault(service, {})[name] = handler
        server.add_generic_rpc_handlers(
            tuple(grpc.method_handlers_generic_handler(service, handlers) for service, handlers in by_service.items())
        )
        plan.add_services(server)
        try:
            self.port = server.add_insecure_port(plan.address)
        except RuntimeError as error:
            raise AddressError(plan.address, str(error)) from error
        if plan.address.startswith("unix:"):
            self.port = 0
        elif self.port == 0:
            raise AddressError(plan.address, "it is taken or not an address of this machine")
        self._server = server
        await server.start()

    def _handler(self, method: int, loop: asyncio.AbstractEventLoop) -> Callable[[bytes, Context], Awaitable[bytes]]:
        thread = threading.get_ident()

        async def handle(payload: bytes, context: Context) -> bytes:
            call = GrpcioCall(loop, thread, method, payload, context)
            self._in_progress += 1
            try:
                if not self._arrived:
                    loop.call_soon(self._flush)
                self._arrived.append(call)
                return await call.answer
            except asyncio.CancelledError:
                if not call.answer.done() or call.answer.cancelled():
                    self._cancelled(call)
                raise
            except CallFailed as failure:
                trailer = () if failure.pushback_ms is None else (("grpc-retry-pushback-ms", str(failure.pushback_ms)),)
                await context.abort(STATUS[failure.code], failure.message, trailer)
                raise AssertionError("abort raises") from None
            finally:
                self._in_progress -= 1
                self._last_answer = time.monotonic()

        return handle

    def _flush(self) -> None:
        calls, self._arrived = self._arrived, []
        self._deliver(calls)

    async def close(self, grace_seconds: float = 0.0) -> None:
        """Takes no more calls, lets those that run end for at most `grace_seconds`, and stops; the rest are cut.

        The library's own grace would wait for streams too, and a watch on health lasts as long as its watcher.
        """
        server = self._server
        if server is None:
            return
        stopping = asyncio.ensure_future(server.stop(grace_seconds))
        until = time.monotonic() + grace_seconds
        # Polls, because no event tells of silence; QUIET_SECONDS let the last answers reach the socket.
        while (now := time.monotonic()) < until and (  # noqa: ASYNC110
            self._in_progress or now < self._last_answer + QUIET_SECONDS
        ):
            await asyncio.sleep(0.005)
        await server.stop(0)
        await stopping
