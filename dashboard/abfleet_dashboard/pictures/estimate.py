"""The estimate of one metric over time, with what is known of it and where a boundary lies. Computes no statistics."""

import dataclasses
import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

import numpy as np
from abfleet_analysis.report.details import MetricPath
from abfleet_statistics.moments import Floats
from markupsafe import Markup

from abfleet_dashboard.numbers import UNKNOWN, between, change, moment
from abfleet_dashboard.pictures.picture import ONE_POINT, DataTable, LegendKey, Picture, thinned
from abfleet_dashboard.pictures.plot import Axes, Tick, area, dots, hover, line, plot, swatch
from abfleet_dashboard.pictures.scales import round_marks, time_marks, times, widened

MOST_POINTS: Final = 240
MOST_ROWS: Final = 40
TALLEST: Final = 4.0
"""Early looks know little, and their wide bands would squeeze what counts: bands and boundaries take at most so many
newest bands of the axis. Estimates are always inside."""
NARROWEST: Final = 0.006
"""Half of the width, as a part of the axis, at which a band or a boundary of a single look is drawn."""


def estimate(
    id_: str, title: str, path: MetricPath, at: Sequence[datetime], lowest: float = -math.inf
) -> Picture | None:
    """The picture; None where no look has an estimate. lowest: A boundary below it cannot be reached."""
    known = np.isfinite(path.relative_difference)
    if not known.any():
        return None
    shown = thinned(len(at), MOST_POINTS)
    calculated, path = path, _reachable(path, lowest)
    axes = _axes(path, at)
    description = _description(path, calculated, at, axes if np.count_nonzero(known) > 1 else None)
    return Picture(
        id=id_,
        title=title,
        description=description,
        drawing=plot(id_, title, description, axes, stretched=_layers(path, at, shown, axes))
        if np.count_nonzero(known) > 1
        else ONE_POINT,
        table=_table(path, at),
        legend=_legend(path, shown, axes),
        csv="changes-over-time",
    )


def _reachable(path: MetricPath, lowest: float) -> MetricPath:
    """The path without the boundaries that no estimate can reach."""
    better, worse = (np.where(values < lowest, np.nan, values) for values in (path.better_at, path.worse_at))
    return dataclasses.replace(path, better_at=better, worse_at=worse)


def _axes(path: MetricPath, at: Sequence[datetime]) -> Axes:
    x = times(at[0], at[-1])
    estimates = _known(path.relative_difference)
    limit = max(
        TALLEST * np.abs(_known([path.relative_difference[-1], path.low[-1], path.high[-1]])).max(initial=0.0),
        np.abs(estimates).max(),
    )
    half = len(at) // 2
    bands = _known([*path.low[half:], *path.high[half:]])
    limit = limit or np.abs(bands).max(initial=0.0)
    boundaries = _known([path.better_at[-1], path.worse_at[-1]])
    values = [0.0, *estimates, *np.clip(bands, -limit, limit), *boundaries[np.abs(boundaries) <= limit]]
    y = widened(float(min(values)), float(max(values)))
    marks = round_marks(y.low, y.high)
    digits = 0 if len(marks) < 2 or marks[1] - marks[0] >= 0.0099 else 1 if marks[1] - marks[0] >= 0.00099 else 2
    return Axes(
        x=x,
        y=y,
        x_marks=tuple(Tick(value, text) for value, text in time_marks(x)),
        y_marks=tuple(Tick(value, change(value, digits)) for value in marks),
        zero=0.0,
    )


def _known(values: Sequence[float] | Floats) -> Floats:
    found = np.asarray(values, np.float64)
    return found[np.isfinite(found)]


def _layers(path: MetricPath, at: Sequence[datetime], shown: list[int], axes: Axes) -> list[Markup]:
    layers = [
        area(_broad(_placed(axes, at, path.high, run)), _broad(_placed(axes, at, path.low, run)), "always")
        for run in _seen(path.low, path.high, shown, axes)
    ]
    for values, class_ in ((path.better_at, "better"), (path.worse_at, "worse")):
        layers += [line(_broad(_placed(axes, at, values, run)), class_) for run in _seen(values, values, shown, axes)]
    for run in _runs(shown, np.isfinite(path.relative_difference)):
        placed = _placed(axes, at, path.relative_difference, run)
        layers += [line(placed, "estimate")]
        layers += [dots(placed, "estimate")] if len(shown) <= 60 else [dots(placed[-1:], "estimate")]
    return layers + _hovers(path, at, shown, axes)


def _seen(low: Floats, high: Floats, shown: list[int], axes: Axes) -> list[list[int]]:
    """Runs of looks whose band from low to high is not all outside the chart."""
    return [
        run
        for run in _runs(shown, np.isfinite(low) & np.isfinite(high))
        if high[run].max() >= axes.y.low and low[run].min() <= axes.y.high
    ]


