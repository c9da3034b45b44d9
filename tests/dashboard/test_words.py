"""Sentences of a page: no two contradict each other, and each says what its numbers are of."""

import dataclasses
import math
import re
from typing import Any

import pytest
from abfleet_analysis.decision.evidence import Cap
from abfleet_analysis.decision.metrics import MetricSource
from abfleet_analysis.decision.verdicts import Verdict
from abfleet_analysis.report.render import adding_up, expected_texts
from abfleet_analysis.report.report import ExperimentReport
from abfleet_analysis.report.run_state import RunState, State
from abfleet_dashboard.pages import experiment_page
from abfleet_dashboard.situation import Situation
from abfleet_dashboard.views.breakdown_view import Dimension, dimensions
from abfleet_dashboard.views.experiment_view import experiment_view
from abfleet_dashboard.views.metric_view import metric_tables
from abfleet_dashboard.views.overview_view import overview_row
from abfleet_dashboard.views.recommended_view import recommended_view
from abfleet_dashboard.views.words import answers, days_left
from abfleet_statistics.effects import Estimator
from hypothesis import given
from hypothesis import strategies as st

from tests.analysis.log_lines import START
from tests.dashboard.html_check import read
from tests.dashboard.made import made_interleaving, made_report


def made() -> ExperimentReport:
    """Three groups; the second ships."""
    return made_report().experiments[0]


def with_verdicts(overall: Verdict, *verdicts: Verdict) -> ExperimentReport:
    """The report with these verdicts, overall and of each treatment; the first treatment decides."""
    report = made()
    groups = tuple(
        dataclasses.replace(group, verdict=verdict)
        for group, verdict in zip(report.decision.groups, verdicts, strict=True)
    )
    decision = dataclasses.replace(report.decision, verdict=overall, group=groups[0].group, groups=groups)
    return dataclasses.replace(report, decision=decision)


def with_state(report: ExperimentReport, state: State) -> ExperimentReport:
    """The same report in another state."""
    return dataclasses.replace(report, run_state=RunState(state, START))


def plain(text: str) -> str:
    """With plain spaces."""
    return text.replace("\xa0", " ")


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (Verdict.SHIP, "The group canary has no verdict yet; ending the experiment ends it too."),
        (Verdict.ROLL_BACK, "The group canary can keep running."),
    ],
)
def test_what_becomes_of_the_other_groups(verdict: Verdict, said: str) -> None:
    """The command that ships a version ends the experiment, so that nothing can keep running beside it."""
    assert answers(with_verdicts(verdict, verdict, Verdict.KEEP_RUNNING)).todo.endswith(f" {said}")


def test_who_is_sure_of_whom() -> None:
    """With two treatments the interval names its group; with one it need not."""
    report = made()
    assert any("for the change of conversion rate in experiment is" in text for text in answers(report).sure)
    decision = dataclasses.replace(report.decision, groups=report.decision.groups[:1])
    alone = answers(dataclasses.replace(report, decision=decision)).sure
    assert any("for the change of conversion rate is" in text for text in alone)


def test_sentences_of_an_ended_experiment_do_not_wait() -> None:
    """Neither who wins nor how sure that is says yet."""
    report = with_verdicts(Verdict.KEEP_RUNNING, Verdict.KEEP_RUNNING, Verdict.KEEP_RUNNING)
    first, second = report.decision.groups
    primary = dataclasses.replace(first.metrics[0], z=0.0, boundary=3.0)
    groups = (dataclasses.replace(first, metrics=(primary, *first.metrics[1:])), second)
    report = dataclasses.replace(report, decision=dataclasses.replace(report.decision, groups=groups))
    assert answers(report).winner.startswith("Not decided yet. Group experiment (")
    assert answers(with_state(report, State.ENDED)).winner.startswith("Not decided. Group experiment (")


