"""Which transport serves, and what both offer. Imports an adapter only when it is chosen."""

from collections.abc import Iterable
from typing import Protocol

from prometheus_client.core import Metric

from abfleet_transport.call import Cancelled, Deliver
from abfleet_transport.plan import ServerPlan
from abfleet_transport.transports import Transport, choose

__all__ = ["Server", "ServerPlan", "Transport", "choose", "make_server", "needs_grpcio"]


class Server(Protocol):
    """What both transports offer: a server that delivers calls, from `start` to `close`."""

    transport: str

    @property
    def oversized(self) -> int:
        """Calls refused because their message was too large, before anybody saw them."""

    @property
    def port(self) -> int: ...

    def families(self) -> Iterable[Metric]:
        """What the transport itself counts, for /metrics."""

    @property
    def in_progress(self) -> int: ...

    async def start(self) -> None: ...

    async def close(self, grace_seconds: float = 0.0) -> None: ...


def needs_grpcio(plan: ServerPlan) -> str | None:
    """The flag of a plan that the native transport cannot follow."""
    return None if plan.tls is None else "--tls-cert"


def make_server(transport: Transport, plan: ServerPlan, deliver: Deliver, cancelled: Cancelled) -> Server:
    """Makes the server of a transport; nothing is bound before `start`."""
    if choose(transport, needs_grpcio=needs_grpcio(plan)) == "native":
        from abfleet_transport.http2.server import Http2Server

        return Http2Server(plan, deliver, cancelled)
    from abfleet_transport.grpcio.grpcio_adapter import GrpcioServer

    return GrpcioServer(plan, deliver, cancelled)
