"""One row of a forest plot: an estimate with its intervals beside the numbers of a table row. Draws nothing else.

The numbers stand in the same row as text, so the drawing is hidden from screen readers.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

from markupsafe import Markup

from abfleet_dashboard.numbers import change
from abfleet_dashboard.pictures.scales import Scale, round_marks
from abfleet_dashboard.pictures.svg import element, percent

Bounds = tuple[float, float]
WIDEST: Final = 3.0
"""An axis for several rows is at most so many times as wide as its middle row needs; the rest ends in arrows."""
_AIR: Final = 0.1
_EDGE: Final = 0.08
"""Parts of the axis at both ends: beyond what rows need, and what an arrow covers. The first is at least as wide."""


def axis_for(needed: Sequence[Bounds]) -> Scale:
    """One axis for rows that need these bounds, with 0 inside, and room for arrows."""
    finite = [bounds for bounds in needed if all(map(math.isfinite, bounds))]
    extents = sorted(max(abs(low), abs(high)) for low, high in finite)
    if not extents or extents[-1] == 0:
        return Scale(-0.1, 0.1)
    limit = min(extents[-1], WIDEST * extents[len(extents) // 2] or extents[-1])
    low = max(min(low for low, _ in finite), -limit)
    high = min(max(high for _, high in finite), limit)
    low, high = min(low, 0.0), max(high, 0.0)
    air = _AIR * (high - low)
    return Scale(low - air, high + air)


def strip(
    axis: Scale,
    estimate: float,
    interval: Bounds,
    *,
    alone: Bounds = (math.nan, math.nan),
    margin: float = math.nan,
    tone: str = "",
) -> Markup:
    """The drawing. `alone` is a second interval, which is small print; `margin` is the change that is just tolerated;
    `tone` a class: good, bad or open."""
    zero = percent(axis.at(0.0))
    parts = [element("line", x1=zero, x2=zero, y1="0", y2="100%", class_="strip-zero")]
    if math.isfinite(margin):
        parts.append(_margin(axis, margin))
    drawn = [estimate] if math.isfinite(estimate) else []
    for bounds, class_ in ((interval, "strip-interval"), (alone, "strip-alone")):
        if all(map(math.isfinite, bounds)):
            parts.append(_bar(axis, bounds, class_))
            drawn += bounds
    left, right = bool(drawn) and min(drawn) < axis.low, bool(drawn) and max(drawn) > axis.high
    if left:
        parts.append(_at_edge("0%", element("path", d="M0 14L9 8V20Z", class_="strip-arrow")))
    if right:
        parts.append(_at_edge("100%", element("path", d="M0 14L-9 8V20Z", class_="strip-arrow")))
    if math.isfinite(estimate):
        parts.append(_dot(axis.at(estimate), left=left, right=right))
    return _drawing(parts, f"strip {tone}".strip())


def strip_axis(axis: Scale, label: Callable[[float, int], str] = change) -> Markup:
    """The axis with its labels, for the head of the column of strips. label: A value's, with so many digits."""
    parts = []
    marks = next(found for most in (4, 5, 6) if len(found := round_marks(axis.low, axis.high, most)) > 1 or most == 6)
    digits = 0 if len(marks) < 2 or marks[1] - marks[0] >= 0.0099 else 1
    for value in marks:
        at = percent(axis.at(value))
        parts.append(element("text", label(value, digits), x=at, y="18", text_anchor="middle", class_="mark"))
        parts.append(element("line", x1=at, x2=at, y1="23", y2="28", class_="tick"))
    return _drawing(parts, "strip strip-axis")


def _drawing(parts: list[Markup], class_: str) -> Markup:
    return element("svg", *parts, class_=class_, width="100%", height="28", aria_hidden="true", focusable="false")


def _bar(axis: Scale, bounds: Bounds, class_: str) -> Markup:
    left, right = (percent(min(max(axis.at(bound), 0.0), 1.0)) for bound in bounds)
    return element("line", x1=left, x2=right, y1="14", y2="14", class_=class_)


def _margin(axis: Scale, margin: float) -> Markup:
    """The dashed line; where it is outside, a small arrow above those of what is drawn."""
    if axis.inside(margin):
        at = percent(axis.at(margin))
        return element("line", x1=at, x2=at, y1="2", y2="26", class_="strip-margin")
    x, shape = ("0%", "M0 4L7 0V8Z") if margin < axis.low else ("100%", "M0 4L-7 0V8Z")
    return _at_edge(x, element("path", d=shape, class_="strip-margin-beyond"))


def _dot(place: float, *, left: bool, right: bool) -> Markup:
    """The estimate; beside an arrow, where the arrow would cover it or it is outside itself."""
    if left and place < _EDGE:
        return _at_edge("0%", element("circle", cx="16", cy="14", r="5", class_="strip-estimate"))
    if right and place > 1 - _EDGE:
        return _at_edge("100%", element("circle", cx="-16", cy="14", r="5", class_="strip-estimate"))
    return element("circle", cx=percent(place), cy="14", r="5", class_="strip-estimate")


def _at_edge(x: str, shape: Markup) -> Markup:
    return element("svg", shape, x=x, y="0", width="1", height="28", overflow="visible")
