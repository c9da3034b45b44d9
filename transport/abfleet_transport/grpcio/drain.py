"""When a server that drains may close its socket, by the numbers of its calls and the time."""

import asyncio
import math
import time
from collections.abc import Callable

QUIET_SECONDS = 0.02
"""How long without a call is quiet, at first; some round trips on a local network."""
POLL_SECONDS = 0.002


async def idle_instant(in_progress: Callable[[], int], last_event: Callable[[], float], at_most_seconds: float) -> None:
    """Returns at an instant without a call in progress, or after `at_most_seconds`.

    What came just now may have a neighbour that is still on its way through the library, and an answer given just now
    may still be on its way out, so an instant counts as idle only after a quiet time. Steady traffic has no long quiet:
    the time that is asked for falls to nothing over the first half of what there is. `last_event` is when a call last
    came, by `time.monotonic()`.
    """
    begun = time.monotonic()
    last_busy = -math.inf
    while (now := time.monotonic()) < begun + at_most_seconds:
        left = 1 - 2 * (now - begun) / at_most_seconds
        if in_progress():
            last_busy = now
        elif now >= max(last_event(), last_busy) + max(0.0, QUIET_SECONDS * left):
            return
        await asyncio.sleep(POLL_SECONDS)  # polls, because no event reports silence
