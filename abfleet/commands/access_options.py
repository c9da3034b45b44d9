"""Options of every command that calls a router: its admin port, the authority that it trusts, certificate and token."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from abfleet_process.addresses import ADMIN_ADDRESS

if TYPE_CHECKING:
    from abfleet_client import ClientCredentials

Admin = Annotated[
    list[str] | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Admin port of a router; may be repeated.",
        show_default=ADMIN_ADDRESS,
    ),
]


@dataclass(frozen=True, slots=True)
class AccessOptions:
    """With what a command shows who it is, and how it knows the router."""

    token_file: Annotated[Path | None, typer.Option("--token-file", help="File with the token to send.")] = None
    server_ca: Annotated[
        Path | None, typer.Option("--server-ca", help="Use TLS and trust this certificate authority (PEM).")
    ] = None
    client_cert: Annotated[Path | None, typer.Option("--client-cert", help="Client certificate (mTLS).")] = None
    client_key: Annotated[Path | None, typer.Option("--client-key", help="Private key of the client certificate.")] = (
        None
    )
    server_name: Annotated[
        str, typer.Option("--server-name", help="Name in the server's certificate, if it differs from the address.")
    ] = ""

    def credentials(self) -> "ClientCredentials":
        """What the flags name, with their files read once. Raises typer.BadParameter."""
        from abfleet_client import ClientCredentials, InvalidArgument
        from abfleet_transport.client.channel import by_flag

        found = ClientCredentials(
            token_file=self.token_file,
            server_ca=self.server_ca,
            client_cert=self.client_cert,
            client_key=self.client_key,
            server_name=self.server_name,
        )
        try:
            found.channel_credentials()
            found.read_token()
        except InvalidArgument as error:
            raise typer.BadParameter(str(by_flag(error))) from None
        return found
