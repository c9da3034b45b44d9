"""A grpc.aio server that outlives a path which is not UTF-8. Knows the inside of that library, no service and no call.

The library's loop that takes calls decodes the path of each call for which no method is registered, and dies of a path
that is no text: one frame of anybody ends the service and cuts the calls under way. Paths of registered methods are
compared as bytes before that. So every method is registered here, and the calls that are left, which are of no method
whatever their paths say, never come to that loop: they are answered beside it, under a name that is known.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import grpc
from grpc._cython import cygrpc
from grpc.aio import _server as library

from abfleet_transport.machine import Grpcio

UNKNOWN_METHOD = "/unknown/method"
TRIED_VERSIONS = ("1.85.",)
"""Of grpcio: this relies on what no promise of the library covers. Elsewhere its own server is used, and who runs it
must begin again when it has ended."""


def open_server(
    interceptors: Sequence["grpc.aio.ServerInterceptor[Any, Any]"] = (),
    options: Sequence[tuple[str, Any]] = (),
    grpcio: Grpcio = grpc.aio,
) -> grpc.aio.Server:
    """As grpc.aio.server. Services must register their methods, as generated code does; generic handlers alone are not
    asked. `grpcio`: what a machine has in the place of grpc.aio."""
    if grpcio is not grpc.aio or not grpc.__version__.startswith(TRIED_VERSIONS):
        return grpcio.server(interceptors=interceptors, options=options)
    return cast(grpc.aio.Server, _Server(tuple(interceptors), list(options)))


def add_methods(server: grpc.aio.Server, service: str, handlers: dict[str, "grpc.RpcMethodHandler[Any, Any]"]) -> None:
    """The methods of a service by name, registered, and found by interceptors too, as generated code adds them."""
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    cast(Any, server).add_registered_method_handlers(service, handlers)  # which the stubs do not know


class _Core(cygrpc.AioServer):  # type: ignore[misc]
    """The compiled part of the server, which answers calls of unknown methods by itself."""

    def __init__(self, loop: asyncio.AbstractEventLoop, interceptors: tuple[object, ...], options: object) -> None:
        super().__init__(loop, None, (), interceptors, options, None)
        self._event_loop = loop
        self._asked = interceptors
        self._answering: set[asyncio.Task[None]] = set()

    def _make_request_call_future(self, method: bytes | None) -> "asyncio.Future[object]":
        """What the loop waits for: the next call of a method, or of none (None)."""
        if method is not None:
            future: asyncio.Future[object] = super()._make_request_call_future(method)
            return future
        return self._event_loop.create_task(self._refuse_unknown(), name="calls of no method")

    async def _refuse_unknown(self) -> object:
        """Has each of them answered with UNIMPLEMENTED; ends with the server, by the library's own error."""
        resolver, loop = cygrpc._MethodResolver([], {}), self._event_loop
        while True:
            state = await self._request_call()
            answer = cygrpc._handle_rpc(UNKNOWN_METHOD, resolver, self._asked, state, loop, False)
            task = loop.create_task(cygrpc._schedule_rpc_coro(answer, state, loop, UNKNOWN_METHOD))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)


class _Server(library.Server):
    """grpc.aio's own server with `_Core` as its compiled part."""

    def __init__(
        self, interceptors: tuple["grpc.aio.ServerInterceptor[Any, Any]", ...], options: list[tuple[str, Any]]
    ) -> None:
        # Not the library's own, which makes the part that is replaced; the rest of it needs no more than this.
        self._loop = cygrpc.get_working_loop()
        self._server = _Core(self._loop, interceptors, library._augment_channel_arguments(options, None))
