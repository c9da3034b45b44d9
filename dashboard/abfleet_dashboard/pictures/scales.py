"""Where a value lies along an axis, and which values get a mark."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from abfleet_dashboard.numbers import NBSP

_STEPS_S: Final = (
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    10800,
    21600,
    43200,
    86400,
    172800,
    345600,
    604800,
    1209600,
    2419200,
    4838400,
    9676800,
    31536000,
    63072000,
    157680000,
    315360000,
    946080000,
    3153600000,
)
_MONDAY: Final = datetime(2001, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps [low, high] to [0, 1]."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """The value's position; below 0 or above 1 for values outside the axis."""
        return (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5

    def inside(self, value: float) -> bool:
        """Whether it is on the axis."""
        return self.low <= value <= self.high


def round_marks(low: float, high: float, most: int = 6) -> tuple[float, ...]:
    """Round values from low to high: steps of 1, 2 or 5 times a power of ten."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return (low,)
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if span / (power * factor) <= most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(index * step for index in range(first, last + 1))


def widened(low: float, high: float) -> Scale:
    """An axis with the values inside, ending at round ones."""
    if not high > low:
        low, high = low - 0.01, high + 0.01
    marks = round_marks(low, high)
    step = marks[1] - marks[0] if len(marks) > 1 else high - low
    return Scale(math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step)


def times(begin: datetime, end: datetime) -> Scale:
    """An axis of time; at least a second long, with a little air at both ends."""
    low = begin.timestamp()
    span = max(end.timestamp() - low, 1.0)
    return Scale(low - 0.012 * span, low + 1.012 * span)


def time_marks(scale: Scale, most: int = 5) -> tuple[tuple[float, str], ...]:
    """Times with their labels, UTC: midnights and round hours, minutes or seconds."""
    span = scale.high - scale.low
    # A label with seconds is as wide as two others.
    step = next((step for step in _STEPS_S if span / step <= (most if step >= 60 else (most + 1) // 2)), _STEPS_S[-1])
    origin = _MONDAY.timestamp()  # weeks begin on Mondays, and days at midnight
    first = math.ceil((scale.low - origin) / step - 1e-9)
    last = math.floor((scale.high - origin) / step + 1e-9)
    return tuple((origin + n * step, _label(origin + n * step, step)) for n in range(first, last + 1))


def _label(at_s: float, step_s: int) -> str:
    try:
        at = datetime.fromtimestamp(0, UTC) + timedelta(seconds=at_s)
    except OverflowError:
        return ""
    if step_s >= 31536000:
        return f"{at.year}"
    if step_s >= 86400 or (at.hour, at.minute, at.second) == (0, 0, 0):
        return f"{at.day}{NBSP}{at:%b}"
    return f"{at:%H:%M}" if step_s >= 60 else f"{at:%H:%M:%S}"
