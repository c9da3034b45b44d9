"""Asks a running router for its status on the admin port, and sets its log level."""

from typing import Any

import grpc
from abfleet_client import ClientCredentials
from abfleet_protos import admin_pb2, admin_pb2_grpc

from abfleet_transport.client.channel import PLAIN, open_channel
from abfleet_transport.client.status_document import from_answer

TIMEOUT_SECONDS = 5.0
MOST_BYTES = 64 * 1024 * 1024
"""Of an answer. gRPC's own limit, 4 MiB, is too little for the status of some 18,000 groups."""


class Unreachable(Exception):
    """No answer, or none that makes sense; the message is one line for a person."""


class RouterAdmin:
    """A connection to one router's admin port; an async context manager."""

    def __init__(self, address: str, access: ClientCredentials = PLAIN) -> None:
        self.address = address
        self._access = access
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> "RouterAdmin":
        options = (
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", MOST_BYTES),
        )
        self._channel = open_channel(self.address, self._access, options)
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._channel is not None:
            await self._channel.close(None)

    async def status(self) -> admin_pb2.StatusResponse:
        """The router's status; that of the release before, which sends JSON alone, too. Raises Unreachable."""
        answer = await self._ask("Status", admin_pb2.StatusRequest(without_json=True))
        try:
            return from_answer(answer)
        except ValueError as error:
            raise Unreachable(
                f"the status of {self.address} cannot be read ({error}); the router may be of another release"
            ) from error

    async def set_log_level(self, level: str) -> tuple[str, str]:
        """Sets the level of the operational log, "" for the one it was started with; gives (before, after). Raises
        Unreachable."""
        answer = await self._ask("SetLogLevel", admin_pb2.SetLogLevelRequest(level=level))
        return answer.was, answer.level

    async def _ask(self, method: str, request: Any) -> Any:
        assert self._channel is not None, "enter it first"
        stub = admin_pb2_grpc.AdminStub(self._channel)  # type: ignore[no-untyped-call]
        try:
            return await getattr(stub, method)(request, timeout=TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                raise Unreachable(
                    f"{self.address} refuses: {error.details()}; give a token with --token-file"
                ) from error
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise Unreachable(f"the answer of {self.address} cannot be read: {error.details()}") from error
            raise Unreachable(f"no router answers on {self.address}: {error.details()}") from error
