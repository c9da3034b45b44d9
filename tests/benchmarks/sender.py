"""Sends pre-encoded gRPC calls on a schedule, or so many at a time, and times the answers; knows not what they mean.

The schedule is open: a call is due at its time whether or not earlier ones were answered, and its latency counts from
the time it was due, so a stalled server cannot hide its stall (no coordinated omission).
"""

import gc
import random
import select
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from tests.benchmarks.http2 import NO_STATUS, RESET, UNANSWERED, Connection, Request

__all__ = [
    "NO_STATUS",
    "RESET",
    "UNANSWERED",
    "Outcome",
    "Request",
    "Sender",
    "hold_connections",
    "percentile",
    "poisson_schedule",
]

_LONGEST_WAIT_S = 0.05
_ON_ITS_WAY_S = 0.0003  # long enough for a server to take a call in, too short for most answers
_NO_TIMES = array("d")


@dataclass(slots=True)
class Outcome:
    """What one pass saw. Changed only by the pass that makes it."""

    latencies_ms: array = field(default_factory=lambda: array("d"))
    """float64[OK answers], counted from when the call was due (or sent, when not on a schedule)."""
    late_ms: array = field(default_factory=lambda: array("d"))
    """float64[sent]: how long after its due time each call left; the sender's own share of the latency."""
    statuses: Counter = field(default_factory=Counter)
    elapsed_s: float = 0.0
    answers: dict[int, bytes] = field(default_factory=dict)
    """Index of the call -> serialised answer, when the pass was told to keep them."""

    @property
    def ok(self) -> int:
        return self.statuses[0]

    @property
    def sent(self) -> int:
        return sum(self.statuses.values())


