"""TLS on both sides: a server's certificate, and whom a client trusts, from files that may change."""

import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

from abfleet_process.security.x509 import validity
from abfleet_process.watched_credentials import CredentialError, WatchedCredential, read_file

IDENTITIES = ("peer_uri", "peer_dns", "x509_common_name")
"""Where a client's name stands in its certificate, best first: SAN URI (as SPIFFE has it), SAN DNS, common name."""
MOST_IDENTITY_CHARACTERS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFiles:
    """PEM files and the flags that named them."""

    cert: Path
    """The certificate, with those that lead to the root after it."""
    key: Path
    cert_flag: str = "--tls-cert"
    key_flag: str = "--tls-key"


class ServerTls:
    """What a server shows its clients, and what it wants to see of them. Changed files are taken without a pause."""

    def __init__(
        self, files: CertificateFiles, client_ca: Path | None, wall: Callable[[], float] = time.time, name: str = "tls"
    ) -> None:
        """With `client_ca` every client needs a certificate of it. Raises CredentialError."""
        self._files = files
        self._client_ca = client_ca
        self._wall = wall
        paths = (files.cert, files.key, *((client_ca,) if client_ca else ()))
        self.watched = WatchedCredential(name, paths, self._read)

    @property
    def asks_clients(self) -> bool:
        """Whether every client has shown a certificate."""
        return self._client_ca is not None

    @property
    def expiry(self) -> float:
        """When the certificate in use expires, in seconds since the epoch."""
        return self.watched.value[1]

    def credentials(self) -> grpc.ServerCredentials:
        """For one port of a grpcio server. It asks at each handshake, so connections that are there stay."""
        given = self.watched.value

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            now = self.watched.check()
            if now is given:
                return None
            given = now
            return now[0]

        return grpc.dynamic_ssl_server_credentials(
            given[0],
            fetch,  # type: ignore[arg-type]  # the stubs lack that None says: as before
            require_client_authentication=self.asks_clients,
        )

    def _read(self) -> tuple[grpc.ServerCertificateConfiguration, float]:
        cert, key = read_file(self._files.cert_flag, self._files.cert), read_file(self._files.key_flag, self._files.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        load_pair(context, self._files)
        ends = check_dates(self._files, cert, self._wall())
        ca = None
        if self._client_ca is not None:
            ca = read_file("--tls-client-ca", self._client_ca)
            load_ca(context, "--tls-client-ca", self._client_ca)
        return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=ca), ends


class ClientTls:
    """Whom a client over asyncio trusts, and what it shows. A changed file counts from the next connection on."""

    def __init__(
        self,
        ca: Path,
        own: CertificateFiles | None,
        *,
        ca_flag: str,
        server_name: str = "",
        wall: Callable[[], float] = time.time,
        name: str = "worker_tls",
    ) -> None:
        """`server_name`: what servers' certificates must say in the place of the name they are called by.

        Raises CredentialError.
        """
        self._ca = ca
        self._ca_flag = ca_flag
        self._own = own
        self._wall = wall
        self.server_name = server_name
        self.watched = WatchedCredential(name, (ca, *((own.cert, own.key) if own else ())), self._read)

    @property
    def context(self) -> ssl.SSLContext:
        """The TLS context for the next connection; read again if the files have changed."""
        return self.watched.check()[0]

    @property
    def expiry(self) -> float | None:
        """When the own certificate expires, in seconds since the epoch; None without one."""
        return self.watched.value[1]

    def _read(self) -> tuple[ssl.SSLContext, float | None]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and host name
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        read_file(self._ca_flag, self._ca)
        load_ca(context, self._ca_flag, self._ca)
        if self._own is None:
            return context, None
        load_pair(context, self._own)
        return context, check_dates(self._own, read_file(self._own.cert_flag, self._own.cert), self._wall())


def load_pair(context: ssl.SSLContext, files: CertificateFiles) -> None:
    """Loads certificate and key, which must fit together. Raises CredentialError."""
    read_file(files.key_flag, files.key)

    def no_password() -> str:
        raise CredentialError(f"{files.key_flag}: {files.key} is encrypted; allowed: a key without a password")

    try:
        context.load_cert_chain(files.cert, files.key, password=no_password)
    except (ssl.SSLError, OSError) as error:
        raise CredentialError(
            f"{files.cert_flag} and {files.key_flag}: {files.cert} and {files.key} are not a certificate and its key: "
            f"{_reason(error)}"
        ) from error


def load_ca(context: ssl.SSLContext, flag: str, path: Path) -> None:
    """Trusts the certificates of a file. Raises CredentialError."""
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, OSError) as error:
        raise CredentialError(f"{flag}: {path} has no certificates of an authority: {_reason(error)}") from error


def check_dates(files: CertificateFiles, cert: bytes, now: float) -> float:
    """When the certificate expires. Raises CredentialError when it has, or when there are no dates."""
    try:
        _, ends = validity(cert)
    except ValueError as error:
        raise CredentialError(f"{files.cert_flag}: {files.cert}: {error}") from error
    if ends <= now:
        day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ends))
        raise CredentialError(f"{files.cert_flag}: {files.cert} expired on {day}; renew the certificate")
    return ends


def identity(properties: Mapping[str, Iterable[bytes]]) -> str | None:
    """Who a verified client is, by the certificate in grpcio's auth context; None without one."""
    for key in IDENTITIES:
        for value in properties.get(key, ()):
            if value:
                return value.decode("utf-8", "replace")[:MOST_IDENTITY_CHARACTERS]
    return None


def _reason(error: OSError) -> str:
    return (getattr(error, "reason", None) or error.strerror or str(error)).replace("_", " ").lower()
