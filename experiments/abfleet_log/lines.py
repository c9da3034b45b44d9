"""Lines of the decision log where speed does not matter, and how all of them write times. Knows no file."""

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson

from abfleet_log.schema import SCHEMA


@lru_cache(maxsize=4)
def utc_second(second: int) -> bytes:
    """UTC without a fraction and without a zone, as in 2026-11-01T00:00:00; `second` since the epoch."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()


def timestamp(seconds: float) -> bytes:
    """UTC with microseconds, as in 2026-11-01T00:00:00.000000Z; `seconds` since the epoch."""
    whole, micro = divmod(int(seconds * 1e6), 1_000_000)
    return b"%s.%06dZ" % (utc_second(whole), micro)


def event(name: str, wall_seconds: float, members: Mapping[str, Any]) -> bytes:
    """One line of an event other than an exposure, as JSON without a line feed."""
    return orjson.dumps({"schema": SCHEMA, "event": name, "ts": timestamp(wall_seconds).decode(), **members})
