"""Pictures: drawn where their numbers are, with words and a table that say the same, and of bounded size."""

import dataclasses
import math
import re
from datetime import datetime, timedelta

import numpy as np
import pytest
from abfleet_analysis.decision.verdicts import Verdict
from abfleet_analysis.report.details import Details, MetricPath, Paths, Traffic
from abfleet_dashboard.pictures import over_time
from abfleet_dashboard.pictures.estimate import MOST_ROWS, estimate
from abfleet_dashboard.pictures.history import runs, verdicts
from abfleet_dashboard.pictures.picture import thinned
from abfleet_dashboard.pictures.scales import Scale, round_marks, time_marks, times, widened
from abfleet_dashboard.pictures.strip import axis_for, strip, strip_axis
from abfleet_dashboard.pictures.svg import element
from hypothesis import given
from hypothesis import strategies as st

from tests.analysis.log_lines import START
from tests.dashboard.made import made_report, made_times

NAN = math.nan


def path_of(values: list[float], half: float = 0.05, better: float = 0.08) -> tuple[MetricPath, list[datetime]]:
    """An estimate over days, with a band and a boundary of constant width."""
    at = [START + timedelta(days=day) for day in range(len(values))]
    estimates = np.array(values)
    flat = np.full(len(values), 1.0)
    return (
        MetricPath(
            "ctr",
            "primary",
            "up",
            "b",
            estimates,
            estimates - half,
            estimates + half,
            better * flat,
            -better * flat,
            NAN * flat,
        ),
        at,
    )


def details() -> Details:
    found = made_report().experiments[0].details
    assert found is not None
    return found


# --- axes ------------------------------------------------------------------------------------------------------------


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_marks_are_few_round_and_inside(low: float, span: float) -> None:
    """At most seven, on an axis that holds both ends."""
    scale = widened(low, low + span)
    assert scale.low <= low + 1e-6 * span
    assert scale.high >= low + span - 1e-6 * span
    marks = round_marks(scale.low, scale.high)
    assert 1 <= len(marks) <= 8
    assert all(scale.low - 1e-6 * span <= mark <= scale.high + 1e-6 * span for mark in marks)


@given(st.integers(-20_000, 80_000), st.timedeltas(timedelta(0), timedelta(days=40000)))
def test_time_marks_are_few_and_inside(days: int, span: timedelta) -> None:
    """From a second to a century."""
    begin = START + timedelta(days=days)
    scale = times(begin, begin + span)
    marks = time_marks(scale)
    assert len(marks) <= 6
    assert all(scale.inside(at) for at, _ in marks)


def test_days_are_marked_at_midnight() -> None:
    """And hours within a day by the clock."""
    days = time_marks(times(START, START + timedelta(days=28)))
    assert [text for _, text in days] == ["2\u00a0Nov", "9\u00a0Nov", "16\u00a0Nov", "23\u00a0Nov"]
    hours = time_marks(times(START + timedelta(hours=1), START + timedelta(hours=4)))
    assert [text for _, text in hours] == ["01:00", "02:00", "03:00", "04:00"]


@given(st.integers(1, 10_000), st.integers(2, 300))
def test_thinned_keeps_both_ends(count: int, most: int) -> None:
    """At most so many, ascending, first and last among them."""
    kept = thinned(count, most)
    assert len(kept) <= most
    assert kept == sorted(set(kept))
    assert (kept[0], kept[-1]) == (0, count - 1)


# --- the estimate over time ------------------------------------------------------------------------------------------


def test_the_line_is_where_the_numbers_are() -> None:
    """The drawn heights, read back through the axis, are the estimates."""
    path, at = path_of([0.02, 0.05, 0.10])
    picture = estimate("p", "T", path, at)
    assert picture is not None
    drawn = re.search(r'd="M([^"]*)" class="line estimate"', picture.drawing)
    assert drawn
    heights = [float(point.split(" ")[1]) for point in drawn[1].split("L")]
    labels = re.findall(r'y="([\d.]+)%" dy="0.32em" text-anchor="end" class="mark">([+−\d.]+)', picture.drawing)
    (low, low_text), (high, high_text) = labels[0], labels[-1]
    low_value, high_value = (float(text.replace("−", "-")) for text in (low_text, high_text))
    per_percent = (high_value - low_value) / (float(high) - float(low))
    values = [low_value + (height / 10 - float(low)) * per_percent for height in heights]
    assert values == pytest.approx([2, 5, 10], abs=0.05)


