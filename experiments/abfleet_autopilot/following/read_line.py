"""From a line of the decision log to what the autopilot needs of it. Knows no file and no experiment."""

import re
from calendar import timegm
from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from abfleet_analysis.decision.failures import call_result
from abfleet_analysis.decision.metrics import Failure
from abfleet_log.tools.read_lines import parsed

from abfleet_autopilot.lines import NOT_KNOWN, SECOND_US, Allocated, CountedCall, Line, Other, OutcomeLine, Reloaded

_CALL: Final = re.compile(
    rb'\{"schema":1,"event":"exposure","ts":"([^"]{19})\.([0-9]{6})Z",'
    rb'"request_id":"([^"\\]*)","user_id":"([^"\\]+)","bucket":[0-9]+,'
)
"""How a router's line of a call in an experiment begins; then comes what calls that went the same way share."""
_OUTCOME: Final = re.compile(
    rb'\{"schema":1,"event":"outcome","ts":"[^"]{26}Z","received_ts":"([^"]{19})\.([0-9]{6})Z",'
    rb'"outcome_id":"[^"\\]*","request_id":"([^"\\]*)",.*"router":"([^"\\]*)"[,}]'
)
"""The same of an outcome, up to its router, the only member of that name."""
_LATENCY: Final = b',"latency_ms":'
_NOT_SYNTHETIC: Final = b'"synthetic":false'
_USUAL_END: Final = b',"synthetic":false,"trace_id":null,"client":null}'


def read_line(raw: bytes) -> Line | None:
    """What a line says; None for one that cannot be read, or that has no time."""
    begins = _CALL.match(raw)
    if begins is not None and (call := _quickly(raw, begins)) is not None:
        return call
    told = _OUTCOME.match(raw) if begins is None and raw.endswith(b"}") else None
    if told is not None:
        second, fraction, request, router = told.groups()
        try:
            return OutcomeLine(_second_of(second) + int(fraction), router.decode(), hash(request) if request else 0)
        except ValueError:
            return None
    line = parsed(raw)
    if line is None:
        return None
    try:
        return _read(line)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _quickly(raw: bytes, begins: "re.Match[bytes]") -> CountedCall | None:
    """A call as a router writes it, without parsing all of it; None where it is otherwise. In a text of JSON no
    quotation mark stands by itself, so that what is looked for is the member."""
    begin = begins.end()
    for members, found in _RECENT:
        if raw.startswith(members, begin):
            latency_begin, common = begin + len(members), found
            break
    else:
        latency_begin = raw.find(_LATENCY, begin) + len(_LATENCY)
        if latency_begin < len(_LATENCY):
            return None
        members = raw[begin:latency_begin]
        common = _common(members[: -len(_LATENCY)])
        _RECENT.appendleft((members, common))
    latency_end = raw.find(b",", latency_begin)
    if common is None or latency_end < 0:
        return None
    if not raw.endswith(_USUAL_END) and (raw[-1:] != b"}" or raw.rfind(_NOT_SYNTHETIC, latency_end) < 0):
        return None
    second, fraction, request, user = begins.groups()
    try:
        at = _second_of(second) + int(fraction)
        latency = float(raw[latency_begin:latency_end])
    except ValueError:
        return None
    router, experiment, group, allocation, failure, own, timed, share = common
    if not timed:
        latency = NOT_KNOWN
    request_hash, user_hash = hash(request), hash(user)
    # Two thirds of the time that the constructor takes, for each of many million lines.
    return _new_tuple(
        CountedCall,
        (at, router, experiment, group, allocation, user_hash, failure, own, latency, share, request_hash),
    )


_new_tuple: Final = tuple.__new__
_Common = tuple[str, str, str, str, Failure, bool, bool, float]
_RECENT: Final[deque[tuple[bytes, "_Common | None"]]] = deque(maxlen=6)
"""What the newest calls had in common, up to their response time: to compare with it is quicker than to look for that.
Only a memory of `_common`: what a line says does not depend on it."""


@lru_cache(maxsize=4096)
def _common(members: bytes) -> _Common | None:
    """What calls that went the same way have in common; None where they do not count, or nothing is known of them."""
    line = parsed(b"{" + members + b"}")
    if line is None or line.get("reason") != "allocated" or not line.get("group") or not line.get("experiment"):
        return None
    if "router" not in line or "status" not in line:
        return None
    call = _read({"event": "exposure", "ts": "1970-01-01T00:00:00.000000Z", "user_id": "u", "latency_ms": 0.0} | line)
    assert isinstance(call, CountedCall)
    timed = call.latency_ms != NOT_KNOWN
    return (*call[1:5], call.failure, call.own, timed, call.propensity)


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
            hash(user.encode()),
            result.failure,
            result.own,
            NOT_KNOWN if latency is None else float(latency),
            NOT_KNOWN if share is None else float(share),
            _request(line),
        )
    if event == "allocation":
        weights = {str(name): float(percent) / 100 for name, percent in line["weights"].items()}
        allocation, traffic = line["allocation"] or "", float(line["traffic"])
        return Allocated(at, router, line["experiment"], allocation, traffic, weights, line["config_revision"])
    if event == "reload":
        return Reloaded(at, router, line["new_revision"] or "", bool(line["active"]))
    return OutcomeLine(at, router, _request(line)) if event == "outcome" else Other(at, router)


def _request(line: Mapping[str, Any]) -> int:
    given = line.get("request_id")
    return hash(given.encode()) if given else 0


def microseconds(ts: str) -> int:
    """A time of the log, `2026-11-01T00:00:00.000000Z`, as microseconds since 1970. Raises ValueError."""
    if len(ts) != 27 or ts[19] != "." or ts[26] != "Z":
        raise ValueError(f"{ts[:64]!r} is no time of the log")
    return _second(ts[:19]) * SECOND_US + int(ts[20:26])


@lru_cache(maxsize=64)
def _second_of(text: bytes) -> int:
    return _second(text.decode()) * SECOND_US


@lru_cache(maxsize=64)
def _second(text: str) -> int:
    if text[4] != "-" or text[7] != "-" or text[10] != "T" or text[13] != ":" or text[16] != ":":
        raise ValueError(f"{text!r} is no time of the log")
    parts = (text[:4], text[5:7], text[8:10], text[11:13], text[14:16], text[17:19])
    return timegm(tuple(int(part) for part in parts))
