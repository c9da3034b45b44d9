"""A plot's frame: axes, marks, layers and labels, for values that already have positions.

It is as wide as its container and keeps the size of its text: text is positioned by percents, and shapes lie in an
inner drawing that stretches, with lines of a constant width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from abfleet_dashboard.pictures.scales import Scale
from abfleet_dashboard.pictures.svg import element, joined, path, percent

SERIES: Final = 8
"""Styles of lines there are in the style sheet: a colour and a pattern of dashes each; a ninth looks like the first."""
_SHAPES: Final = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0Z",
    "M-3.6-3.6h7.2v7.2h-7.2Z",
    "M0-4.8L4.6 3.4H-4.6Z",
    "M0-5L5 0L0 5L-5 0Z",
    "M0 4.8L4.6-3.4H-4.6Z",
    "M-4.5-1.5h3v-3h3v3h3v3h-3v3h-3v-3h-3Z",
    "M-5-2.4H5V2.4H-5Z",
    "M-2.4-5H2.4V5H-2.4Z",
)


@dataclass(frozen=True, slots=True)
class Tick:
    """A value on an axis with its label."""

    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """Both axes. `zero`: a value of y at which a stronger line is drawn."""

    x: Scale
    y: Scale
    x_marks: tuple[Tick, ...]
    y_marks: tuple[Tick, ...]
    zero: float | None = None

    def place(self, x: float, y: float) -> tuple[float, float]:
        """The position of a value: fractions of the width from the left and of the height from the top."""
        return self.x.at(x), 1 - self.y.at(y)


def series(index: int) -> str:
    """The class of the style sheet for the index-th line."""
    return f"series-{index % SERIES}"


def plot(
    id_: str, title: str, description: str, axes: Axes, *, stretched: Sequence[Markup], fixed: Sequence[Markup] = ()
) -> Markup:
    """The whole drawing. `stretched` layers are paths in thousandths; `fixed` ones are placed by percents."""
    inner = element(
        "svg",
        *stretched,
        class_="stretch",
        width="100%",
        height="100%",
        viewBox="0 0 1000 1000",
        preserveAspectRatio="none",
    )
    drawing = element(
        "svg",
        element("title", title, id=f"{id_}-t"),
        element("desc", description, id=f"{id_}-d"),
        *_grid(axes),
        inner,
        *fixed,
        class_="plot",
        role="img",
        aria_labelledby=f"{id_}-t {id_}-d",
        width="100%",
        height="100%",
    )
    return element("div", drawing, class_="plot-box")


def line(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    """A line through points, given as fractions of width and height."""
    return element("path", d=path(list(points)), class_=f"line {class_}")


def dots(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    """A small dot on each placed point: lines of no length with round ends, which do not stretch."""
    return element("path", d=joined([path([point]) + "h0" for point in points]), class_=f"dots {class_}")


def area(top: Sequence[tuple[float, float]], bottom: Sequence[tuple[float, float]], class_: str) -> Markup:
    """The filled area between two lines."""
    return element("path", d=path([*top, *reversed(bottom)], close=True), class_=f"area {class_}")


def marker(place: tuple[float, float], index: int, class_: str = "") -> Markup:
    """The shape of the index-th line, at a placed point."""
    return element(
        "svg",
        element("path", d=_SHAPES[index % SERIES], class_=f"marker {series(index)} {class_}".strip()),
        x=percent(place[0]),
        y=percent(place[1]),
        width="1",
        height="1",
        overflow="visible",
    )


def hover(axes: Axes, begin: float, end: float, text: str) -> Markup:
    """A strip from one value of x to another that says its numbers to a pointer that rests on it."""
    left, right = sorted((max(axes.x.at(begin), 0.0), min(axes.x.at(end), 1.0)))
    return element(
        "rect", element("title", text), x=left * 1000, y="0", width=(right - left) * 1000, height="1000", class_="hover"
    )


def level(axes: Axes, y: float, text: str, class_: str) -> list[Markup]:
    """A line across at a value of y, with its name above it at the left."""
    if not axes.y.inside(y):
        return []
    at = percent(1 - axes.y.at(y))
    return [
        element("line", x1="0", x2="100%", y1=at, y2=at, class_=f"level {class_}"),
        element("text", text, x="0", dx="6", y=at, dy="-0.4em", class_=f"level-name {class_}"),
    ]


def swatch(kind: str, class_: str, index: int | None = None) -> Markup:
    """A small piece of a line, an area or a dot, for a legend."""
    shape = element("path", d="M1 8H27", class_=f"line {class_}")
    if kind == "area":
        shape = element("rect", x="1", y="2", width="26", height="12", class_=f"area {class_}")
    parts = [shape] if kind != "dot" else []
    if index is not None:
        inner = element("path", d=_SHAPES[index % SERIES], class_=f"marker {class_}")
        parts.append(element("svg", inner, x="14", y="8", width="1", height="1", overflow="visible"))
    return element("svg", *parts, class_="swatch", width="28", height="16", aria_hidden="true", focusable="false")


def _grid(axes: Axes) -> list[Markup]:
    parts = []
    for mark in axes.y_marks:
        at = percent(1 - axes.y.at(mark.at))
        name = "grid zero" if axes.zero is not None and abs(mark.at - axes.zero) < 1e-12 else "grid"
        parts.append(element("line", x1="0", x2="100%", y1=at, y2=at, class_=name))
        parts.append(element("text", mark.text, x="0", dx="-8", y=at, dy="0.32em", text_anchor="end", class_="mark"))
    for mark in axes.x_marks:
        at = percent(axes.x.at(mark.at))
        parts.append(element("line", x1=at, x2=at, y1="100%", y2="100%", class_="tick"))
        parts.append(element("text", mark.text, x=at, y="100%", dy="1.5em", text_anchor="middle", class_="mark"))
    return [joined(parts)]