def test_the_description_says_when_a_boundary_was_reached() -> None:
    """For the better, for harm, or not; for a metric where down is better, the other way round."""
    path, at = path_of([0.02, 0.09, 0.10])
    up = estimate("p", "T", path, at)
    assert up is not None
    assert "first reached the boundary for better at the look of 2" in up.description
    assert "has not reached the boundary for harm" in up.description
    worse, at = path_of([0.0, -0.09, -0.10])
    down = dataclasses.replace(worse, direction="down", better_at=worse.worse_at, worse_at=worse.better_at)
    better = estimate("p", "T", down, at)
    assert better is not None
    assert "first reached the boundary for better at the look of 2" in better.description


def test_what_is_not_known_is_not_drawn() -> None:
    """Gaps stay gaps; nothing known is no picture; nan is never in the drawing."""
    path, at = path_of([NAN, 0.02, NAN, 0.03])
    picture = estimate("p", "T", path, at)
    assert picture is not None
    assert picture.drawing.count('class="line estimate"') == 2
    assert "nan" not in picture.drawing
    assert picture.table.rows[0][1] == "–"
    assert estimate("p", "T", path_of([NAN, NAN])[0], at[:2]) is None


def test_early_looks_do_not_squeeze_the_rest() -> None:
    """A first band of ±500 % leaves the axis to what is known now."""
    path, at = path_of([0.01] * 20)
    path.low[0], path.high[0] = -5.0, 5.0
    picture = estimate("p", "T", path, at)
    assert picture is not None
    labels = re.findall(r'text-anchor="end" class="mark">[+−]?([\d.]+)\u00a0%', picture.drawing)
    assert max(map(float, labels)) <= 30


def test_every_estimate_is_on_the_axis() -> None:
    """An early one far from the newest too, whatever is known of intervals and boundaries."""
    for values in ([0.14, -0.007], [3.0, 0.01, 0.01, 0.01], [-0.9, 0.0], [0.0, 0.0]):
        path, at = path_of(values, better=0.8)
        for known in (path, dataclasses.replace(path, low=NAN * path.low, high=NAN * path.high)):
            picture = estimate("p", "T", known, at)
            assert picture is not None
            drawn = re.search(r'd="M([^"]*)" class="line estimate"', picture.drawing)
            assert drawn
            assert all(0 <= float(point.split(" ")[1]) <= 1000 for point in drawn[1].split("L")), values


def test_the_legend_has_what_is_drawn() -> None:
    """Not a boundary outside the axis, of which the words say that it is; an interval of a single look is drawn."""
    path, at = path_of([-0.06, -0.063], better=0.8)
    path = dataclasses.replace(path, low=NAN * path.low, high=NAN * path.high)
    picture = estimate("p", "T", path, at)
    assert picture is not None
    assert [key.text for key in picture.legend] == ["estimate for b"]
    assert 'class="line better"' not in picture.drawing
    assert "the boundary for better, which is now at +80.0\u00a0%, outside the chart." in picture.description
    path, at = path_of([0.01, 0.02])
    path.low[0] = path.high[0] = path.better_at[0] = NAN
    picture = estimate("p", "T", path, at)
    assert picture is not None
    assert [key.text.partition(" beyond")[0] for key in picture.legend[1:]] == [
        "always-valid 95 % interval",
        "better",
        "harm",
    ]
    for shape in ("area always", "line better"):
        corners = re.search(rf'd="M([^"]*?)Z?" class="{shape}"', picture.drawing)
        assert corners
        assert len({corner.split(" ")[0] for corner in corners[1].split("L")}) == 2, "it has a width"
    assert "outside the chart" not in picture.description


def test_a_group_without_a_point_is_not_in_the_legend() -> None:
    """And the others keep their signs."""
    each = np.array([[0.1, NAN, 0.3], [0.2, NAN, 0.4]])
    picture = over_time.values("v", "T", "ctr", ("a", "b", "c"), path_of([0, 0])[1], each, str)
    assert picture is not None
    assert [key.text for key in picture.legend] == ["a", "c"]
    assert [re.findall(r"series-\d", key.swatch)[0] for key in picture.legend] == ["series-0", "series-2"]


