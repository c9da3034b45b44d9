"""The router's errors and the limits of a request. Knows status codes, and no transport beyond them."""

from dataclasses import dataclass

from abfleet_transport.call import Code

SHOWN = 64
"""Characters of a wrong value that an error repeats."""


class RouterError(Exception):
    """Something that the router could not do; the message is for people."""


class InvalidRequest(RouterError):
    """A request that cannot be served: the message names the field, its value and what is allowed."""

    def __init__(self, field: str, value: object, allowed: str, code: Code = Code.INVALID_ARGUMENT) -> None:
        super().__init__(f"{field}: {shown(value)} is not allowed; allowed: {allowed}")
        self.code = code
        self.field = field
        self.allowed = allowed
        """For the decision log, which keeps no wrong value: it may be somebody's name."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may be; sizes in bytes of UTF-8."""

    user_id_bytes: int = 256
    request_id_bytes: int = 128
    attributes: int = 32
    attribute_bytes: int = 256
    limit: int = 100
    default_limit: int = 10


LIMITS = Limits()


def shown(value: object) -> str:
    """The value as an error shows it, cut to 64 characters."""
    text = repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
