"""The page of answers in the shadow: what is compared and drawn, each empty state in words, and when it is made."""

import asyncio
import json
import random
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from abfleet_analysis.shadow.compare import ShadowReport, compare_answers
from abfleet_analysis.shadow.words import document
from abfleet_dashboard.analysing import answer
from abfleet_dashboard.csv_tables import shadow_table
from abfleet_dashboard.pages import overview_page, shadow_page
from abfleet_dashboard.settings import parse
from abfleet_dashboard.shadow_reports import ShadowKeeper
from abfleet_dashboard.situation import ShadowAnswers, Situation
from abfleet_dashboard.tasks import AnalysisFailed, ShadowDone, ShadowTask
from abfleet_dashboard.visits import Visits
from abfleet_experiments.file.load import load_text

from tests.analysis.log_lines import START, LogLines
from tests.dashboard.html_check import faults, read
from tests.dashboard.made import HOSTILE, renamed
from tests.dashboard.test_verdict_api import ask
from tests.support.fleet import experiments_file

NOW = START + timedelta(hours=1)
SHADOW = [{"model": "v1.4.0-rc1", "percent": 10, "of": ["v1.2.3"]}]


def shadow_log(folder: Path, users: int = 40) -> Path:
    """Lists of ten items that differ in some places, of users in two countries, and some failures."""
    drawn, log = random.Random(1), LogLines()
    for number in range(3 * users):
        user, at = f"u{number % users}", START + timedelta(seconds=number)
        theirs = drawn.sample(range(60), 10)
        mine = theirs if drawn.random() < 0.3 else [*drawn.sample(theirs, 7), 100 + number % 9, 200, 201]
        request = log.exposure(user, "control", at, items=theirs, attributes={"country": ("DE", "FR")[number % 2]})
        bad = {"status": "DEADLINE_EXCEEDED", "items": None, "latency_ms": 250.0} if number % 30 == 7 else {}
        log.shadow(request, user, bad.pop("items", mine), at, **bad)  # type: ignore[arg-type]
    return log.write(folder)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> ShadowReport:
    return compare_answers([shadow_log(tmp_path_factory.mktemp("logs"))])


def situation(report: ShadowReport | None, problem: str | None = None, shadow: object = SHADOW) -> Situation:
    config = load_text(json.dumps(json.loads(experiments_file()) | ({"shadow": shadow} if shadow else {})))
    return Situation(now=NOW, config=config, shadow=ShadowAnswers(report, NOW if report else None, problem))


def text_of(page: str) -> str:
    assert faults(page) == []
    return read(page).text.replace("\u00a0", " ")


def test_everything_that_the_command_says_is_on_the_page(report: ShadowReport) -> None:
    """Each measure with its interval, times, errors, coverage, attributes and the requests that differ most."""
    page = shadow_page(situation(report))
    text = text_of(page)
    (one,) = report.comparisons
    assert "v3 in the shadow of v1" in text
    assert "120 shadow calls of 40 users" in text
    for name in ("Overlap@1", "Overlap@5", "Overlap@10", "Rank-biased overlap", "Kendall's tau-b", "Identical answers"):
        assert name in text
    for measure in one.measures.values():
        assert f"{measure.mean:.3f}".replace("-", "\u2212") in text
    assert "4 DEADLINE_EXCEEDED" in text
    assert "Overlap@10 by country" in text
    assert f"{one.items}" in text
    assert one.differ_most[0].request_id in text
    assert "v1.4.0-rc1 is asked in the shadow with 10 % of the calls that v1.2.3 answered." in text
    assert page.count('class="strip"') == len(one.measures) + 2


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (situation(None), "The log is being read for shadow calls"),
        (situation(None, "no such folder"), "The shadow calls could not be compared: no such folder"),
        (situation(ShadowReport((), 0)), "The log has no shadow call yet."),
        (situation(ShadowReport((), 0), shadow=None), "No version is asked in the shadow. The key shadow"),
        (situation(ShadowReport((), 7)), "Left out: 7 synthetic calls."),
    ],
)
def test_each_empty_state_has_its_words(now: Situation, said: str) -> None:
    """Not read yet, not readable, nothing asked, nothing answered, a generator's calls alone."""
    assert said in text_of(shadow_page(now))


