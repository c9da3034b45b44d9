"""Flags of TLS and limits that router and worker have in common, and which of them need each other."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from abfleet_process.flags import Flags, SettingsError, optional_whole, whole
from abfleet_process.security.tls import CertificateFiles, ServerTls


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSecurity:
    """The TLS files of a server, and the limits of what it accepts."""

    files: CertificateFiles | None
    """None: the server speaks plaintext."""
    client_ca: Path | None
    """Every client needs a certificate of it."""
    max_message_bytes: int
    max_metadata_bytes: int
    max_concurrent_streams: int
    """Calls under way on one connection."""
    max_connections: int | None

    @property
    def needs_grpcio(self) -> str | None:
        """The flag that the native transport cannot follow."""
        return None if self.files is None else "--tls-cert"

    def tls(self) -> ServerTls | None:
        """TLS of the server; None without files. Reads them; raises CredentialError."""
        return None if self.files is None else ServerTls(self.files, self.client_ca)


def add(flags: Flags, max_message_bytes: int) -> None:
    """Adds the flags; `max_message_bytes` is the default, which differs."""
    flags.add("tls-cert", str, "", "FILE", "serve TLS with this certificate chain (PEM), read again when it changes")
    flags.add("tls-key", str, "", "FILE", "private key of the certificate, without a password")
    flags.add(
        "tls-client-ca", str, "", "FILE", "require a client certificate of this authority from every client (mTLS)"
    )
    flags.add(
        "max-message-bytes", whole(1024, 2**30), f"{max_message_bytes}", "BYTES", "maximum size of a message in bytes"
    )
    flags.add("max-metadata-bytes", whole(1024, 2**24), "16384", "BYTES", "maximum size of a call's metadata in bytes")
    flags.add(
        "max-concurrent-streams",
        whole(1, 2**31 - 1),
        "4096",
        "N",
        "maximum number of concurrent calls on one connection",
    )
    flags.add("max-connections", optional_whole(1, 2**31 - 1), "off", "N", "maximum number of connections")


def read(got: argparse.Namespace) -> ServerSecurity:
    """The values of the flags. Raises SettingsError for a flag that lacks another that it needs."""
    files = pair(got.tls_cert, got.tls_key, "--tls-cert", "--tls-key")
    if got.tls_client_ca and files is None:
        raise SettingsError("--tls-client-ca (ABFLEET_TLS_CLIENT_CA) needs --tls-cert and --tls-key")
    return ServerSecurity(
        files=files,
        client_ca=Path(got.tls_client_ca) if got.tls_client_ca else None,
        max_message_bytes=got.max_message_bytes,
        max_metadata_bytes=got.max_metadata_bytes,
        max_concurrent_streams=got.max_concurrent_streams,
        max_connections=got.max_connections,
    )


def pair(cert: str, key: str, cert_flag: str, key_flag: str) -> CertificateFiles | None:
    """A certificate and its key, both or none. Raises SettingsError for one alone."""
    if bool(cert) != bool(key):
        there, missing = (cert_flag, key_flag) if cert else (key_flag, cert_flag)
        raise SettingsError(f"{there} also needs {missing}")
    return CertificateFiles(cert=Path(cert), key=Path(key), cert_flag=cert_flag, key_flag=key_flag) if cert else None
