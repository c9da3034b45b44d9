"""The health watch, with a link that the test plays."""

import asyncio
from collections.abc import Callable

import pytest
from abfleet_router.fleet import health_watch
from abfleet_router.fleet.health_watch import HealthWatch, ReplicaHealth
from grpc_health.v1.health_pb2 import HealthCheckResponse

from tests.router.place import GENEROUS_SECONDS

SERVING = HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString()


class MuteLink:
    """A worker that says nothing to its first watches, and then serves."""

    may_watch = True

    def __init__(self, mute: int) -> None:
        self._mute = mute
        self.watches = 0

    async def watch(self, path: str, message: bytes, on_message: Callable[[bytes], None]) -> None:
        self.watches += 1
        if self.watches > self._mute:
            on_message(SERVING)
        await asyncio.sleep(3600)

    async def ask(self, path: str, message: bytes, timeout_seconds: float) -> bytes:
        raise NotImplementedError


async def test_a_watch_that_says_nothing_is_opened_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Health is said at once; one that speaks may then be silent for ever."""
    monkeypatch.setattr(health_watch, "FIRST_ANSWER_SECONDS", 0.05)
    link, heard, told = MuteLink(mute=2), asyncio.Event(), []

    def hear(health: ReplicaHealth) -> None:
        told.append(health)
        heard.set()

    following = asyncio.create_task(HealthWatch(link, "v1", hear).follow())
    async with asyncio.timeout(GENEROUS_SECONDS):
        await heard.wait()
    await asyncio.sleep(0.2)
    assert (told, link.watches) == ([ReplicaHealth.SERVING], 3)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
