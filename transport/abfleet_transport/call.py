"""The port: what a call is to routing and to inference, whichever transport carries it."""

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Protocol

Metadata = Sequence[tuple[str, str | bytes]]
"""Request metadata in the order it came; keys are lower case, values of `-bin` keys are bytes.

Text may hold any character but NUL, CR and LF; a `-bin` value that is no base64 is the text that came."""


class Code(IntEnum):
    """gRPC status codes (https://grpc.io/docs/guides/status-codes/)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    __hash__ = int.__hash__  # an enumeration's own is slow, and codes are keys wherever calls are counted


class Call(Protocol):
    """One unary call that waits for its answer.

    `reply` or `fail` is called once, from any thread; a second answer, or an answer to a caller that has gone, does
    nothing.
    """

    method: int
    """Index into the list of methods that the server was opened with."""
    payload: bytes
    """The serialised request message."""
    metadata: Metadata
    deadline: float | None
    """When the caller gives up, in seconds of `time.monotonic()`; None when it set no deadline."""
    client: str | None
    """Who the caller is, by the certificate that it showed; None where none is asked for."""
    arrived: float
    """When the transport handed the call over, in seconds of `time.monotonic()`."""
    owner: object
    """For whoever took delivery, who gets the call back when its caller goes; None at first and once it is answered."""

    @property
    def peer(self) -> str:
        """Who is at the other end, as gRPC writes it."""

    def reply(self, payload: bytes) -> None:
        """Answers with a serialised response message."""

    def fail(self, code: Code, message: str, *, pushback_ms: int | None = None) -> None:
        """Answers with an error.

        `pushback_ms` becomes the trailers `grpc-retry-pushback-ms` (gRFC A6) and `retry-pushback-ms`.
        """


Deliver = Callable[[list[Call]], None]
"""Takes the calls that have arrived together. It runs on the event loop, and must not block on
anything but its own work."""

Cancelled = Callable[[Call], None]
"""Called when the caller has gone or its deadline has passed; runs where Deliver runs. The call needs no answer."""
