"""Which transport serves, and with what limits. Knows both adapters by name, nothing of calls."""

import importlib.util
from typing import Literal, Protocol

from abfleet_transport.call import Cancelled, Deliver
from abfleet_transport.errors import TransportUnavailable
from abfleet_transport.plan import ServerPlan

Transport = Literal["auto", "native", "grpcio"]
__all__ = ["Server", "ServerPlan", "Transport", "choose", "make_server"]


class Server(Protocol):
    """A server that delivers calls."""

    transport: str

    @property
    def port(self) -> int: ...

    @property
    def in_progress(self) -> int: ...

    async def start(self) -> None: ...

    async def close(self, grace_seconds: float = 0.0) -> None: ...


def choose(transport: Transport) -> Literal["native", "grpcio"]:
    """`auto` is native where it is installed. Raises TransportUnavailable when native is asked for and missing."""
    installed = importlib.util.find_spec("pygrpc_native") is not None
    if transport == "native" and not installed:
        raise TransportUnavailable(
            "transport: native needs the package pygrpc-native, which is not installed; use --transport grpcio"
        )
    return "native" if installed and transport != "grpcio" else "grpcio"


def make_server(transport: Transport, plan: ServerPlan, deliver: Deliver, cancelled: Cancelled) -> Server:
    """Makes the server of a transport; nothing is bound before `start`."""
    if choose(transport) == "native":
        from abfleet_transport.native import NativeServer

        return NativeServer(plan, deliver, cancelled)
    from abfleet_transport.grpcio import GrpcioServer

    return GrpcioServer(plan, deliver, cancelled)
