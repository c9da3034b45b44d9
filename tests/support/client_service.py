"""A service that calls a router without a pause, from threads and from an event loop, and records what it was shown.

It needs the client's wheel and nothing of this repository. It begins when it is started, says `begun` after its first
answers, and ends with the line `stop` on its input; then it prints what came of it, as JSON.
"""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from abfleet_client import AsyncRecommender, ClientError, Recommender, SendingPolicy

THREADS, TASKS = 3, 6
DEADLINE_SECONDS = 60.0
"""Of each call. A restart takes a second or two; a busy machine may need far longer."""
PAUSE_SECONDS = 0.01
SENDING = SendingPolicy(linger_seconds=0.05, give_up_seconds=120)


@dataclass(slots=True)
class Calls:
    """What one caller saw; changed only by it."""

    name: str
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0

    def asked(self) -> dict[str, Any]:
        """The next call, and what is recorded after it: ids follow from the caller's name and the number."""
        return {
            "user_id": f"user-{self.name}-{self.answered % 100}",
            "items": [1, 2, 3],
            "request_id": f"{self.name}-{self.answered}",
        }

    def done(self, begun: float) -> None:
        self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - begun)
        self.answered += 1


def in_thread(recommender: Recommender, calls: Calls, stopping: Callable[[], bool]) -> None:
    while not stopping():
        begun = time.monotonic()
        call = calls.asked()
        try:
            answer = recommender.recommend(**call)
            recommender.record(
                "click", user_id=call["user_id"], request_id=answer.request_id, item=answer.items[0],
                outcome_id=call["request_id"],
            )  # fmt: skip
        except ClientError as error:
            calls.failed.append(str(error))
        else:
            calls.done(begun)
        time.sleep(PAUSE_SECONDS)


async def in_task(recommender: AsyncRecommender, calls: Calls, stopping: Callable[[], bool]) -> None:
    while not stopping():
        begun = time.monotonic()
        call = calls.asked()
        try:
            answer = await recommender.recommend(**call)
            await recommender.record(
                "click", user_id=call["user_id"], request_id=answer.request_id, item=answer.items[0],
                outcome_id=call["request_id"],
            )  # fmt: skip
        except ClientError as error:
            calls.failed.append(str(error))
        else:
            calls.done(begun)
        await asyncio.sleep(PAUSE_SECONDS)


async def on_loop(address: str, calls: list[Calls], stopping: Callable[[], bool]) -> Any:
    async with AsyncRecommender(address, timeout=DEADLINE_SECONDS, sending=SENDING) as recommender:
        await asyncio.gather(*(in_task(recommender, one, stopping) for one in calls))
    return recommender.outcomes


def main() -> None:
    address = sys.argv[1]
    stop = threading.Event()
    callers = [Calls(f"thread-{number}") for number in range(THREADS)]
    tasks = [Calls(f"task-{number}") for number in range(TASKS)]
    tallies: list[Any] = []
    loop = threading.Thread(target=lambda: tallies.append(asyncio.run(on_loop(address, tasks, stop.is_set))))
    loop.start()
    with Recommender(address, timeout=DEADLINE_SECONDS, sending=SENDING) as recommender:
        threads = [threading.Thread(target=in_thread, args=(recommender, one, stop.is_set)) for one in callers]
        for thread in threads:
            thread.start()
        while not all(one.answered or one.failed for one in [*callers, *tasks]):
            time.sleep(0.01)
        print("begun", flush=True)
        sys.stdin.readline()
        stop.set()
        for thread in [*threads, loop]:
            thread.join()
    tallies.append(recommender.outcomes)
    print(json.dumps({"callers": [asdict(one) for one in [*callers, *tasks]], "tallies": list(map(asdict, tallies))}))


if __name__ == "__main__":
    main()
