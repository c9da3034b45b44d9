"""The attempts of one call: when there is another one, and what is said when there is none. Makes no call itself."""

import random
import time
from collections.abc import Callable
from math import inf
from typing import Any

import grpc

from abfleet_client.errors import CallFailed, not_allowed

RETRYABLE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
"""What a server that is on its way out may answer. Who cancels a call itself is not told so by a status."""
FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.05, 1.0


class CallAttempts:
    """What is retryable is sent again until the deadline, after waits that double; all else is an end.

    gRPC retries by itself too, but at most four times, and no message of more than 256 KiB. Changed only by the call.
    """

    def __init__(
        self,
        timeout_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Raises InvalidArgument."""
        if not isinstance(timeout_seconds, int | float) or not 0 < timeout_seconds < inf:
            raise not_allowed("timeout", timeout_seconds, "seconds above 0")
        self._clock = clock
        self._draw = draw
        self._deadline = clock() + timeout_seconds
        self._failures = 0
        self._before = ""

    @property
    def waits_for_connection(self) -> bool:
        """Whether the next attempt does: the first one does not, so that it says why there is no connection."""
        return self._failures > 0

    def left_seconds(self) -> float:
        """Until the deadline."""
        return max(0.0, self._deadline - self._clock())

    def wait_seconds(self, error: grpc.RpcError, request_id: str, address: str) -> float:
        """How long to wait before the next attempt. Raises CallFailed where there is none."""
        failed: Any = error  # the library's class of it has no methods of its own
        code, details = failed.code(), failed.details() or ""
        self._failures += 1
        wait = backoff_seconds(self._failures, FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS, self._draw)
        if code not in RETRYABLE or wait >= self.left_seconds():
            before = f"; before that {self._before}" if self._before else ""
            raise CallFailed(
                code.name, details + before, request_id=request_id, address=address, attempts=self._failures
            ) from error
        self._before = f"{code.name}: {details}"
        return wait


def backoff_seconds(failures: int, first: float, most: float, draw: Callable[[], float]) -> float:
    """After so many failures in a row: twice as long each time up to the most, by chance from half of that to all of
    it, so that clients do not come together."""
    return min(first * 2.0 ** min(failures - 1, 32), most) * (0.5 + draw() / 2)
