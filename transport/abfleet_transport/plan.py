"""What a server listens on and what it serves, and what both transports say alike."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from abfleet_process.security.tls import ServerTls

from abfleet_transport.call import Call, Code, Deliver
from abfleet_transport.machine import THIS_MACHINE, Machine

if TYPE_CHECKING:  # the stubs are generic, the class itself is not
    ServerInterceptor = grpc.aio.ServerInterceptor[Any, Any]
else:
    ServerInterceptor = grpc.aio.ServerInterceptor

PUSHBACK = "retry-pushback-ms"
"""The trailer with a pushback on every transport; where the library lets it, `grpc-retry-pushback-ms` is sent too."""
OTHER_MESSAGE_BYTES = 4 * 1024 * 1024
"""For services that grpcio serves beside the calls; its own default. 10,000 outcomes are about 1.5 MB."""
FAILED_DELIVERY = (Code.INTERNAL, "the server failed on this call; see its log")


def too_large(size: int, limit: int) -> str:
    """The same words on both transports for a message past the limit, in bytes."""
    return f"message: {size} bytes; at most {limit} bytes are allowed"


def log_failed_delivery(calls: int) -> None:
    """Logs the exception that is being handled, raised by whoever took delivery of some calls."""
    structlog.get_logger("abfleet.transport").exception("calls could not be delivered", calls=calls)


def hand_over(deliver: Deliver, calls: list[Call]) -> None:
    """Delivers calls; where that raises they are failed, because they would wait for ever."""
    try:
        deliver(calls)
    except Exception:  # noqa: BLE001 - whatever it is, it must not end who reads calls
        log_failed_delivery(len(calls))
        for call in calls:
            call.fail(*FAILED_DELIVERY)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPlan:
    """What a server listens on and what it serves."""

    address: str
    """`host:port` (port 0: any free one) or `unix:path`."""
    methods: Sequence[str]
    """Full paths of the unary methods that are delivered as calls, such as `/Recommender/Recommend`."""
    add_services: Callable[[grpc.aio.Server], None]
    """Adds everything else (health, reflection) to a grpc.aio server."""
    interceptors: Sequence[ServerInterceptor] = field(default_factory=tuple)
    max_message_bytes: int = 4 * 1024 * 1024
    """The largest message that is delivered as a call; those of other services may have 4 MiB in any case.

    grpcio's own default; a history of 100,000 items is about 300 KB.
    """
    max_bytes_of: Mapping[str, int] = field(default_factory=dict)
    """The same for single methods, by path, in place of `max_message_bytes`."""
    max_metadata_bytes: int = 16 * 1024
    """Metadata of one call; both libraries' own default."""
    max_concurrent_streams: int = 4096
    """Calls under way on one connection."""
    max_connections: int | None = None
    """None: as many as the process may have descriptors."""
    tls: ServerTls | None = None
    """The native transport has no TLS."""
    machine: Machine = THIS_MACHINE
    """Of the native transport; grpcio takes the real one in any case."""

    @property
    def most_bytes(self) -> tuple[int, ...]:
        """The largest message of each of `methods`."""
        return tuple(self.max_bytes_of.get(path, self.max_message_bytes) for path in self.methods)
