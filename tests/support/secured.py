"""A fleet over TLS with certificates on every side, and tokens; what its callers show is written down in one place."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc
from abfleet_client import ClientCredentials
from abfleet_process.security import tokens

from tests.support.certificates import Authority
from tests.support.fleet import Fleet, replace

OWN_POOL = ("grpc.use_local_subchannel_pool", 1)


class Papers:
    """Certificates and tokens in a folder, with the flags that name them."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        for name in ("router", "worker"):
            self.authority.issue(name)
        self.authority.issue("hop", "DNS:router.example")
        self.authority.issue("shop", "URI:spiffe://example/shop,DNS:shop.example")
        self.tokens_path = folder / "tokens"
        self.tokens_path.write_text("")
        self.folder = folder
        self.worker_flags = self.files("tls", "worker", "--tls-client-ca")
        self.hop_flags = self.files("worker", "hop", "--worker-ca")
        self.router_flags = (
            *self.files("tls", "router", "--tls-client-ca"),
            *("--tokens", str(self.tokens_path), *self.hop_flags),
        )

    def files(self, prefix: str, name: str, ca_flag: str) -> tuple[str, ...]:
        """The three flags of a certificate."""
        cert, key = (str(self.folder / f"{name}.{kind}") for kind in ("crt", "key"))
        return (f"--{prefix}-cert", cert, f"--{prefix}-key", key, ca_flag, str(self.authority.ca))

    def access(self, name: str = "shop", token: str = "", *, server_name: str = "localhost") -> ClientCredentials:
        """What a caller with this certificate shows; an empty name: no certificate."""
        token_file = None
        if token:
            token_file = self.folder / f"token-{tokens.digest_of(token)[:8]}"
            token_file.write_text(token + "\n")
        return ClientCredentials(
            token_file=token_file,
            server_ca=self.authority.ca,
            client_cert=self.folder / f"{name}.crt" if name else None,
            client_key=self.folder / f"{name}.key" if name else None,
            server_name=server_name,
        )

    def add_token(self, name: str, *scopes: str) -> str:
        """A new token that the router's file has from now on, in the place of one of that name."""
        secret, stored = tokens.new(name, scopes)
        others = [line for line in self.tokens_path.read_text().splitlines() if line.split()[0] != name]
        replace(self.tokens_path, "\n".join([*others, stored.line(), ""]))
        return secret


def channel(address: str, access: ClientCredentials) -> grpc.Channel:
    """A blocking channel on a connection of its own."""
    credentials = access.channel_credentials()
    assert credentials is not None
    options = [OWN_POOL, ("grpc.ssl_target_name_override", access.server_name)]
    return grpc.secure_channel(address, credentials, options=options)


def words(access: ClientCredentials) -> tuple[str, ...]:
    """The same for the commands."""
    given = {
        "token-file": access.token_file,
        "server-ca": access.server_ca,
        "client-cert": access.client_cert,
        "client-key": access.client_key,
        "server-name": access.server_name,
    }
    return tuple(word for name, value in given.items() if value for word in (f"--{name}", str(value)))


def abfleet(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs the command."""
    command = [sys.executable, "-m", "abfleet", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def s_client(address: str, papers: Papers, *more: str) -> str:
    """What openssl's own client sees of a server: its certificate, ALPN, and whether it trusts them."""
    command = ["openssl", "s_client", "-connect", address, "-CAfile", str(papers.authority.ca), "-alpn", "h2", *more]
    done = subprocess.run(command, input=b"", capture_output=True, timeout=60, check=False)
    return (done.stdout + done.stderr).decode(errors="replace")  # the server's first frames are among it


def here(address: str) -> str:
    """An address that is bound everywhere, as one calls it from this machine."""
    return address.replace("0.0.0.0", "127.0.0.1")


def start(folder: Path, papers: Papers, experiments: str, router_flags: Sequence[str] = ()) -> Fleet:
    """A fleet of one version that listens off loopback; enter it."""
    return Fleet(
        folder,
        experiments=experiments,
        versions=("v1.2.3",),
        router_flags=(*papers.router_flags, "--listen", "0.0.0.0:0", "--admin-listen", "0.0.0.0:0", *router_flags),
        worker_flags=papers.worker_flags,
    )