def _broad(placed: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points; a single one as two, because a line or an area of one point is not seen."""
    if len(placed) > 1:
        return placed
    return [(x + step, y) for x, y in placed for step in (-NARROWEST, NARROWEST)]


def _hovers(path: MetricPath, at: Sequence[datetime], shown: list[int], axes: Axes) -> list[Markup]:
    if len(shown) > 80 or len(shown) < 2:
        return []
    stamps = [at[index].timestamp() for index in shown]
    edges = [stamps[0], *((a + b) / 2 for a, b in pairwise(stamps)), stamps[-1]]
    span = at[-1] - at[0]
    return [
        hover(axes, edges[place], edges[place + 1], f"{moment(at[index], span)}: {_hover_text(path, index)}")
        for place, index in enumerate(shown)
    ]


def _hover_text(path: MetricPath, index: int) -> str:
    text = change(path.relative_difference[index])
    interval = between(path.low[index], path.high[index])
    return text if interval == UNKNOWN else f"{text}, always-valid interval {interval}"


def _placed(axes: Axes, at: Sequence[datetime], values: Floats, run: Sequence[int]) -> list[tuple[float, float]]:
    # Far outside the axis, half a thousand times its height or more, drawing programs lose precision.
    return [
        (place[0], min(max(place[1], -20.0), 20.0))
        for place in (axes.place(at[index].timestamp(), float(values[index])) for index in run)
    ]


def _runs(shown: list[int], known: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> list[list[int]]:
    """The shown indices in runs without a gap in what is known."""
    runs: list[list[int]] = []
    open_run = False
    for index in shown:
        if not known[index]:
            open_run = False
            continue
        if not open_run:
            runs.append([])
        runs[-1].append(index)
        open_run = True
    return runs


def _description(path: MetricPath, calculated: MetricPath, at: Sequence[datetime], axes: Axes | None) -> str:
    """calculated: With the boundaries that cannot be reached. axes: None where nothing is drawn."""
    newest = int(np.flatnonzero(np.isfinite(path.relative_difference))[-1])
    span = at[-1] - at[0]
    text = f"Latest, {moment(at[newest], span)}: {_hover_text(path, newest)}."
    for values, uncut, words, sign in (
        (path.better_at, calculated.better_at, "the boundary for better", 1),
        (path.worse_at, calculated.worse_at, "the boundary for harm", -1),
    ):
        sign = sign if path.direction == "up" else -sign
        with np.errstate(invalid="ignore"):
            beyond = np.flatnonzero(sign * (path.relative_difference - values) >= 0)
        if len(beyond):
            text += f" The estimate first reached {words} at the look of {moment(at[int(beyond[0])], span)}."
        elif math.isfinite(values[-1]):
            outside = "" if axes is None or axes.y.inside(float(values[-1])) else ", outside the chart"
            text += f" It has not reached {words}, which is now at {change(float(values[-1]))}{outside}."
        elif math.isfinite(uncut[-1]):
            text += f" {words[:1].upper()}{words[1:]} cannot be reached yet."
    return text


def _table(path: MetricPath, at: Sequence[datetime]) -> DataTable:
    rows = thinned(len(at), MOST_ROWS)
    span = max(at[-1] - at[0], timedelta(0))
    columns = (path.relative_difference, path.low, path.high, path.better_at, path.worse_at)
    notes = [f"{len(rows)} of {len(at)} looks, evenly chosen."] if len(rows) < len(at) else []
    if not all(np.isfinite(column[rows]).all() for column in columns):
        notes.append(f"{UNKNOWN}: too few events at that time.")
    return DataTable(
        ("Time (UTC)", "Estimate", "Always-valid from", "to", "Boundary for better", "Boundary for harm"),
        tuple((moment(at[i], span), *(change(float(column[i])) for column in columns)) for i in rows),
        " ".join(notes),
    )


def _legend(path: MetricPath, shown: list[int], axes: Axes) -> tuple[LegendKey, ...]:
    """What is drawn, and nothing else."""
    keys = [LegendKey(swatch("line", "estimate"), f"estimate for {path.group}")]
    if _seen(path.low, path.high, shown, axes):
        keys.append(LegendKey(swatch("area", "always"), "always-valid 95 % interval"))
    if _seen(path.better_at, path.better_at, shown, axes):
        words = "within tolerance beyond this line" if path.role == "guardrail" else "better beyond this line"
        keys.append(LegendKey(swatch("line", "better"), words))
    if _seen(path.worse_at, path.worse_at, shown, axes):
        keys.append(LegendKey(swatch("line", "worse"), "harm beyond this line"))
    return tuple(keys)
