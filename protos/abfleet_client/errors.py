"""What can go wrong for a caller. Knows no gRPC: a status is its name."""

SHOWN = 64
"""Characters of a value in a message."""


class ClientError(Exception):
    """Every error of this package."""


class InvalidArgument(ClientError, ValueError):
    """An argument that cannot be used; the message names the field, its value and what is allowed."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


def not_allowed(field: str, value: object, allowed: str) -> InvalidArgument:
    """The error for a value, which is cut to 64 characters."""
    text = repr(value)
    text = text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
    return InvalidArgument(field, f"{text} is not allowed; allowed: {allowed}")


class CallFailed(ClientError):
    """A call that was not answered within its deadline, or that another attempt would not help."""

    def __init__(self, status: str, details: str, *, request_id: str, address: str, attempts: int) -> None:
        tried = f", {attempts} attempts" if attempts > 1 else ""
        super().__init__(f"{status}: {details} (request {request_id} to {address}{tried})")
        self.status = status
        """Name of the gRPC status code, as UNAVAILABLE."""
        self.details = details
        """What the router or gRPC says of it; of a request that is refused: field, value and what is allowed."""
        self.request_id = request_id


class OutcomesLost(ClientError):
    """`count` outcomes could not be recorded: their time was up, or the router refused the call."""

    def __init__(self, count: int, why: str) -> None:
        super().__init__(f"{count} outcomes could not be recorded: {why}")
        self.count = count