def test_a_comparison_without_lists_is_said(report: ShadowReport, tmp_path: Path) -> None:
    """ModelInfer without items in the log: times are compared, lists are not."""
    log = LogLines()
    log.shadow(log.exposure("u", "control", START, items=None), "u", None, START)
    text = text_of(shadow_page(situation(compare_answers([log.write(tmp_path)]))))
    assert "No pair of lists could be compared." in text
    assert "1 call without items in the log, on one side or both." in text
    assert "No two lists that were compared differ." in text


def test_names_of_others_are_text(report: ShadowReport) -> None:
    """Versions, attributes, values, request ids and statuses come from outside."""
    (one,) = report.comparisons
    first = one.differ_most[0].request_id
    names = {"v3": HOSTILE[0], "v1": HOSTILE[1], "country": HOSTILE[2], "DE": HOSTILE[3], first: HOSTILE[0]}
    page = shadow_page(situation(renamed(report, names)))
    assert faults(page) == []
    assert "v3" not in page
    assert HOSTILE[0] not in page
    assert HOSTILE[1] not in page


def test_the_front_page_leads_there(report: ShadowReport) -> None:
    """Where a version is asked in the shadow it says so; without, there is the link of every page alone."""
    assert "is asked in the shadow with 10 %" in text_of(overview_page(situation(report)))
    assert "is asked in the shadow" not in text_of(overview_page(situation(report, shadow=None)))


def test_the_document_is_that_of_the_command(report: ShadowReport) -> None:
    """/api/shadow.json, and the tables; 503 and 404 while there is none."""
    told = ask(situation(report), "/api/shadow.json")
    assert told.status == 200
    assert told.document == json.loads(json.dumps(document(report)))
    assert ask(situation(None), "/api/shadow.json").status == 503
    for table, lines in (("measures", 7), ("attributes", 3), ("answers", 2), ("requests", 11)):
        assert ask(situation(report), f"/csv/shadow-{table}.csv").status == 200
        assert len(shadow_table(report, table).splitlines()) == lines
    assert ask(situation(None), "/csv/shadow-measures.csv").status == 404
    assert ask(situation(report), "/csv/shadow-nothing.csv").status == 404


class Analyst:
    """Compares at once, or fails as it is told."""

    def __init__(self) -> None:
        self.tasks: list[ShadowTask] = []
        self.failed: AnalysisFailed | None = None

    async def compare(self, task: ShadowTask) -> ShadowDone | AnalysisFailed:
        self.tasks.append(task)
        return self.failed or ShadowDone(ShadowReport((), len(self.tasks)), 3.0)


def test_it_is_made_again_when_the_log_has_changed_and_it_is_time(tmp_path: Path) -> None:
    """Not twice of the same log, and not sooner after one than that one took; failures are said and tried again."""
    logs, seconds, analyst = tmp_path / "logs", [0.0], Analyst()
    logs.mkdir()
    settings = parse(["--logs", str(logs)], {})
    keeper = ShadowKeeper(settings, analyst, Visits(), lambda: seconds[0], lambda: NOW)

    def look(at: float, line: bool = True) -> int:
        if line:
            with (logs / "decisions-1.jsonl").open("a") as file:
                file.write("{}\n")
        seconds[0] = at
        asyncio.run(keeper.poll())
        return len(analyst.tasks)

    assert (look(0), look(100, line=False), look(101), look(103), look(105)) == (1, 1, 2, 2, 3)
    analyst.failed = AnalysisFailed("no room", expected=False)
    assert look(200) == 4
    assert (keeper.status.problem, keeper.status.number) == ("no room", 4)
    assert keeper.status.report == ShadowReport((), 3), "the last good one stays"
    assert (look(200.5, line=False), look(202, line=False)) == (4, 5)
    analyst.failed = None
    assert look(300, line=False) == 6
    assert keeper.status.problem is None


def test_it_is_made_in_the_process_of_the_analysis(tmp_path: Path) -> None:
    """A task of its own kind; a folder without a log is a reason and no crash."""
    done = answer(ShadowTask(logs=(shadow_log(tmp_path),), memory_limit_bytes=2**28))
    assert isinstance(done, ShadowDone)
    assert replace(done, seconds=0.0).report.comparisons[0].asked == 120
    failed = answer(ShadowTask(logs=(tmp_path / "none",), memory_limit_bytes=2**28))
    assert isinstance(failed, AnalysisFailed)
    assert failed.expected
