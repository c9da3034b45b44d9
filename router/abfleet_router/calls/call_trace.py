"""The trace that a call belongs to, and the spans of its attempts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from abfleet_process.tracing.spans import span_id
from abfleet_process.tracing.traceparent import TraceContext

if TYPE_CHECKING:
    from abfleet_router.fleet.batch import Batch


@dataclass(frozen=True, slots=True)
class TracedAttempt:
    """One attempt of a call: it was sent with `batch` to `address`."""

    span_id: str
    batch: "Batch[Any]"
    address: str
    version: str


class CallTrace:
    """Changed only by BatchQueue, as the call is sent. Of a call that is not recorded it passes on what the caller
    sent."""

    __slots__ = ("_bits", "attempts", "context", "parent_id", "recorded")

    def __init__(
        self, context: TraceContext, parent_id: str | None = None, bits: Callable[[int], int] | None = None
    ) -> None:
        """`context`: the call's own span, or the caller's if nothing is recorded; `bits`: given if something is."""
        self.context = context
        self.parent_id = parent_id
        self.recorded = bits is not None
        self._bits = bits
        self.attempts: list[TracedAttempt] = []

    def sent(self, batch: "Batch[Any]", address: str, version: str) -> str:
        """Notes an attempt; gives the `traceparent` to send with the call."""
        if self._bits is None:
            return self.context.header()
        attempt = TracedAttempt(span_id(self._bits), batch, address, version)
        self.attempts.append(attempt)
        return self.context._replace(span_id=attempt.span_id).header()
