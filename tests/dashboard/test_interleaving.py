"""Pages, tables and the verdict's address for an interleaving: sound, in words, and about versions."""

import csv
import dataclasses
import io

import pytest
from abfleet_analysis.report.markdown import markdown
from abfleet_analysis.report.report import ExperimentReport, Report
from abfleet_analysis.report.run_state import RunState, State
from abfleet_dashboard import csv_tables
from abfleet_dashboard.pages import experiment_page, overview_page, report_file
from abfleet_dashboard.situation import Situation
from abfleet_dashboard.verdict_api import verdict_of

from tests.dashboard.html_check import faults, read
from tests.dashboard.made import START, made_interleaving, made_report, made_times

NAME = "ranking-duel"


def report_of(*made: ExperimentReport) -> Report:
    """A report of some interleavings beside an experiment of groups."""
    first = made_report()
    return dataclasses.replace(first, experiments=(*first.experiments, *made))


def situation(report: Report) -> Situation:
    """The newest report, just made."""
    now = made_times(28)[-1]
    return Situation(now=now, report=report, made_at=now)


def kinds() -> list[ExperimentReport]:
    """One that prefers, one that does not, one that is halted, one that has ended, and one on its first day."""
    even = made_interleaving("interleaving", 1, "even")
    return [
        made_interleaving(),
        even,
        dataclasses.replace(even, name="halted", run_state=RunState(State.HALTED, START)),
        dataclasses.replace(made_interleaving(), name="ended", run_state=RunState(State.ENDED, START, "v1.3.0-beta")),
    ]


@pytest.mark.parametrize("one", kinds(), ids=lambda one: one.name)
def test_every_page_is_sound(one: ExperimentReport) -> None:
    """The page, the file and the list of experiments, whatever the verdict and the state."""
    report = report_of(one)
    for page in (experiment_page(situation(report), one.name), overview_page(situation(report))):
        assert faults(page) == []
    assert faults(report_file(report), self_contained=True) == []
    assert markdown(report)


def test_the_page_says_what_users_prefer() -> None:
    """Headline, answers, table and commands name versions; nothing is said of groups and control."""
    text = read(experiment_page(situation(report_of(made_interleaving())), NAME)).text
    for part in (
        "Users prefer v1.3.0-beta: ",
        "an A/B test before everyone gets it: a preference says nothing of these.",
        "its items are clicked by more users than those of v1.2.3",
        "in at most 5 % of all experiments, at any number of looks",
        "abfleet conclude ranking-duel --winner v1.3.0-beta",
        "Interleaved",
        "An A/B test of the two would need some ",
    ):
        assert part in text
    for part in ("against control", "no group to compare", "Sizes of the groups", "Primary metric", "without details"):
        assert part not in text


def test_the_list_of_experiments_has_it() -> None:
    """With its verdict, the version, the share of users and the interval of all looks."""
    text = read(overview_page(situation(report_of(made_interleaving())))).text
    assert "Preferred" in text
    assert "prefer v1.3.0-beta" in text


def test_its_tables_for_download() -> None:
    """The path of the preference, the verdicts with their version, and the row among all experiments."""
    report = report_of(made_interleaving())

    def rows(text: str) -> list[list[str]]:
        return list(csv.reader(io.StringIO(text, newline="")))

    head, *path = rows(csv_tables.experiment_table(report, NAME, "preference-over-time"))
    assert head == ["look", "value", "sequential_interval_low", "sequential_interval_high"]
    assert len(path) == 28
    head, *verdicts = rows(csv_tables.experiment_table(report, NAME, "verdicts"))
    assert dict(zip(head, verdicts[-1], strict=True)) == {
        "look": "28",
        "verdict": "prefer",
        "group": "",
        "version": "v1.3.0-beta",
    }
    head, *every = rows(csv_tables.overview_table(report))
    assert dict(zip(head, every[-1], strict=True))["version"] == "v1.3.0-beta"


def test_a_controller_is_told_the_version() -> None:
    """A preference stops no rollout, and `version` says which it is."""
    document = verdict_of(situation(report_of(made_interleaving())), NAME).document
    assert (document["verdict"], document["version"], document["group"]) == ("prefer", "v1.3.0-beta", None)
    assert document["go_on"]
