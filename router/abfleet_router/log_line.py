"""Turns what happened into lines of the decision log. Knows the fields and their order, no file and no network.

A line is put together from bytes: what all users of an arm share is encoded once for each configuration, and only what
differs is encoded for a call. The schema itself is abfleet_experiments.decision; a test holds each line against it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson
from abfleet_experiments.decision import SCHEMA
from abfleet_transport.call import Code

from abfleet_router.ticket import Ticket

EXPOSURE = b'{"schema":%d,"event":"exposure","ts":"' % SCHEMA
STATUS = {code: b'"%s"' % code.name.encode() for code in Code}
OK_TAIL = b',"synthetic":false,"trace_id":null,"client":null}'
NO_ITEMS = b"[]"


@lru_cache(maxsize=4)
def _second(second: int) -> bytes:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()


def timestamp(seconds: float) -> bytes:
    """UTC with microseconds, as in 2026-11-01T00:00:00.000000Z; `seconds` since the epoch."""
    whole, micro = divmod(int(seconds * 1e6), 1_000_000)
    return b"%s.%06dZ" % (_second(whole), micro)


def exposure(
    ticket: Ticket,
    constant: bytes,
    wall_seconds: float,
    status: Code,
    served: str | None,
    item_ids: Sequence[int],
    latency_seconds: float,
    hashed: Callable[[str], str] | None = None,
) -> bytes:
    """One exposure. `constant` is the arm's part; `item_ids` what was recommended, best first; with `hashed` the user's
    id is left out and its hash is there instead.

    Positional arguments, because naming them costs a tenth of a line.
    """
    # A slice is a list like any other, and takes a protobuf field a third of the time of `list`.
    items = orjson.dumps(item_ids[:]) if item_ids else NO_ITEMS
    if ticket.synthetic or ticket.trace_id or ticket.client:
        tail = b',"synthetic":%s,"trace_id":%s,"client":%s}' % (
            b"true" if ticket.synthetic else b"false",
            orjson.dumps(ticket.trace_id),
            orjson.dumps(ticket.client),
        )
    else:
        tail = OK_TAIL
    return b"".join(
        (
            EXPOSURE,
            timestamp(wall_seconds),
            b'","request_id":',
            orjson.dumps(ticket.request_id),
            b',"user_id":',
            orjson.dumps(ticket.user_id or None) if hashed is None else hashed_user(ticket.user_id, hashed),
            b',"bucket":',
            b"null" if ticket.bucket is None else b"%d" % ticket.bucket,
            b",",
            constant,
            b',"served_version":',
            b"null" if served is None else b'"%s"' % served.encode(),
            b',"fallback":',
            b"null" if ticket.fallback is None else b'"%s"' % ticket.fallback.value.encode(),
            b',"attempts":%d,"status":' % ticket.attempts,
            STATUS[status],
            b',"latency_ms":%.3f,"items":' % (latency_seconds * 1000),
            items,
            b',"history_length":%d,"attributes":' % ticket.history_length,
            orjson.dumps(logged(ticket)) if ticket.attributes else b"{}",
            tail,
        )
    )


def hashed_user(user_id: str, hashed: Callable[[str], str]) -> bytes:
    """The value of `user_id` and, where there is a user, the member after it."""
    return b'null,"user_id_hmac":"%s"' % hashed(user_id).encode() if user_id else b"null"


def logged(ticket: Ticket) -> dict[str, str]:
    """The attributes that the file allows to be logged."""
    allowed = ticket.snapshot.log_attributes
    return {key: value for key, value in ticket.attributes.items() if key in allowed}


def event(name: str, wall_seconds: float, members: Mapping[str, Any]) -> bytes:
    """A line of another kind, where speed does not matter."""
    return orjson.dumps({"schema": SCHEMA, "event": name, "ts": timestamp(wall_seconds).decode(), **members})
