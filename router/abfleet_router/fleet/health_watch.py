"""What one worker says of its health, under the name of the version that it is asked for (grpc.health.v1)."""

import asyncio
import re
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from abfleet_experiments.file.kinds import VERSION
from abfleet_transport.call import Code
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from abfleet_router.fleet.http2_client_stream import RpcFailed

_VERSION = re.compile(VERSION)
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
WATCH_METHOD, CHECK_METHOD = f"/{_HEALTH}/Watch", f"/{_HEALTH}/Check"
WATCH_RETRY_SECONDS = 0.2
"""Pause between health watches of a worker that is connected and ends them."""
FIRST_ANSWER_SECONDS = 2.0
"""For what a watch says at once, the health as it is; a worker that does not say it is asked anew."""
CHECK_SECONDS = 1.0
"""Between two questions to a worker that allows no stream beside a call, where a watch would leave none for calls."""
CHECK_TIMEOUT_SECONDS = 2.0
"""For an answer to one, which stands in line with batches."""
BROKEN_OFF = (Code.UNAVAILABLE, Code.CANCELLED)
"""How a stream ends that somebody has cut, be it a proxy on the way."""


class ReplicaHealth(Enum):
    """What is known of a replica."""

    CONNECTING = "connecting"
    SERVING = "serving"
    NOT_SERVING = "not_serving"
    WRONG_VERSION = "wrong_version"
    """It answers, but not under the name of the pool, be that a version or an alias."""
    LOST = "lost"
    """The connection broke."""


class HealthLink(Protocol):
    """A connection to a worker, as far as its health is asked over it."""

    @property
    def may_watch(self) -> bool:
        """Whether the worker allows a stream that never ends beside calls."""

    async def watch(self, path: str, message: bytes, on_message: Callable[[bytes], None]) -> None:
        """A server-streaming call: hears each message until the stream ends. Raises RpcFailed."""

    async def ask(self, path: str, message: bytes, timeout_seconds: float) -> bytes:
        """A unary call. Raises RpcFailed, and TimeoutError where no answer comes in time."""


class HealthWatch:
    """Asks over one link; `on_health` hears every answer, changed or not."""

    def __init__(self, link: HealthLink, version: str, on_health: Callable[[ReplicaHealth], None]) -> None:
        self._link = link
        self._question = health_pb2.HealthCheckRequest(service=version).SerializeToString()
        self._on_health = on_health
        self._heard = False  # something, of the watch that is open

    async def follow(self) -> None:
        """Follows the worker's health as long as the connection lasts; cancelled when it is gone."""
        while True:
            self._heard = False
            try:
                if self._link.may_watch:
                    await self._watch()
                    self._on_health(ReplicaHealth.NOT_SERVING)  # a watch has no end of its own: the worker is going
                else:
                    self._hear(await self._link.ask(CHECK_METHOD, self._question, CHECK_TIMEOUT_SECONDS))
                    await asyncio.sleep(CHECK_SECONDS)
                    continue
            except TimeoutError:
                continue  # it stood behind a long batch, or was lost; whether the worker lives is known otherwise
            except RpcFailed as error:
                if error.code is Code.UNIMPLEMENTED:  # gRFC A17: a server without health is assumed healthy
                    self._on_health(ReplicaHealth.SERVING)
                    return
                if error.code is Code.NOT_FOUND:
                    self._on_health(ReplicaHealth.WRONG_VERSION)  # what Check says of a name that it does not know
                elif self._heard and error.code in BROKEN_OFF:
                    continue  # a stream's end says nothing of health; if the next one ends so, too, it does
                elif not error.unsent:
                    self._on_health(ReplicaHealth.NOT_SERVING)
            await asyncio.sleep(WATCH_RETRY_SECONDS)

    async def _watch(self) -> None:
        """Raises RpcFailed, and TimeoutError where nothing is said at first; later a watch may be silent for ever."""
        async with asyncio.timeout(FIRST_ANSWER_SECONDS) as limit:

            def hear(message: bytes) -> None:
                if not self._heard and not limit.expired():
                    limit.reschedule(None)
                self._hear(message)

            await self._link.watch(WATCH_METHOD, self._question, hear)

    def _hear(self, message: bytes) -> None:
        self._heard = True
        try:
            self._on_health(health_of(health_pb2.HealthCheckResponse.FromString(message).status))
        except DecodeError:
            self._on_health(ReplicaHealth.NOT_SERVING)


def health_of(status: "health_pb2.HealthCheckResponse.ServingStatus") -> ReplicaHealth:
    """What a health answer under the version's name says of the replica."""
    match status:
        case health_pb2.HealthCheckResponse.SERVING:
            return ReplicaHealth.SERVING
        case health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            return ReplicaHealth.WRONG_VERSION
        case _:
            return ReplicaHealth.NOT_SERVING


def serves_pool(pool: str, version: str, alias: str) -> bool:
    """Whether a worker that serves `version`, and follows `alias` or none (""), is one for the pool of that name.

    A pool named by an alias takes the version that the alias leads to, as the worker knows it; what it calls itself
    goes into the log and to callers, so it must be a version's name.
    """
    return version == pool or (alias == pool and _VERSION.fullmatch(version) is not None)
