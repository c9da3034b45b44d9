"""Traffic whose every answer can be checked: calls on a Poisson schedule with different histories, each outcome kept.

Knows routers by address and the histories it sends; what the answers should be is for whoever reads the outcomes.
"""

import asyncio
import gc
import random
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_protos.recommender_pb2_grpc import RecommenderStub


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one caller saw; times in seconds of `time.monotonic()`."""

    request_id: str
    user_id: str
    history: int
    due: float
    """When the call was due: its time counts from here, so that a stall cannot hide itself."""
    seconds: float
    status: str
    group: str = ""
    version: str = ""
    item_ids: tuple[int, ...] = ()
    pushback: bool = False
    """The error said when to come again."""
    details: str = ""


class OpenLoad:
    """Calls at `rate` a second, whatever the answers do, until a story has ended. The same calls for the same seed."""

    def __init__(
        self,
        address: str,
        rows: Sequence[Sequence[int]],
        *,
        rate: float,
        prefix: str,
        seed: int,
        timeout_seconds: float = 2.0,
        options: Sequence[tuple[str, Any]] = (),
        channels: int = 2,
    ) -> None:
        """`rows`: the histories; `prefix`: of request ids; `options`: of the channels."""
        self.rate = rate
        self.outcomes: list[Outcome] = []
        self._address = address
        self._rows = rows
        self._prefix = prefix
        self._draw = random.Random(seed)
        self._timeout_seconds = timeout_seconds
        self._options = [("grpc.use_local_subchannel_pool", 1), *options]
        self._channels = channels
        self._made = 0
        self._stop = False

    def run(self, story: Coroutine[Any, Any, None]) -> None:
        """Sends until the story has ended, and waits for every answer."""
        gc.collect()
        gc.freeze()  # a collection here would be seen as a stall there
        asyncio.run(self._run(story))
        gc.unfreeze()

    async def _run(self, story: Coroutine[Any, Any, None]) -> None:
        channels = [grpc.aio.insecure_channel(self._address, options=self._options) for _ in range(self._channels)]
        stubs = [RecommenderStub(channel) for channel in channels]
        sending = asyncio.create_task(self._send(stubs))
        try:
            await story
        finally:
            self._stop = True
            await sending
            for channel in channels:
                await channel.close()

    async def _send(self, stubs: Sequence[RecommenderStub]) -> None:
        due, calls = time.monotonic(), set()
        while not self._stop:
            due += self._draw.expovariate(self.rate)
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            elif self._made % 50 == 0:
                await asyncio.sleep(0)  # late: catch up, and let answers in
            call = asyncio.create_task(self._call(stubs[self._made % len(stubs)], self._made, due))
            self._made += 1
            calls.add(call)
            call.add_done_callback(calls.discard)
        await asyncio.gather(*calls)

    async def _call(self, stub: RecommenderStub, number: int, due: float) -> None:
        history = self._draw.randrange(len(self._rows))
        user = f"user-{self._draw.randrange(100_000)}"
        request_id = f"{self._prefix}-{number}"
        request = RecommendRequest(item_ids=self._rows[history], user_id=user, request_id=request_id)
        try:
            got = await stub.Recommend(request, timeout=self._timeout_seconds)
        except grpc.aio.AioRpcError as error:
            outcome = Outcome(
                request_id,
                user,
                history,
                due,
                time.monotonic() - due,
                error.code().name,
                pushback="retry-pushback-ms" in {str(key) for key, _ in error.trailing_metadata() or ()},
                details=error.details() or "",
            )
        else:
            assert got.request_id == request_id
            outcome = Outcome(
                request_id,
                user,
                history,
                due,
                time.monotonic() - due,
                "OK",
                group=got.group,
                version=got.model_version,
                item_ids=tuple(got.item_ids),
            )
        self.outcomes.append(outcome)
