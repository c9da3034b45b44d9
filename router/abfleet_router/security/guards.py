"""What guards a running router: certificates, tokens, limits, made from settings. Decides nothing itself."""

import ipaddress
from collections.abc import Callable, Iterator, Sequence

import grpc
from abfleet_process import watched_credentials
from abfleet_process.errors import AddressError
from abfleet_process.memory import MemoryWatch
from abfleet_process.watched_credentials import WatchedCredential
from abfleet_transport.call import Call
from abfleet_transport.grpcio.grpcio_server import open_server
from abfleet_transport.machine import Grpcio
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from abfleet_router.security.access import Access, AdminGuard
from abfleet_router.security.rate_limit import RateLimit
from abfleet_router.security.security_settings import SecuritySettings


class Guards:
    """Reads certificates and tokens at once. Raises CredentialError."""

    def __init__(self, security: SecuritySettings, *, listen: str, admin_listen: str, open_feedback: bool) -> None:
        self.tls = security.server.tls()
        self.worker_tls = security.worker_tls()
        self.rate_limit = None if security.rate is None else RateLimit(security.rate)
        self.memory = None if security.max_memory_bytes is None else MemoryWatch(security.max_memory_bytes)
        self._tokens = security.token_file()
        self._admin_listen = admin_listen
        self.access = Access(
            self._tokens,
            feedback_needs_token=not open_feedback and not is_loopback(listen),
            admin_needs_token=not is_loopback(admin_listen),
        )

    @property
    def asks_clients(self) -> bool:
        """Whether every caller shows a certificate."""
        return self.tls is not None and self.tls.asks_clients

    @property
    def client_of(self) -> Callable[[Call], str | None] | None:
        """Says who makes a call; None where nobody can be known."""
        return self.access.client_of if self.access.knows_tokens or self.asks_clients else None

    @property
    def files(self) -> Sequence[WatchedCredential[object]]:
        """Certificates and tokens that are read again when their files change."""
        return [one.watched for one in (self.tls, self.worker_tls, self._tokens) if one is not None]

    def families(self, oversized: int) -> Iterator[Metric]:
        """Metrics of the guards, read at each scrape. `oversized`: calls whose message was too large."""
        yield CounterMetricFamily(
            "abfleet_oversized", "Calls refused because their message was too large.", value=oversized
        )
        if self.memory is not None:
            over = GaugeMetricFamily("abfleet_memory_over_limit", "1 while calls are refused to save memory, else 0.")
            over.add_metric([], float(self.memory.over))
            yield over
        if self.files:
            ends = [("tls", self.tls.expiry)] if self.tls else []
            if self.worker_tls is not None and (end := self.worker_tls.expiry) is not None:
                ends.append(("worker_tls", end))
            yield from watched_credentials.families(self.files, ends)

    def admin_server(self, grpcio: Grpcio = grpc.aio) -> grpc.aio.Server:
        """The server of the admin port; it asks callers for a token where one is needed."""
        return open_server((AdminGuard(self.access),), [("grpc.so_reuseport", 0)], grpcio)

    def bind_admin(self, server: grpc.aio.Server) -> int:
        """Binds the admin port; off loopback with the router's TLS, where it has one. Raises AddressError."""
        address = self._admin_listen
        secure = self.tls if self.tls is not None and not is_loopback(address) else None
        try:
            if secure is not None:
                return server.add_secure_port(address, secure.credentials())
            return server.add_insecure_port(address)
        except RuntimeError as error:
            raise AddressError(
                f"{address} for the admin port", f"{error}; choose another address with --admin-listen"
            ) from error


def is_loopback(listen: str) -> bool:
    """Whether nobody but this machine can call an address."""
    host = listen.rpartition(":")[0].strip("[]")
    if listen.startswith("unix:") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may be anything
        return False