@pytest.mark.parametrize("verdict", [Verdict.INCONCLUSIVE, Verdict.NO_PREFERENCE])
def test_a_time_that_is_over_without_a_decision_is_not_decided_later(verdict: Verdict) -> None:
    """Beside it stands that no version wins, and not that something is decided."""
    report = made() if verdict is Verdict.INCONCLUSIVE else made_interleaving()
    decision = dataclasses.replace(report.decision, verdict=verdict, version=None)
    report = dataclasses.replace(report, decision=decision)
    assert days_left(report) == "over"
    row = overview_row(report)
    assert (row.winner, row.days_left) == ("none", "over")


def test_capped_values_are_said_to_count_as_the_cap() -> None:
    """A limit has a number, and so has what counts in its place."""
    report = made()
    first, *others = report.decision.groups
    metrics = (dataclasses.replace(first.metrics[-1], cap=Cap(19.95)), *first.metrics[:-1])
    groups = (dataclasses.replace(first, metrics=metrics), *others)
    table = metric_tables(dataclasses.replace(report, decision=dataclasses.replace(report.decision, groups=groups)))[0]
    assert re.search(r"values above (\S+.*) count as \1$", plain(table.rows[0].better))


# --- breakdowns -------------------------------------------------------------------------------------------------------


def broken_down(*, compared: bool, estimator: Estimator = Estimator.MEAN) -> tuple[Dimension, ...]:
    """The breakdowns of the primary metric; each value of three users is made of 12 in the group, 40 in control."""
    report = made()
    assert report.details is not None
    metrics = tuple(
        dataclasses.replace(one, rule=dataclasses.replace(one.rule, estimator=estimator, source=MetricSource.CLICKS))
        for one in report.gathered.evidence.metrics
    )
    nothing: dict[str, Any] = {
        "relative_difference": math.nan,
        "interval": (math.nan, math.nan),
        "adjusted_p": math.nan,
    }
    parts = tuple(
        dataclasses.replace(
            one,
            slices=tuple(
                dataclasses.replace(part, users=3, divisor=12.0, baseline_divisor=40.0, **({} if compared else nothing))
                for part in one.slices
            ),
        )
        for one in report.details.breakdowns
    )
    evidence = dataclasses.replace(report.gathered.evidence, metrics=metrics)
    gathered = dataclasses.replace(report.gathered, evidence=evidence)
    details = dataclasses.replace(report.details, breakdowns=parts)
    return dimensions(dataclasses.replace(report, gathered=gathered, details=details), "key")


def test_a_rate_has_what_it_is_made_of_beside_it() -> None:
    """Few lists may be of many users, and of few users many lists; where users are what counts, they are enough."""
    country, day, served = (one.first for one in broken_down(compared=True, estimator=Estimator.RATIO))
    assert {row.made_of for row in (*country.rows, *day.rows)} == {"lists: 12 / 40"}
    assert {row.made_of for row in served.rows} == {"lists: 12"}
    assert {row.made_of for one in broken_down(compared=True) for row in one.first.rows} == {""}


def test_only_a_table_with_p_values_says_that_they_are_adjusted() -> None:
    """And that its intervals are not; control is in a table that compares nothing, in a row of its own."""
    country, day, _ = (one.first for one in broken_down(compared=True))
    assert country.first_column == "Country"
    for view in (country, day):
        assert "intervals are each for a single look, and are not adjusted" in view.note
        assert "p-values are adjusted for" in view.note
        assert {row.group for row in view.rows} <= {"experiment", "canary"}
    country, day, _ = (one.first for one in broken_down(compared=False))
    for view in (country, day):
        assert "adjusted" not in view.note
    assert [(row.group, row.own_users) for row in country.rows[:3]] == [
        ("control", "14,730"),
        ("experiment", "3"),
        ("canary", "3"),
    ]


# --- an experiment that has ended -------------------------------------------------------------------------------------


