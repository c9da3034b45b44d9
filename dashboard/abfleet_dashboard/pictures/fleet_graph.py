"""One router and the versions that it sends calls to, with calls a second and errors on the way. Draws; counts nothing.

It is as wide as its container: shapes and text are positioned by percents, and rows have a height in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from abfleet_dashboard.numbers import counted
from abfleet_dashboard.pictures.svg import element, percent

ROW: Final = 82
"""Pixels of a version's row."""
_ROUTER, _VERSION = 0.27, 0.40
"""Where the router's box ends and the versions' boxes begin, of the width."""
_WIDEST: Final = 14.0
"""Pixels of a line that carries every call."""


@dataclass(frozen=True, slots=True)
class Target:
    """A version: what goes to it, of how many workers. `level`: ok, warning or bad. `part`: of all calls, 0 to 1."""

    name: str
    calls_per_s: str
    errors: int
    fallbacks: int
    part: float
    workers: str
    level: str


def fleet_graph(id_: str, router: str, level: str, calls_per_s: str, targets: Sequence[Target]) -> Markup:
    """The drawing; a line's width is its version's part of the calls, and it is dashed where there are none."""
    height = ROW * max(len(targets), 1)
    title = f"{router} and the versions that it sends calls to"
    parts: list[Markup] = []
    for index, target in enumerate(targets):
        parts += _way(index, height, target)
    parts += _box(0.0, _ROUTER, height / 2, level, (router, f"{calls_per_s} calls/s"))
    for index, target in enumerate(targets):
        middle = ROW * (index + 0.5)
        parts += _box(_VERSION, 1.0, middle, target.level, (target.name, _calls(target), target.workers))
    return element(
        "svg",
        element("title", title, id=f"{id_}-t"),
        element("desc", "; ".join(f"{one.name}: {_calls(one)}, {one.workers}" for one in targets), id=f"{id_}-d"),
        *parts,
        class_="fleet-graph",
        role="img",
        aria_labelledby=f"{id_}-t {id_}-d",
        width="100%",
        height=height,
    )


def _calls(target: Target) -> str:
    failed = f", {counted(target.errors, 'error')}" if target.errors else ""
    fell = f", {counted(target.fallbacks, 'fallback')}" if target.fallbacks else ""
    return f"{target.calls_per_s} calls/s{failed}{fell}"


def _way(index: int, height: float, target: Target) -> list[Markup]:
    """From the router's middle to the version's, in an inner drawing that stretches; its line keeps its width."""
    begin, end = height / 2, ROW * index + ROW / 2
    path = f"M0 {begin:g}C50 {begin:g} 50 {end:g} 100 {end:g}"
    width = max(_WIDEST * target.part, 1.5)
    line = element(
        "path",
        d=Markup(path),  # noqa: S704 - numbers and letters of our own
        class_=f"way {'troubled' if target.errors else 'calm'}" + ("" if target.part else " none"),
        stroke_width=width,
    )
    return [
        element(
            "svg",
            line,
            x=percent(_ROUTER),
            y="0",
            width=percent(_VERSION - _ROUTER),
            height=height,
            viewBox=f"0 0 100 {height:g}",
            preserveAspectRatio="none",
        )
    ]


def _box(left: float, right: float, middle: float, level: str, lines: Sequence[str]) -> list[Markup]:
    """A box with a name and lines under it; what does not fit is cut off at its right end, and is in the tables."""
    inner = [
        element("text", line, x="10", y=21 + 18 * index, class_="node-said" if index else "node-name")
        for index, line in enumerate(lines)
    ]
    height = 16 + 18 * len(lines)
    top, width = middle - height / 2, percent(right - left)
    return [
        element("rect", x=percent(left), y=top, width=width, height=height, rx="5", class_=f"node level-{level}"),
        element("svg", *inner, x=percent(left), y=top, width=width, height=height),
    ]
