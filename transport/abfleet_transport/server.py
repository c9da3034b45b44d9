"""Which transport serves, and with what limits. Knows both adapters by name, nothing of calls."""

import importlib.util
from typing import Literal, Protocol

from abfleet_transport.call import Cancelled, Deliver
from abfleet_transport.errors import TransportUnavailable
from abfleet_transport.plan import ServerPlan

Transport = Literal["auto", "native", "grpcio"]
__all__ = ["Server", "ServerPlan", "Transport", "choose", "make_server", "needs_grpcio"]


class Server(Protocol):
    """A server that delivers calls."""

    transport: str
    oversized: int
    """Calls refused because their message was too large, before anybody saw them."""

    @property
    def port(self) -> int: ...

    @property
    def in_progress(self) -> int: ...

    async def start(self) -> None: ...

    async def close(self, grace_seconds: float = 0.0) -> None: ...


def choose(transport: Transport, *, needs_grpcio: str | None = None) -> Literal["native", "grpcio"]:
    """`auto` is native where it is installed and nothing is asked that it lacks.

    `needs_grpcio`: the flag that asks for such a thing. Raises TransportUnavailable when native is asked for and cannot
    be had.
    """
    if needs_grpcio is not None:
        if transport == "native":
            raise TransportUnavailable(
                f"--transport native and {needs_grpcio} exclude each other; leave one out, or use --transport grpcio"
            )
        return "grpcio"
    installed = importlib.util.find_spec("pygrpc_native") is not None
    if transport == "native" and not installed:
        raise TransportUnavailable(
            "transport: native needs the package pygrpc-native, which is not installed; use --transport grpcio"
        )
    return "native" if installed and transport != "grpcio" else "grpcio"


def needs_grpcio(plan: ServerPlan) -> str | None:
    """The flag of a plan that the native transport cannot follow."""
    if plan.tls is not None:
        return "--tls-cert"
    return "--max-connections" if plan.max_connections is not None else None


def make_server(transport: Transport, plan: ServerPlan, deliver: Deliver, cancelled: Cancelled) -> Server:
    """Makes the server of a transport; nothing is bound before `start`."""
    if choose(transport, needs_grpcio=needs_grpcio(plan)) == "native":
        from abfleet_transport.native import NativeServer

        return NativeServer(plan, deliver, cancelled)
    from abfleet_transport.grpcio import GrpcioServer

    return GrpcioServer(plan, deliver, cancelled)
