"""Why an attempt failed: what queues and links report, and what the next step is decided by."""

from enum import Enum

from abfleet_transport.call import Code


class FailureReason(Enum):
    """Why an attempt failed; the value is what the decision log says in `fallback` and `failure`."""

    UNAVAILABLE = "unavailable"
    """No replica is connected, or the connection or the stream broke."""
    TIMEOUT = "timeout"
    OVERLOAD = "overload"
    EJECTED = "ejected"
    """Every replica that is connected has been ejected."""
    MODEL_ERROR = "model_error"
    """The worker answered with an error, with garbage or as another version."""


class BatchFailed(Exception):
    """A whole batch did not come back.

    Attributes:
        connection_broke: The connection has ended with it, which proves that the replica is out.
        unsent: The worker has not begun it, so it is sent again as if it had never been sent.
        code: The status that the worker gave; None where it gave none.
    """

    def __init__(
        self,
        reason: FailureReason,
        message: str,
        *,
        connection_broke: bool,
        unsent: bool = False,
        code: Code | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.connection_broke = connection_broke
        self.unsent = unsent
        self.code = code


BatchOutcome = bytes | BatchFailed
"""How a batch ended: the worker's answer, not read yet, or why there is none."""
