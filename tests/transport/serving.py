"""A server on either transport for tests, with everything it delivered."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec

import grpc
import pytest
from abfleet_transport.call import Call
from abfleet_transport.health import Health, add_reflection
from abfleet_transport.server import Server, ServerPlan, Transport, make_server

TRANSPORTS = (
    pytest.param(
        "native",
        marks=pytest.mark.skipif(find_spec("pygrpc_native") is None, reason="pygrpc-native is not installed"),
    ),
    "grpcio",
)
METHODS = ("/test.Echo/Say", "/test.Echo/Shout")
PATIENCE_SECONDS = 60


@dataclass
class Delivered:
    """What the server handed over; changed by its delivering thread, read by tests."""

    calls: list[Call] = field(default_factory=list)
    gone: list[Call] = field(default_factory=list)


@dataclass
class Serving:
    """A started server, a channel to it, and what arrived."""

    server: Server
    health: Health
    address: str
    channel: grpc.aio.Channel
    delivered: Delivered

    def say(
        self,
        payload: bytes,
        *,
        method: str = METHODS[0],
        timeout: float | None = PATIENCE_SECONDS,
        metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> "grpc.aio.UnaryUnaryCall[bytes, bytes]":
        """Begins one unary call of raw bytes."""
        return self.channel.unary_unary(method)(payload, timeout=timeout, metadata=tuple(metadata))


def echo(calls: list[Call]) -> None:
    """Answers each call with its own payload."""
    for call in calls:
        call.reply(call.payload)


def hold(calls: list[Call]) -> None:
    """Answers nothing."""


@asynccontextmanager
async def serving(
    transport: Transport,
    deliver: Callable[[list[Call]], None] = echo,
    *,
    address: str = "127.0.0.1:0",
    max_message_bytes: int = 4 * 1024 * 1024,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
) -> AsyncIterator[Serving]:
    """A server that is closed at the end; nothing of it remains."""
    delivered, health = Delivered(), Health(("name",))

    def remember(calls: list[Call]) -> None:
        delivered.calls += calls
        deliver(calls)

    def add_services(server: grpc.aio.Server) -> None:
        health.add_to(server)
        add_reflection(server, ("Recommender",))

    plan = ServerPlan(
        address=address,
        methods=METHODS,
        add_services=add_services,
        max_message_bytes=max_message_bytes,
        interceptors=interceptors,
    )
    server = make_server(transport, plan, remember, delivered.gone.append)
    await server.start()
    target = address if address.startswith("unix:") else f"127.0.0.1:{server.port}"
    # An option that differs makes a connection of its own: channels to the same address share one otherwise.
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1))
    try:
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            yield Serving(server, health, target, channel, delivered)
    finally:
        await server.close()


async def until(condition: Callable[[], bool]) -> None:
    """Waits until something becomes true, patiently."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        for _ in itertools.count():
            if condition():
                return
            await asyncio.sleep(0.002)
