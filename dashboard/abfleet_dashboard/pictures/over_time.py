"""Counts and shares over time, a line for each group, and the test of the groups' sizes. Computes no statistics."""

import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

import numpy as np
from abfleet_analysis.report.details import Paths, Traffic
from abfleet_statistics import srm
from abfleet_statistics.moments import Floats
from markupsafe import Markup

from abfleet_dashboard.numbers import NBSP, chance, counted, duration, evidence, moment, share, whole
from abfleet_dashboard.pictures.picture import ONE_POINT, DataTable, LegendKey, Picture, few, thinned
from abfleet_dashboard.pictures.plot import Axes, Tick, dots, hover, level, line, marker, plot, series, swatch
from abfleet_dashboard.pictures.scales import Scale, round_marks, time_marks, times, widened

MOST_POINTS: Final = 240
MOST_ROWS: Final = 40
MOST_HOVERS: Final = 80
HIGHEST_LOG10: Final = 7.0
"""Evidence of a broken split is drawn up to ten million; more would hide the limit."""


def sizes(id_: str, paths: Paths) -> Picture | None:
    """The evidence that the groups have other sizes than they should have."""
    log10 = np.asarray(paths.ratio_log_e) / math.log(10)
    if not len(log10) or not np.isfinite(log10).any():
        return None
    limit = -math.log10(srm.ALPHA)
    top = min(max(float(np.nanmax(log10)) + 0.5, limit + 0.7), HIGHEST_LOG10)
    low = math.floor(max(min(float(np.nanmin(log10)), -0.3), -4.0))
    x, y = times(paths.times[0], paths.times[-1]), Scale(float(low), top)
    marks = tuple(Tick(float(n), f"{10**n:,}" if n >= 0 else f"{10.0**n:g}") for n in range(low, math.floor(top) + 1))
    axes = Axes(x=x, y=y, x_marks=_time_marks(x), y_marks=marks, zero=0.0)
    shown = [i for i in thinned(len(log10), MOST_POINTS) if math.isfinite(log10[i])]
    placed = [axes.place(paths.times[i].timestamp(), min(max(float(log10[i]), low), top)) for i in shown]
    newest, highest = (
        _e_value(float(paths.ratio_log_e[-1])),
        _e_value(float(np.nanmax(paths.ratio_log_e))),
    )
    verdict = "The split was broken" if highest >= 1 / srm.ALPHA else "It never reached the limit"
    description = (
        f"Evidence of a broken split is {evidence(newest)} now, and {evidence(highest)} at its highest. "
        f"At {whole(1 / srm.ALPHA)} or more, nothing is concluded. {verdict}."
    )
    title = "Do the groups have the sizes they should have?"
    span = paths.times[-1] - paths.times[0]
    rows = thinned(len(log10), MOST_ROWS)
    return Picture(
        id=id_,
        title=title,
        description=description,
        drawing=plot(
            id_,
            title,
            description,
            axes,
            stretched=[line(placed, "estimate"), *([dots(placed, "estimate")] if len(placed) <= 60 else [])],
            fixed=level(axes, limit, f"no conclusion above {whole(1 / srm.ALPHA)}", "worse"),
        )
        if len(placed) > 1
        else ONE_POINT,
        table=DataTable(
            ("Time (UTC)", "Evidence (E)", "Chi-square p at that look alone"),
            tuple(
                (
                    moment(paths.times[i], span),
                    evidence(_e_value(float(paths.ratio_log_e[i]))),
                    chance(float(paths.ratio_p[i])),
                )
                for i in rows
            ),
        ),
        legend=(LegendKey(swatch("line", "estimate"), "evidence that the split is broken; 1 says nothing"),),
        csv="sizes-over-time",
    )


def users(id_: str, groups: Sequence[str], at: Sequence[datetime], count: Floats) -> Picture | None:
    """Different users of each group up to each time. count: float64[times, groups]."""
    if not len(count) or not count.any():
        return None
    newest = few([f"{name}{NBSP}{whole(float(number))}" for name, number in zip(groups, count[-1], strict=True)])
    return _lines(
        id_,
        "Users so far, each in the first group they had",
        f"Now: {newest}.",
        groups,
        at,
        np.asarray(count),
        whole,
        "Users",
        csv="users-over-time",
    )


def values(
    id_: str,
    title: str,
    what: str,
    groups: Sequence[str],
    at: Sequence[datetime],
    each: Floats,
    written: Callable[[float], str],
) -> Picture | None:
    """A metric's value in each group up to each time; None where none is known. each: float64[times, groups]."""
    if not np.isfinite(each).any():
        return None
    known = [(name, float(value)) for name, value in zip(groups, each[-1], strict=True) if math.isfinite(value)]
    newest = few([f"{name}{NBSP}{written(value)}" for name, value in known])
    return _lines(
        id_,
        title,
        f"Now: {newest}." if newest else "No value is known now.",
        groups,
        at,
        each,
        written,
        f"{what[:1].upper()}{what[1:]}",
        from_zero=False,
        csv="values-over-time",
    )


def calls(id_: str, groups: Sequence[str], traffic: Traffic) -> Picture | None:
    """Calls of each group by time."""
    if not traffic.calls.any():
        return None
    width = _every(traffic)
    totals = traffic.calls.sum(axis=0)
    said = few([f"{name}{NBSP}{whole(float(count))}" for name, count in zip(groups, totals, strict=True)])
    return _lines(
        id_,
        f"Calls by group, {width}",
        f"In total: {said}, including calls from before a ramp moved a user.{_left_out(traffic)}",
        groups,
        _bins(traffic),
        traffic.calls.astype(np.float64),
        whole,
        "Calls",
        width=traffic.width,
        drawn=_finished(traffic),
        csv="calls-over-time",
    )


