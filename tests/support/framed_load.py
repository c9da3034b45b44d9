"""Calls at a high fixed rate from one thread, encoded beforehand; keeps when each was answered. Knows no router's end.

A gRPC client in Python cannot send 2,000 calls a second beside a router on two cores: these are frames, made before the
clock starts. The connection may break at any moment; what was answered until then is known.
"""

import select
import threading
import time
from collections import Counter

from abfleet_protos.recommender_pb2 import RecommendRequest

from tests.benchmarks.http2 import Connection, Request

LONGEST_WAIT_SECONDS = 0.01
LINGER_SECONDS = 5.0
"""After the last call was sent, for answers that are on their way."""


class FramedLoad:
    """Up to `calls` calls at `rate` a second; runs between `start` and `join`. Changed only by its own thread."""

    def __init__(self, address: str, rate: float, prefix: str, *, calls: int) -> None:
        """`prefix`: of the request ids, which end in the number of the call."""
        port = int(address.rpartition(":")[2])
        self.answered: list[tuple[float, str]] = []
        """When, on the monotonic clock, and which request."""
        self.failed: Counter[int] = Counter()
        """By gRPC status; negative ones are those of `tests.benchmarks.http2`."""
        self.sent = 0
        self._rate = rate
        self._ids = [f"{prefix}-{number}" for number in range(calls)]
        self._requests = [self._request(port, number, name) for number, name in enumerate(self._ids)]
        self._connections = [Connection(port, keep_answers=False) for _ in range(2)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @staticmethod
    def _request(port: int, number: int, request_id: str) -> Request:
        message = RecommendRequest(item_ids=[1, 2, 3, 10, 15], user_id=f"load-{number % 1000}", request_id=request_id)
        return Request.of(port=port, path="/Recommender/Recommend", payload=message.SerializeToString(), headers={})

    def start(self) -> None:
        """Begins to send."""
        self._thread.start()

    def join(self) -> None:
        """Sends no more and takes the answers that still come."""
        self._stop.set()
        self._thread.join()
        for connection in self._connections:
            connection.socket.close()

    @property
    def reached_rate(self) -> float:
        """Answers a second between the first and the last."""
        times = [at for at, _ in self.answered]
        return (len(times) - 1) / (max(times) - min(times)) if len(times) > 1 else 0.0

    def _run(self) -> None:
        begun = time.monotonic()
        limit: float | None = None
        while True:
            now = time.monotonic()
            if self._stop.is_set() or self.sent == len(self._requests):
                limit = limit or now + LINGER_SECONDS
                done = len(self.answered) + self.failed.total() >= self.sent
                if done or now > limit:
                    return
            else:
                due = min(len(self._requests), int((now - begun) * self._rate) + 1)
                for number in range(self.sent, due):
                    self._connections[number % 2].send(number, self._requests[number])
                self.sent = due
            if not self._exchange():
                return

    def _exchange(self) -> bool:
        """Writes and reads what there is; False when every connection is gone."""
        for connection in self._connections:
            connection.flush()
        open_ = [connection for connection in self._connections if not connection.closed]
        if open_:
            sockets = {connection.socket: connection for connection in open_}
            ready, _, _ = select.select(list(sockets), [], [], min(1 / self._rate, LONGEST_WAIT_SECONDS))
            for socket in ready:
                sockets[socket].receive()
        now = time.monotonic()
        for connection in self._connections:
            for number, status in connection.finished:
                if status == 0:
                    self.answered.append((now, self._ids[number]))
                else:
                    self.failed[status] += 1
            connection.finished.clear()
        return bool(open_)