def test_nothing_of_an_ended_experiment_is_said_to_come() -> None:
    """In its metrics, its shares, its commands and its changes, whose newest one is the end."""
    running = made()
    first, *others = running.decision.groups
    nothing = (math.nan, math.nan)
    vague = dataclasses.replace(
        first.metrics[0],
        interval=(-0.1, 0.1),
        relative_interval=(-0.1, 0.1),
        sequential_interval=nothing,
        relative_sequential_interval=nothing,
    )
    groups = (dataclasses.replace(first, metrics=(vague, *first.metrics[1:])), *others)
    running = dataclasses.replace(running, decision=dataclasses.replace(running.decision, groups=groups))
    found = {state: experiment_view(with_state(running, state), None, "key") for state in State}
    rows = {state: view.tables[0].rows[0] for state, view in found.items()}
    assert (rows[State.RUNNING].interval, rows[State.RUNNING].reading) == (
        "none yet: too few events",
        "too early to say",
    )
    assert (rows[State.ENDED].interval, rows[State.ENDED].reading) == ("none: too few events", "too few events")
    assert found[State.RUNNING].setup.newest == "in force"
    assert plain(found[State.ENDED].setup.newest) == "until 1 Nov 2026, 00:00 UTC"
    assert any(change.text == "the experiment ended" for change in found[State.ENDED].changes)
    assert not any("ended" in change.text for change in found[State.RUNNING].changes)
    assert any(command.changes for command in found[State.RUNNING].commands)
    assert not any(command.changes for command in found[State.ENDED].commands)
    values = found[State.ENDED].values
    assert values is not None
    assert values.note.endswith("the last point is the end of the log.")


def test_the_note_about_commands_stands_beside_commands_that_change_something() -> None:
    """An experiment that has ended can only be printed."""
    said = {}
    for state in (State.RUNNING, State.ENDED):
        report = made_report()
        report = dataclasses.replace(report, experiments=(with_state(made(), state),))
        assert report.as_of is not None
        situation = Situation(now=report.as_of, report=report, made_at=report.as_of)
        said[state] = "asks before it writes" in read(experiment_page(situation, "homepage-ranking")).text
    assert said == {State.RUNNING: True, State.ENDED: False}


# --- numbers that belong together -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "texts"),
    [
        ([29.4, 8.4, 4.2], ("29.4", "8.4", "4.2", "42.0")),
        ([14.1 + 1 / 30] * 3, ("14.2", "14.1", "14.1", "42.4")),
        ([17100.0, 6412.5, 6412.5], ("17,100.0", "6,412.5", "6,412.5", "29,925.0")),
        ([30.0, 12.0], ("30", "12", "42")),
    ],
)
def test_expected_users_add_up(expected: list[float], texts: tuple[str, ...]) -> None:
    """With a decimal where one of them is not whole."""
    assert expected_texts(expected) == texts


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=6).filter(any))
def test_shares_add_up(users: list[int]) -> None:
    """To 100.0 %, each within one unit of what it is."""
    parts = [one / sum(users) for one in users]
    shown = adding_up(parts, 3)
    assert sum(shown) == pytest.approx(1, abs=1e-9)
    assert all(abs(one - part) < 0.001 + 1e-9 for one, part in zip(shown, parts, strict=True))


def test_a_metric_says_what_it_is_of() -> None:
    """The errors in the table of groups are of calls, and the rate is of users."""
    better = {row.key: row.better for row in metric_tables(made())[0].rows}
    assert better["error_rate"] == "share of users with an error, lower is better"
    assert better["conversion_rate"] == "share of users, higher is better"


def test_a_standard_error_has_no_name_of_the_code() -> None:
    """And a catalogue that nobody knows is not measured, as its neighbours are not."""
    report = made()
    assert report.details is not None
    found = report.details.recommended
    versions = (dataclasses.replace(found.versions[-1], offline=(("recall@10_se", 0.01),)),)
    details = dataclasses.replace(report.details, recommended=dataclasses.replace(found, versions=versions))
    view = recommended_view(dataclasses.replace(report, details=details))
    assert view is not None
    assert view.offline_names == ("standard error of recall@10",)
    assert view.rows[0].coverage == "not measured"
