"""Flags of the router about who may call, how often, and over what. Knows their names and what goes with what."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from abfleet_process.flags import Flags, SettingsError, optional_whole
from abfleet_process.security import tls_flags
from abfleet_process.security.tls import CertificateFiles, ClientTls
from abfleet_process.security.tls_flags import ServerSecurity
from abfleet_process.security.tokens import TokenFile

from abfleet_router.security.rate_limit import Rate

MAX_MESSAGE_BYTES = 1024 * 1024
"""A history of 350,000 items; a model keeps the newest few hundred."""
LEAST_MEMORY_BYTES = 32 * 1024 * 1024
"""Less than a router needs to start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecuritySettings:
    """TLS, tokens, rate limit and memory limit of a router, as the flags give them."""

    server: ServerSecurity
    worker_ca: Path | None
    """None: workers are called without TLS."""
    worker_files: CertificateFiles | None
    worker_server_name: str
    tokens: Path | None
    rate: Rate | None
    max_memory_bytes: int | None

    def worker_tls(self) -> ClientTls | None:
        """TLS of the connections to workers; None without `worker_ca`. Reads the files; raises CredentialError."""
        if self.worker_ca is None:
            return None
        return ClientTls(self.worker_ca, self.worker_files, ca_flag="--worker-ca", server_name=self.worker_server_name)

    def token_file(self) -> TokenFile | None:
        """The tokens; None without a file. Reads the file; raises CredentialError."""
        return None if self.tokens is None else TokenFile(self.tokens)


def add(flags: Flags) -> None:
    """Adds the flags of TLS, tokens and limits."""
    flags.group("Security and limits")
    tls_flags.add(flags, MAX_MESSAGE_BYTES)
    flags.add("worker-ca", str, "", "FILE", "call workers with TLS and trust this certificate authority (PEM)")
    flags.add("worker-cert", str, "", "FILE", "client certificate for workers (mTLS)")
    flags.add("worker-key", str, "", "FILE", "private key of the client certificate, without a password")
    flags.add("worker-server-name", str, "", "NAME", "name in the workers' certificates; default: that of the target")
    flags.add("tokens", str, "", "FILE", "file with token hashes, one per line; abfleet token new prints one")
    flags.add("rate-limit", rate, "off", "N[:BURST]", "calls per second that one caller may make, and burst")
    flags.add(
        "max-memory",
        optional_whole(LEAST_MEMORY_BYTES, 2**50),
        "off",
        "BYTES",
        "refuse calls while the process uses more memory",
    )


def read(got: argparse.Namespace) -> SecuritySettings:
    """The values of the flags. Raises SettingsError for a flag that lacks another that it needs."""
    files = tls_flags.pair(got.worker_cert, got.worker_key, "--worker-cert", "--worker-key")
    for flag, value in (("--worker-cert", got.worker_cert), ("--worker-server-name", got.worker_server_name)):
        if value and not got.worker_ca:
            raise SettingsError(f"{flag} also needs --worker-ca")
    return SecuritySettings(
        server=tls_flags.read(got),
        worker_ca=Path(got.worker_ca) if got.worker_ca else None,
        worker_files=files,
        worker_server_name=got.worker_server_name,
        tokens=Path(got.tokens) if got.tokens else None,
        rate=got.rate_limit,
        max_memory_bytes=got.max_memory,
    )


def rate(value: str) -> Rate | None:
    """`N`, `N:BURST` or `off`; without a burst it is what a second allows, and at least one."""
    if value == "off":
        return None
    calls, separator, burst = value.partition(":")
    try:
        number = float(calls)
        parsed = Rate(number, float(burst) if separator else max(1.0, number))
    except ValueError:
        parsed = Rate(0.0, 0.0)
    if not (0.001 <= parsed.calls_per_second <= 1e6 and 1 <= parsed.burst <= 1e6):
        raise ValueError("allowed: N or N:BURST, with N from 0.001 to 1e6 and BURST from 1 to 1e6, or off")
    return parsed