def test_a_boundary_that_cannot_be_reached_is_no_number() -> None:
    """What cannot fall below 0 cannot change by less than -100 %; money with refunds can."""
    path, at = path_of([0.3, 0.28], better=1.26)
    never = "The boundary for harm cannot be reached yet."
    picture = estimate("p", "T", path, at, lowest=-1.0)
    assert picture is not None
    assert never in picture.description
    assert "−126" not in picture.description + str(picture.table.rows)
    assert "the boundary for better, which is now at +126.0" in picture.description
    anything = estimate("p", "T", path, at)
    assert anything is not None
    assert never not in anything.description
    assert "now at −126.0\u00a0%" in anything.description


def test_thousands_of_looks_stay_small() -> None:
    """A plan of looks every few seconds makes neither a huge page nor a huge table."""
    path, at = path_of([0.01] * 5000)
    picture = estimate("p", "T", path, at)
    assert picture is not None
    assert len(picture.drawing) < 30_000
    assert len(picture.table.rows) == MOST_ROWS
    assert "of 5000 looks" in picture.table.note


# --- the others ------------------------------------------------------------------------------------------------------


def test_broken_sizes_cross_the_limit() -> None:
    """The words say whether the limit was ever reached."""
    found = details().paths
    calm = over_time.sizes("s", found)
    broken = over_time.sizes("s", dataclasses.replace(found, ratio_log_e=np.linspace(0, 40, len(found.times))))
    assert calm is not None
    assert broken is not None
    assert "It never reached the limit" in calm.description
    assert "The split was broken" in broken.description
    assert "no conclusion above 2,000" in broken.drawing


def test_groups_differ_by_more_than_colour() -> None:
    """Each line has a class with its own dashes, and its own marker."""
    picture = over_time.users("u", ("a", "b", "c"), details().paths.times, details().paths.users)
    assert picture is not None
    assert [key.text for key in picture.legend] == ["a", "b", "c"]
    shapes = re.findall(r'<path d="([^"]+)" class="marker', picture.drawing)
    assert len(set(shapes)) == 3


def test_nothing_to_draw_is_no_picture() -> None:
    """Empty logs have neither users nor calls nor looks."""
    none = Paths((START,), np.zeros((1, 2)), np.full(1, NAN), np.full(1, NAN), ())
    quiet = np.zeros((3, 2), np.int64)
    traffic = Traffic(START, timedelta(hours=1), quiet, quiet, quiet, quiet, START, START)
    assert over_time.users("u", ("a", "b"), none.times, none.users) is None
    assert over_time.sizes("s", none) is None
    assert over_time.calls("c", ("a", "b"), traffic) is None
    assert over_time.trouble("t", ("a", "b"), traffic) is None
    assert verdicts("v", [("all", ())], 28) is None


def test_an_unfinished_time_is_no_fall() -> None:
    """A bin that began before the experiment or is not over is in the table and not in the drawing, at any end; where
    hardly any has all of its time, all are drawn."""
    calls, none = np.array([[3, 2], [100, 90], [101, 95], [99, 97], [1, 0]]), np.zeros((5, 2), np.int64)
    since, until = START + timedelta(minutes=58), START + timedelta(hours=4, minutes=1)
    traffic = Traffic(START, timedelta(hours=1), calls, none, none, none, since, until)
    picture = over_time.calls("c", ("a", "b"), traffic)
    assert picture is not None
    assert [row[1] for row in picture.table.rows] == ["3", "100", "101", "99", "1"]
    assert "intervals that the log covers only in part" in picture.description
    lines = re.findall(r'<path d="([^"]+)" class="line', picture.drawing)
    assert [len(re.findall(r"[\d.]+ [\d.]+", path)) for path in lines] == [3, 3]
    whole = dataclasses.replace(traffic, since=START, until=START + timedelta(hours=5))
    picture = over_time.calls("c", ("a", "b"), whole)
    assert picture is not None
    assert "Not drawn" not in picture.description
    short = dataclasses.replace(traffic, until=since + timedelta(minutes=3))
    picture = over_time.calls("c", ("a", "b"), short)
    assert picture is not None
    assert "Not drawn" not in picture.description


