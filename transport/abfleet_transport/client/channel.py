"""What a client shows a router and whom it trusts: token and certificates from files. Knows channels, no service."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from abfleet_process.security.tokens import MOST_TOKEN_CHARACTERS
from abfleet_process.watched_credentials import CredentialError, WatchedCredential, read_file

Options = Sequence[tuple[str, str | int]]
AUTHORIZATION = "authorization"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCredentials:
    """Files of a client; all of them together, or none for a plain connection without a token."""

    token_file: Path | None = None
    """Its content is the token; a changed one counts from the next call on."""
    server_ca: Path | None = None
    """Authority that the server's certificate must come from; None: no TLS."""
    client_cert: Path | None = None
    client_key: Path | None = None
    server_name: str = ""
    """Name in the server's certificate, where that is not the one of the address."""

    def credentials(self) -> grpc.ChannelCredentials | None:
        """None for a plain connection. Raises CredentialError."""
        if self.server_ca is None:
            if self.client_cert or self.client_key or self.server_name:
                raise CredentialError("--client-cert, --client-key and --server-name need --server-ca")
            return None
        if (self.client_cert is None) != (self.client_key is None):
            raise CredentialError("--client-cert and --client-key need each other")
        return grpc.ssl_channel_credentials(
            read_file("--server-ca", self.server_ca),
            read_file("--client-key", self.client_key) if self.client_key else None,
            read_file("--client-cert", self.client_cert) if self.client_cert else None,
        )

    def token(self) -> str | None:
        """The token in the file; None without a file. Raises CredentialError."""
        if self.token_file is None:
            return None
        token = read_file("--token-file", self.token_file).decode("ascii", "replace").strip()
        if not token or len(token) > MOST_TOKEN_CHARACTERS or not token.isascii() or len(token.split()) != 1:
            raise CredentialError(
                f"--token-file: {self.token_file} does not hold a token; allowed is one token and nothing else"
            )
        return token


PLAIN = ClientCredentials()


def open_channel(address: str, access: ClientCredentials = PLAIN, options: Options = ()) -> grpc.aio.Channel:
    """A channel that shows what `access` has; close it, or use it in `async with`. Raises CredentialError."""
    interceptors: list[Any] = [TokenInterceptor(access.token_file, access)] if access.token_file else []
    credentials = access.credentials()
    named = [*options, ("grpc.ssl_target_name_override", access.server_name)] if access.server_name else [*options]
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=named, interceptors=interceptors)
    return grpc.aio.secure_channel(address, credentials, options=named, interceptors=interceptors)


if TYPE_CHECKING:  # the stubs are generic, the class itself is not
    Interceptor = grpc.aio.UnaryUnaryClientInterceptor[Any, Any]
else:
    Interceptor = grpc.aio.UnaryUnaryClientInterceptor


class TokenInterceptor(Interceptor):
    """Adds the token to each call; also without TLS, which is for loopback and for a proxy that has it."""

    def __init__(self, path: Path, access: ClientCredentials) -> None:
        self._token = WatchedCredential("token", (path,), access.token)

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        metadata = grpc.aio.Metadata(*(client_call_details.metadata or ()))
        metadata.add(AUTHORIZATION, f"Bearer {self._token.check()}")
        details = client_call_details._replace(metadata=metadata)  # type: ignore[attr-defined]  # a named tuple
        return await continuation(details, request)
