"""A server on either transport for tests, with everything it delivered."""

import asyncio
import functools
import itertools
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from abfleet_client import ClientCredentials
from abfleet_process.security.tls import CertificateFiles, ServerTls
from abfleet_transport.call import Call
from abfleet_transport.client.channel import open_channel
from abfleet_transport.health import HealthService
from abfleet_transport.reflection import add_reflection
from abfleet_transport.server import Server, ServerPlan, Transport, make_server
from google.protobuf.descriptor_pb2 import FileDescriptorProto, ServiceDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from tests.support.certificates import Authority, needs_openssl

TRANSPORTS = (
    "native",
    "grpcio",
)
SECURED = "grpcio-tls"
"""grpcio over TLS, with a certificate on both sides."""
CARRIED = (*TRANSPORTS, pytest.param(SECURED, marks=needs_openssl))
"""Everything that carries calls."""
METHODS = ("/test.Echo/Say", "/test.Echo/Shout")
RECOMMENDER = DescriptorPool().AddSerializedFile(
    FileDescriptorProto(
        name="served.proto", service=[ServiceDescriptorProto(name="Recommender")], syntax="proto3"
    ).SerializeToString()
)
"""A file with one service, to be found by reflection."""
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
    health: HealthService
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


def adapter(transport: str) -> Transport:
    """The transport without what carries it."""
    return "native" if transport == "native" else "grpcio"


_folder = functools.cache(lambda: tempfile.TemporaryDirectory(prefix="abfleet-tests-"))
"""Removed when the tests end."""


@functools.cache
def certificates() -> Path:
    """A folder with an authority, and certificates of it for a server and a client."""
    authority = Authority(Path(_folder().name))
    authority.issue("server")
    authority.issue("client", "DNS:client.example")
    return authority.folder


def shown(folder: Path) -> ClientCredentials:
    """What a client with a certificate has, and whom it trusts, also on a unix socket."""
    return ClientCredentials(
        server_ca=folder / "ca.crt",
        client_cert=folder / "client.crt",
        client_key=folder / "client.key",
        server_name="localhost",
    )


@asynccontextmanager
async def serving(
    transport: str,
    deliver: Callable[[list[Call]], None] = echo,
    *,
    address: str = "127.0.0.1:0",
    max_message_bytes: int = 4 * 1024 * 1024,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    tls: ServerTls | None = None,
    **limits: int,
) -> AsyncIterator[Serving]:
    """A server that is closed at the end; nothing of it remains.

    With `tls` it serves that, and its channel is of no use; with SECURED both have a certificate.
    """
    folder = certificates() if transport == SECURED else None
    if folder is not None:
        files = CertificateFiles(cert=folder / "server.crt", key=folder / "server.key")
        tls = ServerTls(files, folder / "ca.crt")
    delivered, health = Delivered(), HealthService(("name",))

    def remember(calls: list[Call]) -> None:
        delivered.calls += calls
        deliver(calls)

    def add_services(server: grpc.aio.Server) -> None:
        health.add_to(server)
        add_reflection(server, (RECOMMENDER,))

    plan = ServerPlan(
        address=address,
        methods=METHODS,
        add_services=add_services,
        max_message_bytes=max_message_bytes,
        interceptors=interceptors,
        tls=tls,
        **limits,
    )
    server = make_server(adapter(transport), plan, remember, delivered.gone.append)
    await server.start()
    target = address if address.startswith("unix:") else f"127.0.0.1:{server.port}"
    # An option that differs makes a connection of its own: channels to the same address share one otherwise.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
    try:
        async with open_channel(target, ClientCredentials() if folder is None else shown(folder), options) as channel:
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
