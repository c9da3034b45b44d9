"""Sentences and words of the pages that readers once stumbled over."""

import dataclasses

import pytest
from abfleet_analysis.decision.verdicts import Verdict
from abfleet_analysis.report.report import ExperimentReport
from abfleet_analysis.report.run_state import RunState, State
from abfleet_dashboard.numbers import milliseconds
from abfleet_dashboard.views.breakdown_view import dimensions
from abfleet_dashboard.views.metric_view import metric_tables
from abfleet_dashboard.views.overview_view import overview_row
from abfleet_dashboard.views.setup_view import setup_view
from abfleet_dashboard.views.words import todo

from tests.dashboard.made import made_report


def decided(verdict: Verdict, others: Verdict = Verdict.KEEP_RUNNING) -> ExperimentReport:
    """A report whose first treatment has one verdict, and a second one another."""
    report = made_report().experiments[0]
    (first,) = report.decision.groups[:1]
    groups = (
        dataclasses.replace(first, verdict=verdict),
        dataclasses.replace(first, group="second", verdict=others),
    )
    decision = dataclasses.replace(report.decision, verdict=verdict, group=first.group, groups=groups)
    return dataclasses.replace(report, decision=decision, run_state=RunState(State.RUNNING))


def test_who_is_undecided_cannot_go_on_beside_a_winner_for_everyone() -> None:
    """To give one version to all ends the comparison with the others; to take one out does not."""
    assert todo(decided(Verdict.SHIP)).endswith(
        " to everyone. The comparison with second is undecided; ending the experiment ends it."
    )
    assert todo(decided(Verdict.ROLL_BACK)).endswith(". The comparison with second can go on.")
    assert todo(decided(Verdict.SHIP, Verdict.SHIP)).endswith(" to everyone.")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (9.341, "9.34 ms"),
        (9.996, "10.0 ms"),
        (12.26, "12.3 ms"),
        (99.96, "100 ms"),
        (318.4, "318 ms"),
        (1318.4, "1,318 ms"),
    ],
)
def test_a_response_time_has_three_figures(value: float, text: str) -> None:
    """9.34 ms and a rise of 31 % are 12.3 ms, not 12."""
    assert milliseconds(value).replace("\u00a0", " ") == text


@pytest.mark.parametrize(
    ("verdict", "winner"),
    [(Verdict.INCONCLUSIVE, "none"), (Verdict.REFUSE, "unknown"), (Verdict.KEEP_RUNNING, "not decided")],
)
def test_a_decision_that_names_nobody_is_one(verdict: Verdict, winner: str) -> None:
    """An experiment whose time is over is not called undecided."""
    report = decided(verdict, verdict)
    decision = dataclasses.replace(report.decision, group=None)
    assert overview_row(dataclasses.replace(report, decision=decision)).winner == winner


def test_no_shares_are_in_force_after_the_end() -> None:
    """The last allocation is over when its experiment is."""
    report = decided(Verdict.SHIP)
    assert not setup_view(report, None).over
    assert setup_view(dataclasses.replace(report, run_state=RunState(State.ENDED)), None).over


def test_adjusted_p_values_are_spoken_of_where_there_are_some() -> None:
    """And that the intervals beside them are not adjusted; a ratio says what it is of."""
    report = made_report().experiments[0]
    assert report.details is not None
    notes = [dimension.first.note for dimension in dimensions(report, "k")]
    assert any("the intervals, of a single look, are not" in note for note in notes)
    alone = [
        dataclasses.replace(
            one, slices=tuple(dataclasses.replace(part, relative_difference=float("nan")) for part in one.slices)
        )
        for one in report.details.breakdowns
    ]
    bare = dataclasses.replace(report, details=dataclasses.replace(report.details, breakdowns=tuple(alone)))
    assert not any("adjusted" in dimension.first.note for dimension in dimensions(bare, "k"))


def test_a_share_of_users_is_called_that() -> None:
    """35 errors of 8,306 calls are not the 0.65 % of users who met one."""
    rows = {row.key: row for table in metric_tables(made_report().experiments[0]) for row in table.rows}
    assert rows["error_rate"].better.startswith("share of users; ")
