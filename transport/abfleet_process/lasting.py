"""Tasks that are to last as long as their process: a fault of ours in one must not end what it does for ever."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from abfleet_process.backoff import backoff_seconds

log = structlog.get_logger("abfleet.process")

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 10.0
LASTING_SECONDS = 60.0
"""What has run so long before it failed is begun again as if for the first time."""


def start_lasting(run: Callable[[], Awaitable[None]], name: str) -> asyncio.Task[None]:
    """A task that calls `run`, and calls it again whenever it raises, until it is cancelled or `run` returns.

    Each error is logged with its traceback; nobody awaits such a task, so it would be lost. `name` is the task's.
    """
    return asyncio.get_running_loop().create_task(_keep_calling(run, name), name=name)


async def _keep_calling(run: Callable[[], Awaitable[None]], name: str) -> None:
    clock, failures = asyncio.get_running_loop().time, 0
    while True:
        begun = clock()
        try:
            await run()
            return
        except Exception:
            failures = 1 if clock() - begun > LASTING_SECONDS else failures + 1
            pause = backoff_seconds(failures, first=FIRST_PAUSE_SECONDS, most=LONGEST_PAUSE_SECONDS)
            log.exception("a background task failed; it is begun again", task=name, in_seconds=pause)
        await asyncio.sleep(pause)
