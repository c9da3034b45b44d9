"""What impressions change: what clicks are divided by, list by list, and nothing of what was said before they came."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from abfleet_analysis.analyse import analyse
from abfleet_analysis.report.markdown import markdown
from abfleet_analysis.report.render import coverage_text
from abfleet_dashboard.views.data_words import health
from abfleet_experiments.file.load import load_text

from tests.analysis.log_lines import DAY, START, LogLines, file_text, metric, only, report_of

GROUPS = ("control", "treatment")


def quality(report: dict[str, Any]) -> dict[str, Any]:
    return dict(only(report)["data_quality"])


def clicked_lists(log: LogLines, users: int = 100, at: Any = START) -> dict[str, list[str]]:
    """One list for each user of each group; one in ten is clicked. The requests, by group."""
    requests: dict[str, list[str]] = {group: [] for group in GROUPS}
    for group in GROUPS:
        for number in range(users):
            user = f"{group}-{number}-{len(log.lines)}"
            requests[group].append(log.exposure(user, group, at))
            if number % 10 == 0:
                log.outcome("click", user, requests[group][-1], at, item_id=1)
    return requests


def test_one_impression_changes_one_list(tmp_path: Path) -> None:
    """It is no denominator for everybody, whichever groups it is in."""
    log = LogLines()
    for group, requests in clicked_lists(log).items():
        log.outcome("impression", None, requests[1], item_id=1)
        if group == "treatment":
            log.outcome("impression", None, requests[1], item_id=2)
    report = report_of(log.write(tmp_path), file_text())
    found = metric(report, "ctr")
    assert (found["baseline_value"], found["value"]) == (pytest.approx(10 / 100), pytest.approx(10 / 101))
    assert quality(report)["impression_coverage"] == {"control": 0.01, "treatment": 0.01}


def test_a_list_counts_as_often_as_different_items_of_it_were_seen(tmp_path: Path) -> None:
    """Repeats, an impression of the list alone, other items, lists that were not answered, and robots add nothing."""
    log = LogLines()
    for group in GROUPS:
        for number in range(3):
            user = f"{group}-{number}"
            request = log.exposure(user, group)
            log.outcome("click", user, request, item_id=1)
            log.outcome("impression", user, request)
            for item in (1, 2, 2, 1):
                log.outcome("impression", user, request, item_id=item)
            log.outcome("impression", user, request, item_id=3, synthetic=True)
            log.outcome("impression", user, request, item_id=99)
            log.outcome("impression", "somebody-else", request, item_id=3)
            failed = log.exposure(user, group, status="UNAVAILABLE", items=[], served_version=None)
            log.outcome("impression", user, failed)
            robot = log.exposure(user, group, synthetic=True)
            log.outcome("impression", user, robot, item_id=1)
    report = report_of(log.write(tmp_path), file_text())
    found = metric(report, "ctr")
    assert (found["value"], found["baseline_value"]) == (0.5, 0.5)
    assert quality(report)["impressions_of_no_list"] == 2 * 3 * 2
    assert quality(report)["impression_coverage"] == {"control": 1.0, "treatment": 1.0}


def test_an_impression_without_a_request_belongs_to_no_list(tmp_path: Path) -> None:
    """Nobody can say which list was seen, so it is left out, and counted."""
    log = LogLines()
    clicked_lists(log)
    for _ in range(7):
        log.outcome("impression", log.lines[0]["user_id"], at=START + timedelta(minutes=1), item_id=1)
    report = report_of(log.write(tmp_path), file_text())
    assert metric(report, "ctr")["value"] == pytest.approx(0.1)
    assert quality(report)["impressions_of_no_list"] == 7
    assert quality(report)["impression_coverage"] is None


@pytest.mark.parametrize(
    ("seen", "items", "refused"),
    [
        ((0.0, 1.0), (1, 2, 3), True),
        ((0.9, 0.6), (1, 2, 3), True),
        ((0.6, 0.6), (1, 2, 3), False),
        ((0.0, 1.0), (None,), False),  # the list alone: it counts once either way
        ((0.00, 0.01), (1, 2, 3), False),  # too few to say so
    ],
)
def test_another_coverage_in_one_group_is_a_fault_where_it_changes_ctr(
    tmp_path: Path, seen: tuple[float, float], items: tuple[int | None, ...], refused: bool
) -> None:
    """Clicks would be divided by lists in one group, and by items in the other."""
    log = LogLines()
    for group, part in zip(GROUPS, seen, strict=True):
        for number, request in enumerate(clicked_lists(log, 300)[group]):
            for item in items:
                if number * 37 % 300 < part * 300:
                    log.outcome("impression", None, request, item_id=item)
    report = report_of(log.write(tmp_path), file_text())
    reasons = " ".join(only(report)["decision"]["reasons"])
    assert (only(report)["decision"]["verdict"] == "refuse") is refused, reasons
    assert ("have an impression" in reasons) is refused


def test_impressions_that_begin_later_change_no_earlier_look(tmp_path: Path) -> None:
    """A client that sends them from day 4 on leaves the looks before as the reports of those days had them."""
    log = LogLines()
    for day in range(8):
        for requests in clicked_lists(log, 40, START + DAY * day + timedelta(hours=1)).values():
            for item in (1, 2, 3) if day >= 4 else ():
                for request in requests[::2]:
                    log.outcome("impression", None, request, START + DAY * (day + 1.2), item_id=item)
    log.write(tmp_path)
    config = load_text(file_text())

    def path(days: float | None) -> list[float]:
        as_of = None if days is None else START + DAY * days
        details = analyse([tmp_path], config, as_of=as_of, detailed=True).experiments[0].details
        assert details is not None
        (found,) = details.paths.metrics
        return list(found.better_at[:-1])

    newest = path(None)
    assert len(newest) == 8
    for days in (2, 4, 5, 8):
        assert path(days) == pytest.approx(newest[:days], nan_ok=True)


def test_coverage_is_shown_in_every_form(tmp_path: Path) -> None:
    """As text, as Markdown and on the pages; nothing where there is no impression."""
    log = LogLines()
    requests = clicked_lists(log)
    report = analyse([log.write(tmp_path)], load_text(file_text())).experiments[0]
    assert coverage_text(report) == ""
    assert not any("impression" in finding.text for finding in health(report).findings)
    for part, group in zip((2, 4), GROUPS, strict=True):
        for request in requests[group][::part]:
            log.outcome("impression", None, request)
    log.outcome("impression", log.lines[0]["user_id"])
    whole = analyse([log.write(tmp_path)], load_text(file_text()))
    text = "lists with an impression: control 50.0%, treatment 25.0%; ctr counts each other list once"
    assert coverage_text(whole.experiments[0]) == text
    assert "- lists with an impression" in markdown(whole)
    said = [finding.text for finding in health(whole.experiments[0]).findings]
    assert f"L{text[1:]}." in said
    assert any("impression without a request id" in one for one in said)
