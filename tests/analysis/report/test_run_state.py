"""Whether an experiment runs, is halted or has ended, since when, and who has won; on every surface."""

import io
import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from abfleet_analysis.analyse import analyse
from abfleet_analysis.report.markdown import markdown
from abfleet_analysis.report.render import rendered
from abfleet_analysis.report.report import Report
from abfleet_dashboard.pages import overview_page, report_file
from abfleet_dashboard.situation import Situation
from abfleet_experiments.config import Config
from abfleet_experiments.file.load import load_text
from abfleet_log.files import WriterIdentity
from abfleet_log.tools.compact import compact
from rich.console import Console

from tests.analysis.log_lines import DAY, START, LogLines, file_text
from tests.dashboard.html_check import read

FILE = file_text("conversion_rate")
HALTED = FILE.replace("  - name: test\n", "  - name: test\n    enabled: false\n")
GONE = FILE[: FILE.index("experiments:")] + "experiments: []\n"
ENDED = GONE + "concluded:\n  - {experiment: test, winner: treatment, at: 2026-11-03T09:00:00Z}\n"
HOUR = timedelta(hours=1)


def a_log(*, halts: tuple[tuple[float, float], ...] = (), conclusions: bool = False) -> LogLines:
    """Two days of calls, with lines of two routers about the allocation; halts: day and traffic."""
    log = LogLines()
    for day, traffic in ((0.0, 100.0), (0.1, 100.0), *halts):
        for router, later in (("router-1", 0), ("router-2", 1)):
            at = START + DAY * day + timedelta(seconds=later)
            log.allocation("000000000001", {"control": 50, "treatment": 50}, at, traffic=traffic, router=router)
    for number in range(40):
        log.exposure(f"u{number}", ("control", "treatment")[number % 2], START + HOUR * (number + 1))
    if conclusions:
        for day in (4, 5):
            log.conclusion("treatment", "2026-11-03T09:00:00.000000Z", START + DAY * day)
    return log


def state(report: Report) -> tuple[object, object, object]:
    """Of the only experiment, as JSON has it."""
    (experiment,) = json.loads(json.dumps(report.as_dict()))["experiments"]
    return experiment["state"], experiment["since"], experiment["winner"]


@pytest.mark.parametrize(
    ("text", "halts", "expected"),
    [
        (FILE, (), ("running", "2026-11-01T00:00:00Z", None)),
        (HALTED, ((1.5, 0.0),), ("halted", "2026-11-02T12:00:00Z", None)),
        (HALTED, ((0.5, 0.0), (1.0, 100.0), (1.5, 0.0), (2.0, 0.0)), ("halted", "2026-11-02T12:00:00Z", None)),
        (FILE, ((0.5, 0.0), (1.0, 100.0)), ("running", "2026-11-02T00:00:00Z", None)),
        (HALTED, (), ("halted", None, None)),
        (FILE, ((1.5, 0.0),), ("running", None, None)),
        (ENDED, (), ("ended", "2026-11-03T09:00:00Z", "treatment")),
        (GONE, (), ("ended", "2026-11-02T16:00:00Z", None)),
    ],
)
def test_state_and_since(
    tmp_path: Path, text: str, halts: tuple[tuple[float, float], ...], expected: tuple[object, ...]
) -> None:
    """The file says which; the newest run of allocations that agree says since when, and none that do not."""
    assert state(analyse([a_log(halts=halts).write(tmp_path)], load_text(text))) == expected


def test_a_log_without_allocations_dates_by_calls(tmp_path: Path) -> None:
    """An older log has the first call alone."""
    log = LogLines()
    for number in range(10):
        log.exposure(f"u{number}", ("control", "treatment")[number % 2], START + HOUR * (number + 1))
    report = analyse([log.write(tmp_path)], load_text(FILE))
    assert state(report) == ("running", "2026-11-01T01:00:00Z", None)
    assert state(analyse([tmp_path], load_text(HALTED))) == ("halted", None, None)


