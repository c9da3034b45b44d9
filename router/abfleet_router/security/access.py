"""Who a caller is, and what it may do, by its token or the name in its certificate."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from abfleet_process.security.tokens import Token, TokenFile, bearer
from abfleet_transport.call import Call, Code, Metadata
from abfleet_transport.plan import ServerInterceptor

from abfleet_router.errors import RouterError

REFLECTION = "/grpc.reflection."
PROOF = "metadata `authorization: Bearer TOKEN`"


class AccessDenied(RouterError):
    """The caller is unknown, or may not do this; `code` is the status of the answer."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


class Access:
    """What callers may do, by the tokens in the file as it is now."""

    def __init__(self, tokens: TokenFile | None, *, feedback_needs_token: bool, admin_needs_token: bool) -> None:
        self._tokens = tokens
        self._feedback_needs_token = feedback_needs_token
        self._admin_needs_token = admin_needs_token

    @property
    def knows_tokens(self) -> bool:
        """Whether a token can say who a caller is."""
        return self._tokens is not None

    def name(self, metadata: Metadata, certificate: str | None) -> str | None:
        """Who calls: the name of a known token, else that of a certificate; None for neither.

        A token that is not known says nothing here: Recommend asks for none, and the caller may carry it for others.
        """
        token = self._known(metadata)
        return token.name if token else certificate

    def client_of(self, call: Call) -> str | None:
        """The name of the caller of a Recommend call; None if it has none."""
        return self.name(call.metadata, call.client)

    def feedback(self, metadata: Metadata, certificate: str | None) -> str | None:
        """The name of the caller who records outcomes. Raises AccessDenied if it may not."""
        remedy = "outcomes need a token on addresses other than loopback, unless --open-feedback is set"
        token = self._allowed(metadata, "feedback", needed=self._feedback_needs_token, remedy=remedy)
        return token.name if token else certificate

    def admin(self, metadata: Metadata) -> None:
        """Raises AccessDenied for a caller who may not use the admin port."""
        remedy = "the admin port needs a token on addresses other than loopback"
        self._allowed(metadata, "admin", needed=self._admin_needs_token, remedy=remedy)

    def _known(self, metadata: Metadata) -> Token | None:
        secret = bearer(metadata) if self._tokens else None
        return self._tokens.find(secret) if self._tokens and secret else None

    def _allowed(self, metadata: Metadata, scope: str, *, needed: bool, remedy: str) -> Token | None:
        """The caller's token, which must be right wherever tokens are known; None where none is needed and given."""
        if self._tokens is None:
            if needed:
                raise AccessDenied(Code.UNAUTHENTICATED, f"{remedy}; this router has no token file (--tokens)")
            return None
        if bearer(metadata) is None:
            if needed:
                raise AccessDenied(Code.UNAUTHENTICATED, f"{remedy}; send {PROOF}")
            return None
        token = self._known(metadata)
        if token is None:
            raise AccessDenied(Code.UNAUTHENTICATED, f"the token is not known; send {PROOF} with a known token")
        if scope not in token.scopes:
            scopes = ",".join(sorted(token.scopes))
            raise AccessDenied(
                Code.PERMISSION_DENIED, f"the token of {token.name} has scope {scopes}; it needs scope {scope}"
            )
        return token


class AdminGuard(ServerInterceptor):
    """Asks every caller of a server for the scope admin; which services there are is no secret."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        if not handler_call_details.method.startswith(REFLECTION):
            try:
                self._access.admin(tuple(handler_call_details.invocation_metadata or ()))
            except AccessDenied as denied:
                return refusing(denied)
        return await continuation(handler_call_details)


def refusing(denied: AccessDenied) -> "grpc.RpcMethodHandler[Any, Any]":
    """A handler that refuses whatever it is asked."""
    code, message = grpc.StatusCode[denied.code.name], str(denied)

    async def refuse(request: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
        await context.abort(code, message)

    return grpc.unary_unary_rpc_method_handler(refuse)