def trouble(id_: str, groups: Sequence[str], traffic: Traffic) -> Picture | None:
    """Share of calls that their version failed or another version answered; most that it failed another answered."""
    if not traffic.troubled.any():
        return None
    totals = traffic.calls.sum(axis=0)
    said = few(
        [
            f"{name}: {counted(int(errors), 'error')} and {counted(int(fallbacks), 'fallback')}"
            for name, errors, fallbacks in zip(
                groups, traffic.errors.sum(axis=0), traffic.fallbacks.sum(axis=0), strict=True
            )
            if errors or fallbacks
        ],
        "; ",
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.where(traffic.calls > 0, traffic.troubled / traffic.calls, np.nan)
    return _lines(
        id_,
        f"Calls with an error or a fallback, {_every(traffic)}",
        f"Of {counted(int(totals.sum()), 'call')}: {said}.{_left_out(traffic)}",
        groups,
        _bins(traffic),
        part,
        share,
        "Share of calls with an error or a fallback",
        width=traffic.width,
        drawn=_finished(traffic),
        csv="calls-over-time",
    )


def _every(traffic: Traffic) -> str:
    return f"every {duration(traffic.width.total_seconds()).removeprefix(f'1{NBSP}')}"


def _finished(traffic: Traffic) -> list[int]:
    """The bins that have all of their time; all of them where hardly any has. The others would look like a fall or,
    with few calls, like a spike."""
    found = [
        index
        for index, begin in enumerate(_bins(traffic))
        if begin >= traffic.since and begin + traffic.width <= traffic.until
    ]
    return found if len(found) > 1 else list(range(len(traffic.calls)))


def _left_out(traffic: Traffic) -> str:
    unfinished = len(traffic.calls) - len(_finished(traffic))
    if not unfinished:
        return ""
    return f" Not drawn, but in the table: {counted(unfinished, 'interval')} that the log covers only in part."


def _bins(traffic: Traffic) -> tuple[datetime, ...]:
    return tuple(traffic.begin + traffic.width * index for index in range(len(traffic.calls)))


def _lines(
    id_: str,
    title: str,
    description: str,
    groups: Sequence[str],
    at: Sequence[datetime],
    values: Floats,
    written: Callable[[float], str],
    what: str,
    *,
    width: timedelta = timedelta(0),
    drawn: Sequence[int] | None = None,
    from_zero: bool = True,
    csv: str = "",
) -> Picture:
    """`drawn`: indices of the times that have a point; None: all. `from_zero`: whether the axis begins there."""
    x = times(at[0], at[-1] + width)
    drawn = range(len(at)) if drawn is None else drawn
    known = values[drawn][np.isfinite(values[drawn])]
    low, high = (0.0 if from_zero else float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    y = widened(low, high)
    y = Scale(max(y.low, 0.0), y.high) if low >= 0 else y
    if not from_zero and y.low > 0:
        description += f" The axis begins at {written(y.low)}."
    places = [value for value in round_marks(y.low, y.high, 5) if written is not whole or not value % 1]
    marks = tuple(Tick(value, written(value)) for value in places)  # there is no half of a call
    axes = Axes(x=x, y=y, x_marks=_time_marks(x), y_marks=marks, zero=0.0)
    shown = [drawn[place] for place in thinned(len(drawn), MOST_POINTS)]
    stretched: list[Markup] = []
    fixed: list[Markup] = []
    legend: list[LegendKey] = []
    for index, name in enumerate(groups):
        there = [i for i in shown if math.isfinite(values[i, index])]
        placed = [axes.place((at[i] + width / 2).timestamp(), float(values[i, index])) for i in there]
        if placed:
            stretched.append(line(placed, series(index)))
            fixed.append(marker(placed[-1], index))
            legend.append(LegendKey(swatch("line", series(index), index), name))
    span = at[-1] + width - at[0]
    if 1 < len(shown) <= MOST_HOVERS:
        stretched += _hovers(axes, groups, at, values, written, shown, width, span)
    rows = thinned(len(at), MOST_ROWS)
    return Picture(
        id=id_,
        title=title,
        description=description,
        drawing=plot(id_, title, description, axes, stretched=stretched, fixed=fixed) if len(shown) > 1 else ONE_POINT,
        table=DataTable(
            ("Time (UTC)", *groups),
            tuple((moment(at[i], span), *(written(float(value)) for value in values[i])) for i in rows),
            (f"{what}. " + (f"{len(rows)} of {len(at)} times, evenly chosen." if len(rows) < len(at) else "")).strip(),
        ),
        legend=tuple(legend),
        csv=csv,
    )


def _hovers(
    axes: Axes,
    groups: Sequence[str],
    at: Sequence[datetime],
    values: Floats,
    written: Callable[[float], str],
    shown: Sequence[int],
    width: timedelta,
    span: timedelta,
) -> list[Markup]:
    centres = [(at[i] + width / 2).timestamp() for i in shown]
    edges = [axes.x.low, *((a + b) / 2 for a, b in pairwise(centres)), axes.x.high]
    return [
        hover(
            axes,
            edges[place],
            edges[place + 1],
            f"{moment(at[i], span)}: "
            + few([f"{name}{NBSP}{written(float(value))}" for name, value in zip(groups, values[i], strict=True)]),
        )
        for place, i in enumerate(shown)
    ]


def _e_value(log_e: float) -> float:
    return math.exp(min(log_e, 700.0))


def _time_marks(x: Scale) -> tuple[Tick, ...]:
    return tuple(Tick(value, text) for value, text in time_marks(x))