@pytest.mark.parametrize("compacted", [False, True])
def test_the_log_knows_winners_that_the_file_no_longer_names(tmp_path: Path, compacted: bool) -> None:
    """A conclusion in the log counts, from lines and from Parquet alike; the file's own goes first."""
    folder = a_log(halts=((1.5, 0.0),), conclusions=True).write(tmp_path)
    if compacted:
        out = tmp_path / "parquet"
        compact(folder, out, WriterIdentity("other", 1), wall=lambda: datetime(2100, 1, 1).timestamp())  # noqa: DTZ001
        folder = out
    assert state(analyse([folder], load_text(GONE))) == ("ended", "2026-11-03T09:00:00Z", "treatment")
    report = analyse([folder], load_text(FILE))
    assert report.concluded == (), "the name runs again"
    other = ENDED.replace("winner: treatment", "winner: control")
    assert state(analyse([folder], load_text(other))) == ("ended", "2026-11-03T09:00:00Z", "control")
    assert state(analyse([folder], load_text(HALTED)))[:2] == ("halted", "2026-11-02T12:00:00Z")


def surfaces(report: Report, config: Config) -> dict[str, str]:
    """The report as each shows it."""
    shown = io.StringIO()
    Console(file=shown, width=80).print(rendered(report))
    assert report.as_of is not None
    situation = Situation(now=report.as_of, report=report, config=config, made_at=report.as_of)
    return {
        "terminal": " ".join(shown.getvalue().split()),
        "markdown": markdown(report).replace("\\", ""),
        "file": read(report_file(report, config=config)).text,
        "dashboard": read(overview_page(situation)).text,
    }


def test_groups_keep_their_order_when_the_experiment_leaves_the_file(tmp_path: Path) -> None:
    """That of its allocations, and not that of the alphabet, so that each keeps its colour."""
    log = LogLines()
    log.allocation("000000000001", {"treatment": 50, "control": 30, "another": 20}, START)
    for number, group in enumerate(("another", "control", "treatment") * 10):
        log.exposure(f"u{number}", group, START + HOUR * (number + 1))
    report = analyse([log.write(tmp_path)], load_text(ENDED), only="test")
    assert report.experiments[0].gathered.evidence.groups == ("control", "treatment", "another")


def test_ended_ones_stand_in_a_section_of_their_own(tmp_path: Path) -> None:
    """With their winner, also those that the log knows nothing of; what runs stands before them."""
    text = FILE.replace("name: test", "name: next") + ENDED[ENDED.index("concluded:") :]
    text += "  - {experiment: older, winner: control, at: 2026-10-01T00:00:00Z}\n"
    log = a_log()
    for number in range(20):
        log.exposure(f"n{number}", ("control", "treatment")[number % 2], START + DAY * 3, experiment="next")
    config = load_text(text)
    report = analyse([log.write(tmp_path)], config)
    answer = report.as_dict()
    assert answer["concluded"] == [
        {"name": "older", "winner": "control", "at": "2026-10-01T00:00:00Z"},
        {"name": "test", "winner": "treatment", "at": "2026-11-03T09:00:00Z"},
    ]
    for name, said in surfaces(report, config).items():
        before, _, after = said.partition("Ended experiments")
        assert "next" in before, name
        assert "older" not in before, name
        for word in ("older", "control", "test", "treatment"):
            assert word in after, (name, word)


def test_one_that_has_ended_is_shown_whole_where_it_is_asked_for(tmp_path: Path) -> None:
    """Alone it has its tables; and what runs alone has the ended ones below it."""
    config = load_text(ENDED)
    said = surfaces(analyse([a_log().write(tmp_path)], config, only="test"), config)
    assert "95 %, always" in said["terminal"]
    assert "ended 2026-11-03T09:00:00Z, winner treatment" in said["terminal"]
    assert "Ended experiments" not in said["terminal"]
    config = load_text(FILE + ENDED[ENDED.index("concluded:") :].replace("test", "older"))
    for name, text in surfaces(analyse([tmp_path], config), config).items():
        assert "older" in text.partition("Ended experiments")[2], name


@pytest.mark.parametrize(("text", "word"), [(FILE, "running since"), (HALTED, "halted since")])
def test_every_surface_says_the_state(tmp_path: Path, text: str, word: str) -> None:
    """Beside the verdict; and what is halted has no time left and nothing to wait for."""
    halts = () if text == FILE else ((1.5, 0.0),)
    config = load_text(text)
    report = analyse([a_log(halts=halts).write(tmp_path)], config)
    for name, said in surfaces(report, config).items():
        assert word in said, name
        assert ("next look" in said.lower()) == (text == FILE and name != "dashboard"), name
        assert (" left at most" in said) == (text == FILE and name != "dashboard"), name
