"""Traffic for tests: calls at a fixed rate on their own schedule, and many calls at once. Keeps every outcome."""

import asyncio
import itertools
import time
from collections.abc import Coroutine, Sequence
from typing import Any

import grpc
from abfleet_protos.recommender_pb2 import RecommendRequest, RecommendResponse
from abfleet_protos.recommender_pb2_grpc import RecommenderStub

SEED_HISTORY = [1, 2, 3, 10, 15]


async def call_all(address: str, requests: Sequence[RecommendRequest], at_once: int = 64) -> list[RecommendResponse]:
    """Answers in the order of the requests; any failure fails the test."""
    gate = asyncio.Semaphore(at_once)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = RecommenderStub(channel)

        async def one(request: RecommendRequest) -> RecommendResponse:
            async with gate:
                return await stub.Recommend(request, timeout=20)

        return await asyncio.gather(*map(one, requests))


class Load:
    """Calls at a fixed rate on their own schedule, whatever the answers do; keeps every outcome."""

    def __init__(self, address: str, rate: float, prefix: str, users: int = 1000) -> None:
        """`rate`: calls a second; `prefix`: of their request ids; `users`: who call in turn."""
        self._address = address
        self._rate = rate
        self._prefix = prefix
        self._users = users
        self.answers: list[tuple[float, str, RecommendResponse]] = []
        self.errors: list[grpc.aio.AioRpcError] = []
        self._stop = asyncio.Event()

    async def run(self) -> None:
        async with grpc.aio.insecure_channel(self._address) as channel:
            stub = RecommenderStub(channel)
            begun, calls = time.monotonic(), set()
            for number in itertools.count():
                due = begun + number / self._rate
                if self._stop.is_set():
                    break
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                task = asyncio.create_task(self._one(stub, number))
                calls.add(task)
                task.add_done_callback(calls.discard)
            await asyncio.gather(*calls)

    async def _one(self, stub: RecommenderStub, number: int) -> None:
        user_id = f"load-{number % self._users}"
        request = RecommendRequest(item_ids=SEED_HISTORY, user_id=user_id, request_id=f"{self._prefix}-{number}")
        try:
            answer = await stub.Recommend(request, timeout=10)
        except grpc.aio.AioRpcError as error:
            self.errors.append(error)
        else:
            self.answers.append((time.monotonic(), user_id, answer))

    async def until(self, story: Coroutine[Any, Any, None]) -> None:
        """Runs until a coroutine has ended, then lets the calls under way end."""
        running = asyncio.create_task(self.run())
        try:
            await story
        finally:
            self._stop.set()
            await running
