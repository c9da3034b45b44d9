"""How a number, a time or a duration is written on a page. All formatting is here."""

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Final

from abfleet_analysis.decision.metrics import MetricRule, MetricSource

UNKNOWN: Final = "–"
NBSP: Final = "\u00a0"
MINUS: Final = "\u2212"
_SHARES: Final = (MetricSource.CLICKS, MetricSource.ERRORS, MetricSource.FALLBACKS, MetricSource.OUTCOME_ANY)
_TIMES: Final = (MetricSource.TIME_MEAN, MetricSource.TIME_QUANTILE)
_UNITS: Final = ((86400.0, "day"), (3600.0, "hour"), (60.0, "minute"), (1.0, "second"))


def whole(value: float) -> str:
    """A whole number with thousands separators: `12,345`."""
    return f"{value:,.0f}" if math.isfinite(value) else UNKNOWN


def change(value: float, digits: int = 1) -> str:
    """A relative change in percent with its sign: `+8.1 %`."""
    if not math.isfinite(value):
        return UNKNOWN
    digits = 0 if abs(value) >= 9.995 else digits
    text = f"{value * 100:+,.{digits}f}"
    if not text.strip("+-0."):
        text = text.lstrip("+-")
    return f"{text.replace('-', MINUS)}{NBSP}%"


def share(value: float, digits: int | None = None) -> str:
    """A part of a whole: `12.3 %`; three significant digits by default."""
    if not math.isfinite(value):
        return UNKNOWN
    percent = value * 100
    if digits is None:
        digits = 1 if abs(percent) >= 10 or percent == 0 else 2 if abs(percent) >= 0.1 else 3
    return f"{percent:.{digits}f}".replace("-", MINUS) + f"{NBSP}%"


def between(low: float, high: float) -> str:
    """An interval of changes: `+3.9 % to +12.3 %`."""
    return f"{change(low)} to {change(high)}" if math.isfinite(low) and math.isfinite(high) else UNKNOWN


def plain(value: float) -> str:
    """Four significant digits: `0.0541`, `1,234`."""
    if not math.isfinite(value):
        return UNKNOWN
    size = abs(value)
    text = f"{value:,.0f}" if size >= 1000 else f"{value:.4f}" if 0.001 <= size < 1 else f"{value:.4g}"
    return text.replace("-", MINUS)


def metric_value(rule: MetricRule, value: float) -> str:
    """A metric's value with its unit."""
    if not math.isfinite(value):
        return UNKNOWN
    if rule.source in _SHARES:
        return share(value)
    if rule.source in _TIMES:
        return milliseconds(value)
    return plain(value)


def milliseconds(value: float | None) -> str:
    """A response time, three significant digits: `4.21 ms`, `12.3 ms`, `318 ms`."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:,.{digits}f}{NBSP}ms"


def chance(value: float) -> str:
    """A p-value's number: `0.012`, `< 0.0001`."""
    if not math.isfinite(value):
        return UNKNOWN
    return f"<{NBSP}0.0001" if value < 0.0001 else f"{value:.2g}"


def p_value(value: float) -> str:
    """In a sentence: `p = 0.012`, `p < 0.0001`."""
    written = chance(value)
    return f"p{NBSP}{written}" if written.startswith("<") else f"p{NBSP}={NBSP}{written}"


def evidence(value: float) -> str:
    """An e-value: `0.31`, `412`, `2.1e+09`."""
    if not math.isfinite(value):
        return UNKNOWN
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}" if value < 1e6 else f"{value:.1e}"


def instant(at: datetime, *, seconds: bool = False) -> str:
    """A time in UTC, to the minute: `8 Nov 2026, 14:03 UTC`."""
    at = at.astimezone(UTC)
    return (
        f"{at.day}{NBSP}{at:%b}{NBSP}{at.year}, {at:%H:%M:%S}{NBSP}UTC"
        if seconds
        else (f"{at.day}{NBSP}{at:%b}{NBSP}{at.year}, {at:%H:%M}{NBSP}UTC")
    )


def day(at: datetime) -> str:
    """A day in UTC: `8 Nov 2026`."""
    return instant(at).partition(",")[0]


def moment(at: datetime, span: timedelta) -> str:
    """An instant as precise as a picture over this span of time needs: `8 Nov`, `8 Nov, 14:00`, `14:03:05`."""
    at = at.astimezone(UTC)
    if span >= timedelta(days=4):
        return f"{at.day}{NBSP}{at:%b}"
    if span >= timedelta(hours=12):
        return f"{at.day}{NBSP}{at:%b},{NBSP}{at:%H:%M}"
    return f"{at:%H:%M}" if span >= timedelta(minutes=10) else f"{at:%H:%M:%S}"


def duration(seconds: float) -> str:
    """In the largest unit that gives at least two, or exactly one: `3 days`, `36 hours`, `1 minute`."""
    if not math.isfinite(seconds):
        return UNKNOWN
    for size, name in _UNITS:
        count = seconds / size
        if count >= 1.95 or abs(count - 1) < 0.005:
            shown = f"{count:,.1f}".removesuffix(".0") if name == "day" and count < 9.95 else f"{count:,.0f}"
            return f"{shown}{NBSP}{name}" + ("" if shown == "1" else "s")
    return f"{round(seconds)}{NBSP}second" + ("" if round(seconds) == 1 else "s")


def counted(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun: `1 user`, `1,234 users`."""
    return f"{count:,}{NBSP}{one if count == 1 else many or one + 's'}"


def spaced(text: str) -> str:
    """A terminal's text with its percents as everywhere on a page: `12 %` for `12%`."""
    return re.sub(r"(?<=\d)%", f"{NBSP}%", text)