def test_an_unfinished_time_is_no_spike() -> None:
    """One error of the three calls of a bin that the log covers in part does not set the axis; both charts say so."""
    calls = np.array([[3, 3], [100, 90], [101, 95], [99, 97], [1, 1]])
    errors = np.array([[1, 0], [1, 0], [0, 1], [0, 0], [0, 1]])
    since, until = START + timedelta(minutes=58), START + timedelta(hours=4, minutes=1)
    traffic = Traffic(START, timedelta(hours=1), calls, errors, 0 * errors, errors, since, until)
    pictures = (over_time.calls("c", ("a", "b"), traffic), over_time.trouble("t", ("a", "b"), traffic))
    for picture in pictures:
        assert picture is not None
        assert "Not drawn, but in the table: 2\u00a0intervals that the log covers only in part." in picture.description
        lines = re.findall(r'<path d="([^"]+)" class="line', picture.drawing)
        assert [len(re.findall(r"[\d.]+ [\d.]+", path)) for path in lines] == [3, 3]
        assert "33.3" not in picture.drawing
    trouble = pictures[1]
    assert trouble is not None
    assert trouble.table.rows[0][1] == "33.3\u00a0%"


def test_one_dot_is_no_chart() -> None:
    """On the first day a sentence stands where a drawing with a single point would, and the numbers are there."""
    found = details().paths
    first = Paths(found.times[:1], found.users[:1], found.ratio_log_e[:1], found.ratio_p[:1], ())
    newest = {
        field.name: value[-1:]
        for field in dataclasses.fields(MetricPath)
        if isinstance(value := getattr(found.metrics[0], field.name), np.ndarray)
    }
    pictures = (
        over_time.users("u", ("a", "b", "c"), first.times, first.users),
        over_time.sizes("s", first),
        estimate("e", "Title", dataclasses.replace(found.metrics[0], **newest), found.times[:1]),
    )
    for picture in pictures:
        assert picture is not None
        assert not picture.is_drawn
        assert "<svg" not in picture.drawing
        assert "only one point so far" in picture.drawing
        assert len(picture.table.rows) == 1
    two = Paths(found.times[:2], found.users[:2], found.ratio_log_e[:2], found.ratio_p[:2], ())
    picture = over_time.users("u", ("a", "b", "c"), two.times, two.users)
    assert picture is not None
    assert picture.is_drawn


def test_history_without_repeats() -> None:
    """Runs of looks; what is to come is not coloured."""
    history = [(Verdict.KEEP_RUNNING, None)] * 3 + [(Verdict.SHIP, "b")] * 2
    assert [(run.first, run.last) for run in runs(history)] == [(1, 3), (4, 5)]
    picture = verdicts("v", [("all", history)], 10)
    assert picture is not None
    assert picture.description == "5 of 10 looks so far. Looks 1 to 3: Keep running; 4 to 5: Ship (b)."
    assert 'x="30%"' in picture.drawing
    assert 'width="20%"' in picture.drawing


def test_an_interval_beyond_the_axis_ends_in_an_arrow() -> None:
    """And one inside does not; the middle row decides how wide the axis is."""
    axis = axis_for([(-0.05, 0.05), (-0.04, 0.06), (-4.0, 4.0)])
    assert axis.high < 0.3
    assert "strip-arrow" in strip(axis, 0.0, (-4.0, 4.0))
    assert "strip-arrow" not in strip(axis, 0.01, (-0.04, 0.06))
    assert "strip-arrow" in strip(axis, 0.0, (NAN, NAN), alone=(-0.05, 4.0))
    assert "strip-arrow" in strip(axis, 0.4, (NAN, NAN)), "an estimate beyond it is not just missing"
    assert "strip-arrow" not in strip(axis, 0.0, (-math.inf, math.inf)), "what is not drawn does not continue"
    assert "nan" not in strip(axis, NAN, (NAN, NAN))
    assert axis_for([]) == Scale(-0.1, 0.1)


def test_an_estimate_is_seen_beside_an_arrow() -> None:
    """One that the arrow would cover, or that is outside, stands before its tail; else it is where its value is."""
    axis = Scale(-0.1, 0.1)
    beside = '<svg x="100%" y="0" width="1" height="28" overflow="visible"><circle cx="-16"'
    for estimate_, interval in ((0.098, (0.0, 4.0)), (0.4, (0.3, 0.5)), (0.4, (NAN, NAN))):
        drawn = strip(axis, estimate_, interval)
        assert beside in drawn
        assert drawn.count("strip-estimate") == drawn.count("strip-arrow") == 1
    assert '<svg x="0%" y="0" width="1" height="28" overflow="visible"><circle cx="16"' in strip(axis, -2, (-3, 0))
    assert '<circle cx="99%"' in strip(axis, 0.098, (0.05, 0.1)), "no arrow covers it"
    assert '<circle cx="75%"' in strip(axis, 0.05, (0.0, 4.0))


