"""What is drawn is drawn to its end: every path of every picture, however many points it has."""

import dataclasses
import re
from datetime import timedelta

import numpy as np
import pytest
from abfleet_analysis.decision.verdicts import Verdict
from abfleet_analysis.report.report import Report
from abfleet_dashboard.foreign import LONGEST
from abfleet_dashboard.pages import experiment_page, report_file
from abfleet_dashboard.pictures import estimate, over_time
from abfleet_dashboard.pictures.plot import area, dots, line
from abfleet_dashboard.pictures.svg import element
from abfleet_dashboard.situation import Situation
from markupsafe import Markup

from tests.analysis.log_lines import DAY, START
from tests.dashboard.html_check import faults, read
from tests.dashboard.made import HOSTILE, made_details, made_report

POINTS = 4000
ARGUMENTS = {"M": 2, "L": 2, "H": 1, "V": 1, "h": 1, "v": 1, "a": 7, "Z": 0}
PATH = re.compile(r'<path d="([^"]*)"(?: class="([^"]*)")?')
COMMAND = re.compile(r"([A-Za-z])([^A-Za-z]*)")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?|-?\.\d+")


def corners(d: str) -> int:
    """How many points a path leads through; AssertionError where it cannot be read to its end."""
    assert "".join(found.group() for found in COMMAND.finditer(d)) == d, d[-40:]
    assert not d or d[0] == "M"
    for letter, rest in COMMAND.findall(d):
        numbers = NUMBER.findall(rest)
        assert not NUMBER.sub("", rest).strip(), (letter, rest)
        count = ARGUMENTS[letter]
        assert len(numbers) == count if count == 0 else numbers and len(numbers) % count == 0, (letter, rest)
    return len(re.findall("[ML]", d))


def drawn(page: str) -> list[tuple[str, int]]:
    """The class and the number of points of every path."""
    found = PATH.findall(page)
    assert len(found) == len(re.findall(r'\sd="', page)), "no other element has one"
    return [(class_, corners(d)) for d, class_ in found]


def long_report(points: int = POINTS) -> Report:
    """Of hundreds or thousands of looks, and of calls as often."""
    report = made_report()
    (experiment,) = report.experiments
    details = made_details(experiment, tuple(START + timedelta(minutes=10) * number for number in range(points)))
    calls = np.random.default_rng(1).poisson(50, (points, 3)) + 5
    traffic = dataclasses.replace(
        details.traffic,
        width=timedelta(minutes=10),
        calls=calls,
        errors=calls // 9,
        fallbacks=calls // 11,
        troubled=calls // 7,
    )
    turns = tuple((Verdict.KEEP_RUNNING, None) if n % 2 else (Verdict.SHIP, "experiment") for n in range(points))
    decision = dataclasses.replace(experiment.decision, history=turns)
    made = dataclasses.replace(experiment, details=dataclasses.replace(details, traffic=traffic), decision=decision)
    return dataclasses.replace(report, experiments=(made,))


def test_a_line_of_thousands_of_points_is_whole() -> None:
    """Lines, dots and areas lead through every point, and close."""
    points = [(n / POINTS, n * 37 % 1000 / 1000) for n in range(POINTS)]
    for made, count in ((line(points, "a"), POINTS), (dots(points, "a"), POINTS), (area(points, points, "a"), 8000)):
        assert drawn(made) == [(made.partition('class="')[2].partition('"')[0], count)]
    assert area(points, points, "a").partition('" class')[0].endswith("Z")


@pytest.mark.parametrize(("points", "thinned"), [(400, False), (4000, True), (4000, False)])
def test_every_path_of_every_page_is_whole(monkeypatch: pytest.MonkeyPatch, points: int, *, thinned: bool) -> None:
    """On the dashboard's page and in the report file, with as many points as are drawn, and with all there are."""
    if not thinned:
        for module in (estimate, over_time):
            monkeypatch.setattr(module, "MOST_POINTS", points)
    report = long_report(points)
    most = estimate.MOST_POINTS
    pages = (report_file(report), experiment_page(Situation(now=START + DAY * 40, report=report), "homepage-ranking"))
    for page in pages:
        paths = drawn(page)
        counts = [count for class_, count in paths if class_ == "line estimate"]
        assert counts.count(most) >= 2, "the estimates and the test of the sizes have a point for each look"
        assert {count for class_, count in paths if re.fullmatch(r"line series-\d", class_)} >= {most}
        assert max(count for class_, count in paths if class_.startswith("area")) >= 2 * (most - 2)
        assert faults(page, self_contained=page is pages[0]) == []
        assert "…" not in page


def test_sentences_of_many_groups_and_looks_end_with_a_number_of_more() -> None:
    """Where a hundred groups have the longest names that are allowed, no figure is cut off in a description."""
    (experiment,) = long_report().experiments
    assert experiment.details is not None
    groups = [f"{number:03}".ljust(64, "x") for number in range(100)]
    times = experiment.details.paths.times
    picture = over_time.users("u", groups, times, np.full((POINTS, 100), 1234567.0))
    assert picture is not None
    assert len(picture.description) < LONGEST
    assert picture.description.endswith("1,234,567, and 88 more.")
    assert len(picture.table.rows[0]) == 101
    drawn(picture.drawing)


def test_foreign_attributes_are_cut_and_made_safe() -> None:
    """Only what we drew is whole; neither can leave its quotes."""
    flood = element("rect", aria_label="x" * 10**6)
    assert len(flood) < LONGEST + 100
    for name in HOSTILE:
        made = element("rect", element("title", name), aria_label=name)
        assert {tag for tag, _, _ in read(made).attributes} == {"rect"}
        assert "\u202e" not in made
        assert "\u200b" not in made
    assert element("path", d=Markup('"><b>')) == '<path d="&#34;&gt;&lt;b&gt;"></path>'
