"""Sends outcomes from a thread of its own: gathers them, sends them in batches, and again until they are in the log.

Nothing is lost in silence. An outcome is acknowledged, rejected with a reason, or lost when its time is up. Each is
counted; the last two are logged, or handed to the caller's function; `flush` and `close` raise when some were lost.
"""

import atexit
import contextlib
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from abfleet_protos import recommender_pb2

from abfleet_client.answers import Outcome, OutcomeTally
from abfleet_client.attempts import backoff_seconds
from abfleet_client.errors import OutcomesLost, not_allowed
from abfleet_client.messages import Metadata, outcome_message

log = logging.getLogger("abfleet_client")
RECORD = "/Feedback/Record"
FINAL = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""What will be the same next time; all else is sent again, and a repeat is harmless."""
FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.1, 5.0
MAX_BATCH = 10_000
ABANDONED = "close was told to wait no longer"
EXIT_SECONDS = 10.0
"""For what waits when the interpreter ends without `close`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendingPolicy:
    """How outcomes are gathered and sent.

    Attributes:
        batch: Most outcomes of one call, 1 to 10,000; so many are sent at once.
        linger_seconds: How long an outcome may wait for others of its batch.
        capacity: Most outcomes that are not acknowledged; past that `record` waits.
        give_up_seconds: How long an outcome is tried, from when it was recorded; once at the least.
        timeout_seconds: Deadline of one attempt.
    """

    batch: int = 1000
    linger_seconds: float = 0.2
    capacity: int = 100_000
    give_up_seconds: float = 60.0
    timeout_seconds: float = 10.0

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= MAX_BATCH:
            raise not_allowed("batch", self.batch, f"1 to {MAX_BATCH}")
        if self.capacity < 1:
            raise not_allowed("capacity", self.capacity, "1 or more")
        for name in ("linger_seconds", "give_up_seconds"):
            if not getattr(self, name) >= 0:
                raise not_allowed(name, getattr(self, name), "0 or more seconds")
        if not self.timeout_seconds > 0:
            raise not_allowed("timeout_seconds", self.timeout_seconds, "seconds above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeListener:
    """Whom to tell, on the thread that sends, of outcomes that are not in the log; None: they are logged alone."""

    on_rejected: Callable[[Outcome, str], None] | None = None
    on_lost: Callable[[Sequence[Outcome], str], None] | None = None


class OutcomeSender:
    """Its thread begins with the first outcome. Its state is changed under the lock."""

    def __init__(
        self,
        channel: Callable[[], grpc.Channel],
        metadata: Callable[[], Metadata],
        policy: SendingPolicy,
        listener: OutcomeListener,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`channel` is asked once, `metadata` before each attempt, on the thread."""
        self.tally = OutcomeTally()
        self._channel = channel
        self._metadata = metadata
        self._policy = policy
        self._listener = listener
        self._clock = clock
        self._draw = draw
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Outcome, float]] = deque()
        self._taken = self._settled = 0
        self._flushed = 0  # outcomes that somebody waits for: they do not wait for others
        self._lost, self._why_lost = 0, ""  # not yet raised
        self._closed = self._abandoned = False
        self._call: Any = None
        self._thread: threading.Thread | None = None

    def put(self, outcome: Outcome, timeout_seconds: float) -> None:
        """Takes an outcome. Waits while there is no room; raises OutcomesLost where none comes, RuntimeError when
        closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has_room, timeout_seconds)
            if not self.offer(outcome):
                raise OutcomesLost(1, f"{self._policy.capacity} outcomes wait already, which is the capacity")

    def offer(self, outcome: Outcome) -> bool:
        """Takes an outcome if there is room, and says so. Raises RuntimeError when closed."""
        with self._changed:
            if self._closed:
                raise RuntimeError("the recommender is closed and takes no outcomes")
            if not self._has_room:
                return False
            if self._thread is None:
                self._thread = threading.Thread(target=self._send_all, name="abfleet-outcomes", daemon=True)
                self._thread.start()
                atexit.register(self._at_exit)
            self._taken += 1
            self._waiting.append((outcome, self._clock()))
            if len(self._waiting) in (1, self._policy.batch):
                self._changed.notify_all()
            return True

    def flush(self, timeout_seconds: float | None = None) -> None:
        """Returns when all that was taken is acknowledged or rejected. Raises OutcomesLost for what was lost since it
        was last raised, TimeoutError when time is up and some still wait."""
        with self._changed:
            goal = self._taken
            self._flushed = max(self._flushed, goal)
            self._changed.notify_all()
            in_time = self._changed.wait_for(lambda: self._settled >= goal, timeout_seconds)
            self._raise_lost()
            if not in_time:
                raise TimeoutError(f"{goal - self._settled} outcomes are not recorded yet, after {timeout_seconds:g} s")

    def close(self, timeout_seconds: float | None = None) -> None:
        """Sends what waits, for as long as each outcome is tried; when time is up before, the rest is lost. Raises
        OutcomesLost for what was lost since it was last raised."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            atexit.unregister(self._at_exit)
            self._thread.join(timeout_seconds)
            if self._thread.is_alive():
                with self._changed:
                    self._abandoned = True
                    self._changed.notify_all()
                    call = self._call
                if call is not None:
                    call.cancel()
                self._thread.join()
        with self._changed:
            self._raise_lost()

    @property
    def _has_room(self) -> bool:
        return self._taken - self._settled < self._policy.capacity

    def _raise_lost(self) -> None:
        count, self._lost = self._lost, 0
        if count:
            raise OutcomesLost(count, self._why_lost)

    def _at_exit(self) -> None:
        with contextlib.suppress(OutcomesLost):  # which are logged
            self.close(EXIT_SECONDS)

    # --- on the thread ------------------------------------------------------------------------------------------------

    def _send_all(self) -> None:
        record = self._channel().unary_unary(
            RECORD,
            request_serializer=recommender_pb2.RecordRequest.SerializeToString,
            response_deserializer=recommender_pb2.RecordResponse.FromString,
        )
        while taken := self._next():
            batch = [outcome for outcome, _ in taken]
            try:
                self._send(record, batch, taken[-1][1])
            except Exception as error:  # a fault of ours must not end the thread, and with it all that waits
                log.exception("outcomes could not be sent")
                self._lose(batch, repr(error))
            with self._changed:
                self._settled += len(batch)
                self._changed.notify_all()

    def _next(self) -> list[tuple[Outcome, float]]:
        """The next batch with the times when they were taken; empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            self._changed.wait_for(self._need_not_linger, self._policy.linger_seconds)
            return [self._waiting.popleft() for _ in range(min(self._policy.batch, len(self._waiting)))]

    def _need_not_linger(self) -> bool:
        return len(self._waiting) >= self._policy.batch or self._flushed > self._settled or self._closed

    def _send(self, record: Any, batch: list[Outcome], taken_at: float) -> None:
        """Tries until the batch is answered or its time is up."""
        request = recommender_pb2.RecordRequest(outcomes=map(outcome_message, batch))
        give_up, failures = taken_at + self._policy.give_up_seconds, 0
        while True:
            answer, why, may_help = self._attempt(record, request)
            if answer is not None:
                self._account(batch, answer)
                return
            failures += 1
            wait = backoff_seconds(failures, FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS, self._draw)
            if not may_help or self._clock() + wait > give_up:
                self._lose(batch, why)
                return
            self.tally.retries += 1
            with self._changed:
                self._changed.wait_for(lambda: self._abandoned, wait)

    def _attempt(self, record: Any, request: Any) -> tuple[recommender_pb2.RecordResponse | None, str, bool]:
        """The answer; or None, why there is none, and whether another attempt may have one."""
        metadata = self._metadata()
        with self._changed:  # so that close either sees the call or keeps it from being made
            if self._abandoned:
                return None, ABANDONED, False
            self._call = record.future(
                request, timeout=self._policy.timeout_seconds, metadata=metadata, wait_for_ready=True
            )
        try:
            return self._call.result(), "", False
        except grpc.FutureCancelledError:  # by close, or by a server that closes
            return (None, ABANDONED, False) if self._abandoned else (None, "CANCELLED", True)
        except grpc.RpcError:
            code = self._call.code()
            return None, f"{code.name}: {self._call.details()}", code not in FINAL

    def _account(self, batch: Sequence[Outcome], answer: recommender_pb2.RecordResponse) -> None:
        tally = self.tally
        tally.accepted += answer.accepted
        tally.duplicate += answer.duplicate
        tally.rejected += answer.rejected
        for rejection in answer.rejections:
            log.warning("the router rejected outcome %s: %s", rejection.outcome_id, rejection.reason)
            self._tell(self._listener.on_rejected, batch[rejection.index], rejection.reason)

    def _lose(self, batch: Sequence[Outcome], why: str) -> None:
        with self._changed:
            self.tally.lost += len(batch)
            self._lost, self._why_lost = self._lost + len(batch), why
        log.error("%d outcomes could not be recorded: %s", len(batch), why)
        self._tell(self._listener.on_lost, batch, why)

    def _tell(self, listener: Callable[..., None] | None, *what: object) -> None:
        if listener is not None:
            try:
                listener(*what)
            except Exception:  # a mistake of the caller's must not end the thread, and with it all that waits
                log.exception("the function that is told of outcomes raised")
