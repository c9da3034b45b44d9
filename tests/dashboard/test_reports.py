"""When the log is analysed again, and what is known meanwhile: with an analyst that answers at once, a fake clock."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from abfleet_analysis.report.report import LogFacts, Report
from abfleet_dashboard.reports import UNWATCHED_SECONDS, ReportKeeper, pause_seconds
from abfleet_dashboard.settings import parse
from abfleet_dashboard.tasks import AnalysisDone, AnalysisFailed, AnalysisTask
from abfleet_dashboard.visits import WATCHED_SECONDS, Visits
from abfleet_log.tools.actions import STATE_FILE

FILE = "version: 1\ndefault: v1\nmodels: {v1: {target: '127.0.0.1:1'}}\n"
BEGIN = datetime(2026, 11, 1, tzinfo=UTC)


def report(lines: int) -> Report:
    return Report(None, LogFacts(lines, 0, 0), ())


@dataclass
class Analyst:
    """Answers with what was prepared, else with a report that has its number in it."""

    tasks: list[AnalysisTask] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    took: float = 1.0
    rested: int = 0

    async def ask(self, task: AnalysisTask) -> AnalysisDone | AnalysisFailed:
        self.tasks.append(task)
        return self.answers.pop(0) if self.answers else AnalysisDone(report(len(self.tasks)), self.took)

    async def release(self) -> None:
        self.rested += 1


class Setting:
    """A keeper over files, with time that stands still unless it is moved."""

    def __init__(self, folder: Path) -> None:
        self.seconds = 0.0
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.file = folder / "experiments.yaml"
        self.file.write_text(FILE)
        self.analyst = Analyst()
        self.visits = Visits(clock=lambda: self.seconds)
        settings = parse(["--logs", str(self.logs), "--experiments", str(self.file), "--registry", str(folder)], {})
        self.keeper = ReportKeeper(
            settings, self.analyst, self.visits, lambda: self.seconds, lambda: BEGIN + timedelta(seconds=self.seconds)
        )

    def look_at(self, seconds: float) -> None:
        self.seconds = seconds
        asyncio.run(self.keeper.poll())

    def add_line(self) -> None:
        with (self.logs / "decisions-1.jsonl").open("a") as log:
            log.write("{}\n")

    @property
    def analyses(self) -> int:
        return len(self.analyst.tasks)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


def test_the_same_log_is_analysed_once(setting: Setting) -> None:
    """Nothing new, no work; and the report is known to be as good as new all the while."""
    for seconds in (0, 100, 200):
        setting.look_at(seconds)
    assert setting.analyses == 1
    assert setting.keeper.status.current_at == BEGIN + timedelta(seconds=200)
    assert setting.keeper.status.number == 2, "one for the file, one for the report"


def test_what_the_autopilot_says_of_itself_is_no_news(setting: Setting) -> None:
    """It writes its state beside the log every ten seconds, in which no report changes."""
    setting.look_at(0)
    (setting.logs / STATE_FILE).write_text("{}")
    setting.look_at(100)
    assert setting.analyses == 1


def test_what_has_changed_is_analysed(setting: Setting) -> None:
    """A new line, a new file, a file that is gone, another configuration, another registry."""
    setting.look_at(0)
    setting.add_line()
    setting.look_at(100)
    (setting.logs / "decisions-2.jsonl").write_text("{}\n")
    setting.look_at(200)
    (setting.logs / "decisions-2.jsonl").unlink()
    setting.look_at(300)
    setting.file.write_text(FILE + "holdout: {percent: 1}\n")
    setting.look_at(400)
    (setting.logs.parent / "registry.json").write_text("{}")
    setting.look_at(500)
    assert setting.analyses == 6
    assert setting.analyst.tasks[-1].config.holdout.percent_bp == 100


def test_a_comment_is_no_change(setting: Setting) -> None:
    """The file is another one, the configuration is not."""
    setting.look_at(0)
    setting.file.write_text(FILE + "# nothing\n")
    setting.look_at(100)
    assert setting.analyses == 1


def test_analyses_have_half_of_the_time_at_most(setting: Setting) -> None:
    """After one that took 40 s there is none for 40 s, also while somebody looks."""
    setting.analyst.took = 40.0
    setting.look_at(0)
    setting.add_line()
    for seconds in range(1, 40):
        setting.visits.note()
        setting.look_at(seconds)
    assert setting.analyses == 1
    setting.visits.note()
    setting.look_at(40)
    assert setting.analyses == 2


def test_it_is_rarer_while_nobody_looks(setting: Setting) -> None:
    """Every two seconds with an open page, every half minute without."""
    setting.look_at(0)
    setting.add_line()
    setting.look_at(UNWATCHED_SECONDS - 1)
    assert setting.analyses == 1
    setting.visits.note()
    setting.look_at(UNWATCHED_SECONDS - 0.5)
    assert setting.analyses == 2
    assert pause_seconds(refresh=2, took=0.5, watched=True) == 2
    assert pause_seconds(refresh=2, took=0.5, watched=False) == UNWATCHED_SECONDS
    assert pause_seconds(refresh=100, took=0.5, watched=False) == 100


def test_a_log_that_cannot_be_read_keeps_the_report(setting: Setting) -> None:
    """The last good report stays with its time, beside the reason; no new attempt before something changes."""
    setting.look_at(0)
    setting.analyst.answers = [AnalysisFailed("no decision log here", expected=True)]
    setting.add_line()
    setting.look_at(100)
    setting.look_at(200)
    known = setting.keeper.status
    assert setting.analyses == 2
    assert known.report == report(1)
    assert known.current_at == BEGIN
    assert known.problem == "no decision log here"
    setting.add_line()
    setting.look_at(300)
    assert setting.keeper.status.problem is None
    assert setting.keeper.status.report == report(3)


def test_what_nobody_expected_is_tried_again_ever_more_rarely(setting: Setting) -> None:
    """A process that dies is a reason on the page, and the next attempt comes after 1, 2, 4, … 60 seconds."""
    setting.analyst.answers = [AnalysisFailed("it died", expected=False)] * 3
    for seconds, attempts in ((0, 1), (0.9, 1), (1, 2), (2.9, 2), (3, 3), (6.9, 3), (7, 4)):
        setting.look_at(seconds)
        assert setting.analyses == attempts
    assert setting.keeper.status.problem is None


def test_a_file_with_mistakes_keeps_the_configuration(setting: Setting) -> None:
    """The mistakes are known, and the log is analysed with the configuration before."""
    setting.look_at(0)
    setting.file.write_text("version: 9\n")
    setting.add_line()
    setting.look_at(100)
    known = setting.keeper.status
    assert any("version" in error for error in known.config_errors)
    assert known.config is not None
    assert setting.analyses == 2
    setting.file.write_text(FILE)
    setting.look_at(200)
    assert setting.keeper.status.config_errors == ()


def test_without_any_configuration_nothing_is_analysed(setting: Setting) -> None:
    """A missing file is said; there is nothing to analyse with."""
    setting.file.unlink()
    setting.look_at(0)
    assert setting.analyses == 0
    assert "cannot be read" in setting.keeper.status.config_errors[0]


def test_the_process_rests_when_there_is_nothing_to_do(setting: Setting) -> None:
    """After two minutes its memory is given back."""
    setting.look_at(0)
    setting.look_at(100)
    assert setting.analyst.rested == 0
    setting.look_at(121)
    assert setting.analyst.rested == 1


async def test_the_first_visitor_after_a_while_wakes_whoever_waits() -> None:
    """A pause ends when somebody comes after nobody had, and not at each further page."""
    seconds = 0.0
    visits = Visits(clock=lambda: seconds)
    pause = asyncio.create_task(visits.pause(3600))
    await asyncio.sleep(0)
    assert not visits.watched
    visits.note()
    await asyncio.wait_for(pause, 30)
    assert visits.watched
    pause = asyncio.create_task(visits.pause(3600))
    await asyncio.sleep(0)
    visits.note()
    await asyncio.sleep(0)
    assert not pause.done()
    seconds = WATCHED_SECONDS + 1
    assert not visits.watched
    visits.note()
    await asyncio.wait_for(pause, 30)
