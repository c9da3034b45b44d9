"""Options of every command that calls a router: the authority that it trusts, its certificate and its token."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from abfleet_transport.client.channel import ClientCredentials

TokenFile = Annotated[
    Path | None, typer.Option("--token-file", envvar="ABFLEET_TOKEN_FILE", help="A file with the token to show.")
]
ServerCa = Annotated[
    Path | None,
    typer.Option("--server-ca", envvar="ABFLEET_SERVER_CA", help="Call with TLS, and trust this authority (PEM)."),
]
ClientCert = Annotated[
    Path | None, typer.Option("--client-cert", envvar="ABFLEET_CLIENT_CERT", help="Certificate to show (mTLS).")
]
ClientKey = Annotated[Path | None, typer.Option("--client-key", envvar="ABFLEET_CLIENT_KEY", help="Its private key.")]
ServerName = Annotated[
    str,
    typer.Option("--server-name", envvar="ABFLEET_SERVER_NAME", help="Name in the server's certificate, if another."),
]


def access(
    token_file: Path | None,
    server_ca: Path | None,
    client_cert: Path | None,
    client_key: Path | None,
    server_name: str,
) -> "ClientCredentials":
    """The credentials from the flags, with their files read once. Raises typer.BadParameter."""
    from abfleet_process.watched_credentials import CredentialError
    from abfleet_transport.client.channel import ClientCredentials

    found = ClientCredentials(
        token_file=token_file,
        server_ca=server_ca,
        client_cert=client_cert,
        client_key=client_key,
        server_name=server_name,
    )
    try:
        found.credentials()
        found.token()
    except CredentialError as error:
        raise typer.BadParameter(str(error)) from None
    return found
