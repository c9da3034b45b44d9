"""From a line of the decision log to what the autopilot needs of it. Knows no file and no experiment."""

from calendar import timegm
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from abfleet_analysis.decision.failures import call_result
from abfleet_log.tools.read_lines import parsed

from abfleet_autopilot.lines import NOT_KNOWN, SECOND_US, Allocated, CountedCall, Line, Other, OutcomeLine, Reloaded


def read_line(raw: bytes) -> Line | None:
    """What a line says; None for one that cannot be read, or that has no time."""
    line = parsed(raw)
    if line is None:
        return None
    try:
        return _read(line)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _read(line: Mapping[str, Any]) -> Line:
    event = line["event"]
    # Of an outcome the time is the client's; when the router was told is a time of the log.
    at = microseconds(line["received_ts"] if event == "outcome" and "received_ts" in line else line["ts"])
    router = line.get("router") or ""
    if event == "exposure":
        user = line.get("user_id") or line.get("user_id_hmac")
        group, experiment = line.get("group"), line.get("experiment")
        split = line.get("reason", "allocated") == "allocated"
        if not split or not user or group is None or experiment is None or line.get("synthetic"):
            return Other(at, router)
        result = call_result(
            line.get("status"), line.get("fallback"), line.get("failure"), sent=line.get("attempts") != 0
        )
        latency = line.get("latency_ms") if result.timed else None
        share = line.get("propensity")
        return CountedCall(
            at,
            router,
            experiment,
            group,
            line.get("allocation") or "",
            hash(user),
            result.failure,
            result.own,
            NOT_KNOWN if latency is None else float(latency),
            NOT_KNOWN if share is None else float(share),
        )
    if event == "allocation":
        weights = {str(name): float(percent) / 100 for name, percent in line["weights"].items()}
        allocation, traffic = line["allocation"] or "", float(line["traffic"])
        return Allocated(at, router, line["experiment"], allocation, traffic, weights, line["config_revision"])
    if event == "reload":
        return Reloaded(at, router, line["new_revision"] or "", bool(line["active"]))
    return OutcomeLine(at, router) if event == "outcome" else Other(at, router)


def microseconds(ts: str) -> int:
    """A time of the log, `2026-11-01T00:00:00.000000Z`, as microseconds since 1970. Raises ValueError."""
    if len(ts) != 27 or ts[19] != "." or ts[26] != "Z":
        raise ValueError(f"{ts[:64]!r} is no time of the log")
    return _second(ts[:19]) * SECOND_US + int(ts[20:26])


@lru_cache(maxsize=64)
def _second(text: str) -> int:
    if text[4] != "-" or text[7] != "-" or text[10] != "T" or text[13] != ":" or text[16] != ":":
        raise ValueError(f"{text!r} is no time of the log")
    parts = (text[:4], text[5:7], text[8:10], text[11:13], text[14:16], text[17:19])
    return timegm(tuple(int(part) for part in parts))
