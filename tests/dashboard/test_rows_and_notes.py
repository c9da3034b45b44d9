"""Rows and notes of the pages that readers once stumbled over."""

import dataclasses

from abfleet_analysis.decision.verdicts import Verdict
from abfleet_analysis.report.report import ExperimentReport
from abfleet_analysis.report.run_state import RunState, State
from abfleet_dashboard.views.metric_view import metric_tables
from abfleet_dashboard.views.setup_view import setup_view

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


def test_no_shares_are_in_force_after_the_end() -> None:
    """The last allocation is over when its experiment is."""
    report = decided(Verdict.SHIP)
    assert not setup_view(report, None).over
    assert setup_view(dataclasses.replace(report, run_state=RunState(State.ENDED)), None).over


def test_a_share_of_users_is_called_that() -> None:
    """35 errors of 8,306 calls are not the 0.65 % of users who met one."""
    rows = {row.key: row for table in metric_tables(made_report().experiments[0]) for row in table.rows}
    assert rows["error_rate"].better.startswith("share of users; ")
