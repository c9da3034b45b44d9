"""Channels to an admin port, which show a token and certificates. Knows no service."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
from abfleet_client import ClientCredentials, CurrentToken, InvalidArgument
from abfleet_process.watched_credentials import CredentialError

Options = Sequence[tuple[str, str | int]]
AUTHORIZATION = "authorization"
PLAIN = ClientCredentials()


def open_channel(address: str, access: ClientCredentials = PLAIN, options: Options = ()) -> grpc.aio.Channel:
    """A channel that shows what `access` has; close it, or use it in `async with`. Raises CredentialError."""
    try:
        interceptors: list[Any] = [TokenInterceptor(CurrentToken(access))] if access.read_token() else []
        credentials = access.channel_credentials()
    except InvalidArgument as error:
        raise by_flag(error) from error
    named = [*options, ("grpc.ssl_target_name_override", access.server_name)] if access.server_name else [*options]
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=named, interceptors=interceptors)
    return grpc.aio.secure_channel(address, credentials, options=named, interceptors=interceptors)


def by_flag(error: InvalidArgument) -> CredentialError:
    """What is wrong with credentials, in the words of a command line."""
    return CredentialError(f"--{error.field.replace('_', '-')}: {error.problem}")


if TYPE_CHECKING:  # the stubs are generic, the class itself is not
    Interceptor = grpc.aio.UnaryUnaryClientInterceptor[Any, Any]
else:
    Interceptor = grpc.aio.UnaryUnaryClientInterceptor


class TokenInterceptor(Interceptor):
    """Adds the token to each call; also without TLS, which is for loopback and for a proxy that has it."""

    def __init__(self, token: CurrentToken) -> None:
        self._token = token

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        metadata = grpc.aio.Metadata(*(client_call_details.metadata or ()))
        metadata.add(AUTHORIZATION, f"Bearer {self._token.get()}")
        details = client_call_details._replace(metadata=metadata)  # type: ignore[attr-defined]  # a named tuple
        return await continuation(details, request)
