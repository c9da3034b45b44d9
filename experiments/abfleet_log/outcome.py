"""What an outcome is, when it may be recorded, and how its line reads. Pure; knows no transport and no file.

The router, which receives outcomes, and the command that imports them both use this, so that they accept the same ones.
"""

import re
import time
from collections.abc import Collection
from functools import lru_cache
from typing import Any, Final, Protocol

from abfleet_experiments.config import Config

from abfleet_log.schema import LARGEST_VALUE, SCHEMA

BUILT_IN_TYPES: Final = frozenset({"impression", "click", "conversion", "purchase"})
ID_BYTES: Final = 128
USER_ID_BYTES: Final = 256
ITEM_BYTES: Final = 256
AHEAD_MICROSECONDS: Final = 60_000_000
"""How far in the future a clock may be."""
EARLIEST_MICROSECONDS: Final = 946_684_800_000_000
"""2000-01-01: a time before it was given in seconds or milliseconds."""
SHOWN: Final = 64
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
_CURRENCY: Final = re.compile("[A-Z]{3}")


class OutcomeLike(Protocol):
    """An outcome, wherever it comes from; empty texts and zeros are absent."""

    @property
    def outcome_id(self) -> str: ...
    @property
    def request_id(self) -> str: ...
    @property
    def user_id(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def item_id(self) -> int: ...
    @property
    def item(self) -> str: ...
    @property
    def value(self) -> float: ...
    @property
    def currency(self) -> str: ...
    @property
    def time(self) -> int: ...


def known_types(config: Config) -> frozenset[str]:
    """The built-in types and those that a metric of the file reads."""
    own = config.metrics.values()
    return BUILT_IN_TYPES | {metric.outcome for metric in own} | {metric.over for metric in own if metric.over}


def problem(outcome: OutcomeLike, types: Collection[str], now_microseconds: int) -> str | None:
    """Why an outcome cannot be recorded: field, value and what is allowed; None when it can."""
    found: tuple[str, object, str] | None = None
    if not 0 < len(outcome.outcome_id.encode()) <= ID_BYTES or _CONTROL.search(outcome.outcome_id):
        found = "outcome_id", outcome.outcome_id, f"1 to {ID_BYTES} bytes of UTF-8 without control characters"
    elif len(outcome.request_id.encode()) > ID_BYTES:
        found = "request_id", outcome.request_id, f"at most {ID_BYTES} bytes"
    elif len(outcome.user_id.encode()) > USER_ID_BYTES or _CONTROL.search(outcome.user_id):
        found = "user_id", outcome.user_id, f"at most {USER_ID_BYTES} bytes of UTF-8 without control characters"
    elif not outcome.user_id and not outcome.request_id:
        found = "user_id", outcome.user_id, "a user_id, a request_id or both, so that the outcome belongs to somebody"
    elif outcome.type not in types:
        found = "type", outcome.type, f"{', '.join(sorted(types))}"
    elif outcome.item_id < 0:
        found = "item_id", outcome.item_id, "ids from 1, or 0 for none"
    elif outcome.item and (why := _wrong_name(outcome)) is not None:
        found = "item", outcome.item, why
    elif not abs(outcome.value) <= LARGEST_VALUE:  # nan is not
        found = "value", outcome.value, f"finite numbers from {-LARGEST_VALUE:g} to {LARGEST_VALUE:g}"
    elif outcome.currency and not _CURRENCY.fullmatch(outcome.currency):
        found = "currency", outcome.currency, "an ISO 4217 code such as EUR, or none"
    elif outcome.time and outcome.time > now_microseconds + AHEAD_MICROSECONDS:
        found = "time", outcome.time, "at most a minute in the future, in microseconds since the epoch"
    elif outcome.time and outcome.time < EARLIEST_MICROSECONDS:
        found = "time", outcome.time, "microseconds since the epoch, from 2000 on; 0 for now"
    return None if found is None else explained(*found)


def _wrong_name(outcome: OutcomeLike) -> str | None:
    """What is allowed, where the name of the item is not."""
    if outcome.item_id:
        return "a name, or a number in item_id, not both"
    if len(outcome.item.encode()) > ITEM_BYTES or _CONTROL.search(outcome.item):
        return f"at most {ITEM_BYTES} bytes of UTF-8 without control characters"
    return None


def explained(field: str, value: object, allowed: str) -> str:
    """The words for a wrong field; the value is cut to 64 characters."""
    text = repr(value)
    return f"{field}: {text if len(text) <= SHOWN else text[: SHOWN - 1] + '…'}; allowed: {allowed}"


def content(outcome: OutcomeLike) -> int:
    """A number that stands for what happened; two outcomes with one id and one content are a repeat.

    Without the time: one that is sent again with time 0 happened "now" once more, and is the same all the same.
    """
    item = outcome.item or outcome.item_id
    return hash((outcome.request_id, outcome.user_id, outcome.type, item, outcome.value, outcome.currency))


def conflict(outcome_id: str) -> str:
    """The words for an id that another outcome has already."""
    return explained("outcome_id", outcome_id, "an id of its own; this one belongs to another outcome already")


def line(
    outcome: OutcomeLike,
    received_microseconds: int,
    *,
    synthetic: bool = False,
    router: str | None = None,
    user_id_hmac: str | None = None,
    client: str | None = None,
) -> dict[str, Any]:
    """The members of its line. With `user_id_hmac` the user id itself is left out; `client`: the caller who sent it."""
    members: dict[str, Any] = {
        "schema": SCHEMA,
        "event": "outcome",
        "ts": timestamp(outcome.time or received_microseconds),
        "received_ts": timestamp(received_microseconds),
        "outcome_id": outcome.outcome_id,
        "request_id": outcome.request_id or None,
        "user_id": None if user_id_hmac else outcome.user_id or None,
        "type": outcome.type,
        "item_id": outcome.item_id or None,
        "value": outcome.value if outcome.value or outcome.currency else None,
        "currency": outcome.currency or None,
        "synthetic": synthetic,
    }
    if outcome.item:
        members["item_name"] = outcome.item
    if user_id_hmac:
        members["user_id_hmac"] = user_id_hmac
    if router is not None:
        members["router"] = router
    if client is not None:
        members["client"] = client
    return members


def timestamp(microseconds: int) -> str:
    """UTC with microseconds, as in 2026-11-01T00:00:00.000000Z."""
    whole, micro = divmod(microseconds, 1_000_000)
    return f"{_second(whole)}.{micro:06d}Z"


@lru_cache(maxsize=64)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