def percentile(values: Sequence[float], percent: float) -> float:
    """Returns the nearest-rank percentile of `values`; nan when there is none."""
    if not values:
        return float("nan")
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, -int(-len(ranked) * percent // 100) - 1))]


def poisson_schedule(rate: float, seconds: float, *, seed: int) -> list[float]:
    """Returns due times in seconds from the start: independent arrivals at `rate` a second, the same for a seed."""
    draw, due, at = random.Random(seed), [], 0.0
    while True:
        at += draw.expovariate(rate)
        if at >= seconds:
            return due
        due.append(at)


class Sender:
    """Open connections to one or more ports; passes run on them one after another.

    Raises OSError where nothing listens.
    """

    def __init__(self, requests: Sequence[Request], *, connections: int, keep_answers: bool = False) -> None:
        self._requests = requests
        ports = sorted({request.port for request in requests})
        each = max(1, connections // len(ports))
        self._keep_answers = keep_answers
        self._by_port = {port: [Connection(port, keep_answers=keep_answers) for _ in range(each)] for port in ports}
        self._all = [connection for group in self._by_port.values() for connection in group]
        self._by_socket = {connection.socket: connection for connection in self._all}

    def close(self) -> None:
        for connection in self._all:
            connection.socket.close()

    def on_schedule(self, due_s: Sequence[float], *, patience_s: float = 5.0) -> Outcome:
        """Sends call k at `due_s[k]` after the start, waits `patience_s` after the last for answers."""
        outcome = Outcome()
        with _quiet():
            start = time.perf_counter()
            at = 0

            def due(now: float, _answered: int) -> int:
                nonlocal at
                first = at
                while at < len(due_s) and start + due_s[at] <= now:
                    at += 1
                return at - first

            def wait_s(now: float) -> float:
                return max(0.0, start + due_s[at] - now) if at < len(due_s) else _LONGEST_WAIT_S

            times = array("d", (start + offset for offset in due_s))
            limit = start + (due_s[-1] if due_s else 0.0) + patience_s
            self._run(outcome, len(due_s), due=due, wait_s=wait_s, due_times=times, limit=limit)
        return outcome

    def in_flight(self, calls: int, *, at_once: int, limit_s: float = 60.0) -> Outcome:
        """Sends `calls` calls, `at_once` of them at a time."""
        outcome = Outcome()
        with _quiet():
            sent = 0

            def due(_now: float, answered: int) -> int:
                nonlocal sent
                more = min(calls, answered + at_once) - sent
                sent += more
                return more

            limit = time.perf_counter() + limit_s
            self._run(outcome, calls, due=due, wait_s=lambda _: _LONGEST_WAIT_S, due_times=None, limit=limit)
        return outcome

    def cancelled(self, calls: int, *, at_once: int) -> int:
        """Sends calls and cancels each once it is on its way; returns how many were not answered before that."""
        gone, outcome = 0, Outcome()
        for first in range(0, calls, at_once):
            for number in range(first, min(calls, first + at_once)):
                request = self._requests[number % len(self._requests)]
                group = self._by_port[request.port]
                group[number % len(group)].send(number, request)
            self._exchange(outcome, wait_s=_ON_ITS_WAY_S)
            gone += sum(connection.cancel_open() for connection in self._all)
            self._exchange(outcome, wait_s=0.0)
        return gone

    def _exchange(self, outcome: Outcome, *, wait_s: float) -> None:
        """Writes what is to be written, and takes what has come."""
        for connection in self._all:
            connection.flush()
        self._receive(outcome, _NO_TIMES, wait_s)

    def _run(
        self,
        outcome: Outcome,
        calls: int,
        *,
        due: Callable[[float, int], int],
        wait_s: Callable[[float], float],
        due_times: array | None,
        limit: float,
    ) -> None:
        clock, requests, kinds = time.perf_counter, self._requests, len(self._requests)
        started_at = due_times if due_times is not None else array("d", bytes(8 * calls))
        turn = dict.fromkeys(self._by_port, 0)
        sent = answered = 0
        begin = clock()
        while answered < calls and (now := clock()) < limit:
            for _ in range(due(now, answered)):
                request = requests[sent % kinds]
                group = self._by_port[request.port]
                turn[request.port] += 1
                group[turn[request.port] % len(group)].send(sent, request)
                if due_times is None:
                    started_at[sent] = now
                outcome.late_ms.append((now - started_at[sent]) * 1e3)
                sent += 1
            for connection in self._all:
                connection.flush()
            answered += self._receive(outcome, started_at, wait_s(clock()))
        outcome.elapsed_s = clock() - begin
        outcome.statuses[UNANSWERED] += calls - answered

    def _receive(self, outcome: Outcome, started_at: array, wait_s: float) -> int:
        open_ = [connection for connection in self._all if not connection.closed]
        if not open_:
            if answered := self._settle(outcome, started_at):
                return answered
            raise ConnectionError("every connection was closed by the server")
        writers = [connection.socket for connection in open_ if connection.wants_to_write]
        readable, _, _ = select.select([connection.socket for connection in open_], writers, [], wait_s)
        for ready in readable:
            self._by_socket[ready].receive()
        return self._settle(outcome, started_at)

    def _settle(self, outcome: Outcome, started_at: array) -> int:
        answered = 0
        now = time.perf_counter()
        for connection in self._all:
            for index, status in connection.finished:
                if status == 0 and started_at:  # a quick refusal must not look like a quick answer
                    outcome.latencies_ms.append((now - started_at[index]) * 1e3)
                outcome.statuses[status] += 1
                if self._keep_answers:
                    outcome.answers[index] = connection.answer(index)[5:]
            answered += len(connection.finished)
            connection.finished.clear()
        return answered


@contextmanager
def hold_connections(request: Request, count: int) -> Iterator[None]:
    """Keeps `count` connections open, each after one answered call. Raises ConnectionError when one gives no answer."""
    with ExitStack() as stack:
        for _ in range(count):
            connection = Connection(request.port, keep_answers=False)
            stack.callback(connection.socket.close)
            connection.socket.settimeout(10)
            connection.send(0, request)
            while not connection.finished:
                connection.flush()
                connection.receive()
            if connection.finished[0][1] != 0:
                raise ConnectionError(f"no OK on one of {count} connections: {connection.finished[0][1]}")
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the garbage collector out of a timed pass."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
