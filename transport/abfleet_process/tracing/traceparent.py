"""W3C trace context: what a `traceparent` says and how one is written. Sampling is decided elsewhere.

https://www.w3.org/TR/trace-context/#traceparent-header
"""

import re
from typing import NamedTuple

HEADER = "traceparent"
_FORM = re.compile(
    r"(?P<version>(?!ff)[0-9a-f]{2})-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<span>(?!0{16})[0-9a-f]{16})"
    r"-(?P<flags>[0-9a-f]{2})(?P<later>-.*)?"
)
SAMPLED = 1


class TraceContext(NamedTuple):
    """A span as a `traceparent` names it, the parent of what follows."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """16 hexadecimal digits."""
    sampled: bool
    """Whether the caller records this trace."""

    def header(self) -> str:
        """The value of a `traceparent` that makes this the parent."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def parse(header: str | bytes | None) -> TraceContext | None:
    """What a `traceparent` says; None where there is none or it is malformed, which the standard has one ignore."""
    if not isinstance(header, str) or (parts := _FORM.fullmatch(header)) is None:
        return None
    if parts["later"] and parts["version"] == "00":
        return None  # only versions to come may say more
    return TraceContext(parts["trace"], parts["span"], bool(int(parts["flags"], 16) & SAMPLED))
