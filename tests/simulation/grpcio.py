"""In the place of grpc.aio: a server and a channel to it in one process, which pass messages and nothing else.

Health, reflection, outcomes and the admin port are written for grpc.aio, which has threads and sockets of its own; here
their code runs on the simulated loop.
"""

import asyncio
import contextlib
from collections import namedtuple
from typing import Any

import grpc

_Details = namedtuple("_Details", ("method", "invocation_metadata"))


class SimulatedGrpcio:
    """What a process sees as `grpc.aio`."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        """Addresses that were bound, to be cleaned up."""
        self._servers: dict[str, Server] = {}

    def server(self, *, interceptors: Any = (), options: Any = ()) -> Any:
        return Server(self, tuple(interceptors))

    def insecure_channel(self, target: str, options: Any = ()) -> Any:
        return Channel(self, target)

    def bound(self, address: str, server: "Server") -> None:
        """`server` is at `address` now."""
        self.paths.append(address)
        self._servers[address] = server

    def at(self, address: str) -> "Server":
        """Who is there."""
        return self._servers[address]


class Server:
    """As grpc.aio.Server."""

    def __init__(self, library: SimulatedGrpcio, interceptors: tuple[Any, ...]) -> None:
        self._library = library
        self._interceptors = interceptors
        self._handlers: list[Any] = []
        self.calls: set[Call] = set()

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        self._handlers += handlers

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None: ...

    def add_insecure_port(self, address: str) -> int:
        self._library.bound(address, self)
        return 50052

    async def start(self) -> None: ...

    async def stop(self, grace: float | None) -> None:
        for call in sorted(self.calls, key=lambda call: call.number):
            call.cancel()

    async def handler(self, details: _Details) -> Any:
        """Who answers, as the interceptors have it."""

        async def inmost(details: Any) -> Any:
            for one in self._handlers:
                if (found := one.service(details)) is not None:
                    return found
            return None

        ask = inmost
        for interceptor in reversed(self._interceptors):
            ask = _asking(interceptor, ask)
        return await ask(details)


def _asking(interceptor: Any, inner: Any) -> Any:
    async def ask(details: Any) -> Any:
        return await interceptor.intercept_service(inner, details)

    return ask


class Channel:
    """As grpc.aio.Channel."""

    def __init__(self, library: SimulatedGrpcio, target: str) -> None:
        self._library = library
        self._target = target
        self._count = 0

    def stream_stream(self, path: str, serializer: Any, deserializer: Any) -> Any:
        def begin(requests: Any, timeout: float | None = None, metadata: Any = ()) -> Call:
            self._count += 1
            return Call(self._library.at(self._target), path, requests, timeout, metadata, self._count)

        return begin

    async def close(self, grace: float | None = None) -> None: ...


class Call:
    """One call, as its client sees it, and as its context."""

    def __init__(
        self, server: Server, path: str, requests: Any, timeout: float | None, metadata: Any, number: int
    ) -> None:
        self.number = number
        self._server = server
        self._path = path
        self._requests = requests
        self._metadata = tuple(metadata)
        self._messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._code, self._text = grpc.StatusCode.OK, ""
        self._response: Any = None
        server.calls.add(self)
        self._task = asyncio.get_running_loop().create_task(self._run(timeout), name=f"grpcio {path} {number}")
        self._task.add_done_callback(lambda task: server.calls.discard(self))

    # --- the client's side --------------------------------------------------------------------------------------------

    def __aiter__(self) -> "Call":
        return self

    async def __anext__(self) -> bytes:
        message = await self._messages.get()
        if message is not None:
            return message
        if self._code is not grpc.StatusCode.OK:
            raise grpc.aio.AioRpcError(self._code, grpc.aio.Metadata(), grpc.aio.Metadata(), self._text)
        raise StopAsyncIteration

    async def code(self) -> Any:
        return self._code

    async def details(self) -> str:
        return self._text

    async def trailing_metadata(self) -> tuple[Any, ...]:
        return ()

    def cancel(self) -> bool:
        return self._task.cancel()

    # --- the server's side --------------------------------------------------------------------------------------------

    async def _run(self, timeout: float | None) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._serve()
        except grpc.aio.AbortError:
            pass
        except TimeoutError:
            self._code, self._text = grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"
        except asyncio.CancelledError:
            self._code, self._text = grpc.StatusCode.CANCELLED, "Cancelled"
            raise
        except Exception as error:  # noqa: BLE001 - as grpcio does
            self._code, self._text = grpc.StatusCode.UNKNOWN, f"Unexpected {type(error)}: {error}"
        finally:
            self._messages.put_nowait(None)

    async def _serve(self) -> None:
        handler = await self._server.handler(_Details(self._path, self._metadata))
        if handler is None:
            self._code, self._text = grpc.StatusCode.UNIMPLEMENTED, "Method not found!"
            return
        read = handler.request_deserializer or bytes
        self._response = handler.response_serializer or bytes
        requests = (read(message) async for message in self._requests)
        given: Any = requests
        if not handler.request_streaming:
            given = await anext(requests)
        kinds = (handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream)
        answer = next(kind for kind in kinds if kind is not None)(given, self)
        if hasattr(answer, "__aiter__"):
            async with contextlib.aclosing(answer):
                async for message in answer:
                    await self.write(message)
        elif (message := await answer) is not None:
            await self.write(message)

    async def write(self, message: Any) -> None:
        self._messages.put_nowait(self._response(message))
        await asyncio.sleep(0)

    async def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> None:
        self._code, self._text = code, details
        raise grpc.aio.AbortError("aborted")

    def invocation_metadata(self) -> tuple[Any, ...]:
        return self._metadata

    def code_now(self) -> Any:
        return self._code

    def time_remaining(self) -> float | None:
        return None

    def peer(self) -> str:
        return "unix:"