def test_a_tolerance_outside_the_axis_is_marked_at_the_edge() -> None:
    """On its side; one inside is a line."""
    axis = Scale(-0.1, 0.1)
    for margin, edge in ((1.5, "100%"), (-1.5, "0%")):
        drawn = strip(axis, 0.0, (-0.05, 0.05), margin=margin)
        assert f'<svg x="{edge}" y="0" width="1" height="28" overflow="visible"><path d="M0 4L' in drawn
        assert 'class="strip-margin"' not in drawn
    inside = strip(axis, 0.0, (-0.05, 0.05), margin=0.05)
    assert 'class="strip-margin"' in inside
    assert "strip-margin-beyond" not in inside
    assert "strip-margin" not in strip(axis, 0.0, (-0.05, 0.05))


@given(st.floats(1e-3, 1e3), st.floats(0, 1))
def test_a_row_of_strips_has_two_labels_at_least(span: float, part: float) -> None:
    """Of one label alone nobody can read a length."""
    axis = axis_for([(-span * part, span * (1 - part))])
    assert strip_axis(axis).count("<text") >= 2


def test_labels_are_at_their_ticks() -> None:
    """The first and the last too, over rows of intervals and below charts over time."""
    axis = strip_axis(Scale(-0.45, 0.45))
    ticks = re.findall(r'<line x1="([\d.]+%)"', axis)
    assert re.findall(r'<text x="([\d.]+%)" y="18" text-anchor="middle"', axis) == ticks
    assert float(ticks[0].rstrip("%")) < 10
    begin = START + timedelta(hours=20)
    picture = over_time.users("u", ("a", "b"), [begin, begin + timedelta(hours=8)], np.array([[1, 2], [3, 4]]))
    assert picture is not None
    ticks = re.findall(r'<line x1="([\d.]+%)" x2="[\d.]+%" y1="100%"', picture.drawing)
    labels = re.findall(r'<text x="([\d.]+%)" y="100%" dy="1.5em" text-anchor="middle"', picture.drawing)
    assert labels == ticks
    assert float(ticks[0].rstrip("%")) < 4


def test_every_drawing_has_words() -> None:
    """A role, a title, a description, and a table with the same numbers."""
    found = made_report().experiments[0].details
    assert found is not None
    pictures = [
        over_time.users("u", ("a", "b", "c"), found.paths.times, found.paths.users),
        over_time.calls("c", ("a", "b", "c"), found.traffic),
        over_time.trouble("t", ("a", "b", "c"), found.traffic),
        over_time.sizes("s", found.paths),
        estimate("e", "Title", found.paths.metrics[0], made_times(28)),
    ]
    for picture in pictures:
        assert picture is not None
        assert 'role="img"' in picture.drawing
        assert f'aria-labelledby="{picture.id}-t {picture.id}-d"' in picture.drawing
        assert len(picture.description) > 20
        assert picture.table.rows
        assert all(len(row) == len(picture.table.head) for row in picture.table.rows)


def test_elements_escape_what_they_are_given() -> None:
    """Children and attributes alike."""
    made = element("text", '<b>"&', x='"><script>', y=None, class_="a")
    assert made == '<text x="&#34;&gt;&lt;script&gt;" class="a">&lt;b&gt;&#34;&amp;</text>'


def test_one_look_is_not_looks() -> None:
    """The words of the picture for who does not see it."""
    one = verdicts("v", [("all", [(Verdict.KEEP_RUNNING, None)])], 28)
    two = verdicts("v", [("all", [(Verdict.KEEP_RUNNING, None)] * 2 + [(Verdict.SHIP, "b")])], 28)
    assert one is not None
    assert two is not None
    assert one.description.startswith("1 of 28 looks so far. Look 1: Keep running")
    assert two.description.startswith("3 of 28 looks so far. Looks 1 to 2: Keep running; 3: Ship")
