"""Calls of ModelInfer in the analysis: lists where their items are logged, and calls like any other for all else."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from abfleet_log.files import WriterIdentity
from abfleet_log.tools.compact import compact

from tests.analysis.log_lines import DAY, START, LogLines, file_text, metric, only, report_of

GROUPS = ("control", "treatment")
TENSORS = {"method": "infer", "items": None, "history_length": None}


def quality(report: dict[str, Any]) -> dict[str, Any]:
    return dict(only(report)["data_quality"])


def clicked(log: LogLines, users: int = 100, **changed: Any) -> None:
    """A call for each user of each group; after one in ten there is a click, and a purchase."""
    for group in GROUPS:
        for number in range(users):
            user = f"{group}-{number}"
            request = log.exposure(user, group, **changed)
            if number % 10 == 0:
                log.outcome("click", user, request, item_id=1)
                log.outcome("conversion", user, request)
            log.outcome("purchase", user, request, value=5.0, currency="EUR")


@pytest.mark.parametrize("by_request", [True, False])
def test_a_list_counts_where_its_items_are_known(tmp_path: Path, *, by_request: bool) -> None:
    """`ctr` divides by such lists alone: a call without items is no list, and a click that names it is on none."""
    log = LogLines()
    clicked(log, method="infer", history_length=None)
    for group in GROUPS:
        for number in range(100):
            request = log.exposure(f"{group}-{number}", group, START + timedelta(minutes=1), **TENSORS)
            log.outcome("click", f"{group}-{number}" if by_request else None, request, item_id=1)
    found = metric(report_of(log.write(tmp_path), file_text()), "ctr")
    assert (found["baseline_value"], found["value"]) == (pytest.approx(0.1), pytest.approx(0.1))


def test_all_else_counts_without_items(tmp_path: Path) -> None:
    """Revenue and errors know the user and the call, and ask for no list."""
    with_items, without = LogLines(), LogLines()
    clicked(with_items)
    clicked(without, **TENSORS)
    reports = []
    for name, log in (("with", with_items), ("without", without)):
        (tmp_path / name).mkdir()
        for group in GROUPS:
            log.exposure(f"{group}-1", group, START + DAY, status="UNAVAILABLE", served_version=None)
        text = file_text("conversion_rate", ["error_rate"], ["revenue_per_user"])
        reports.append(report_of(log.write(tmp_path / name), text))
    for name in ("conversion_rate", "revenue_per_user", "error_rate"):
        first, second = (metric(report, name) for report in reports)
        assert first == second
        assert first["value"] > 0


def test_a_named_version_is_left_out_and_counted(tmp_path: Path) -> None:
    """Nothing was assigned: no list, no user, no history of one; the report says how many there are."""
    plain, pinned = LogLines(), LogLines()
    for log in (plain, pinned):
        clicked(log)
    for number in range(7):
        at = START - DAY
        request = pinned.exposure(
            f"control-{number}", None, at, reason="pinned", model_version="v2", method="infer", history_length=None
        )
        pinned.outcome("click", f"control-{number}", request, at, item_id=1)
    for name, log in (("plain", plain), ("pinned", pinned)):
        (tmp_path / name).mkdir()
        log.write(tmp_path / name)
    first, second = (report_of(tmp_path / name, file_text()) for name in ("plain", "pinned"))
    assert (quality(first)["pinned"], quality(second)["pinned"]) == (0, 7)
    assert metric(first, "ctr") == metric(second, "ctr")


def test_compacted_and_mixed_logs_say_the_same(tmp_path: Path) -> None:
    """Parquet knows the method; a log that is half compacted has files with and without it."""
    log = LogLines()
    clicked(log)
    for group in GROUPS:
        for number in range(100):
            log.exposure(f"{group}-{number}", group, START + timedelta(minutes=1), **TENSORS, outputs={"score": [0.5]})
    folder = log.write(tmp_path, "decisions-host-20261101T000000-999999999.jsonl")
    before = metric(report_of(folder, file_text()), "ctr")
    assert before["value"] == pytest.approx(0.1)
    compact(folder, folder / "compacted", WriterIdentity("host", 1))
    assert not list(folder.glob("*.jsonl"))
    assert metric(report_of(folder, file_text()), "ctr") == before
    later = LogLines()
    for group in GROUPS:
        for number in range(100, 200):
            later.exposure(f"{group}-{number}", group, START + timedelta(minutes=2))
    later.write(folder)
    assert metric(report_of(folder, file_text()), "ctr")["value"] == pytest.approx(0.05)
