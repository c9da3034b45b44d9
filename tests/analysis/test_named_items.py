"""Items that have names in the analysis: they count as those that have numbers, alone, compacted and beside them."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from abfleet_analysis.analyse import analyse
from abfleet_experiments.file.load import load_text
from abfleet_log.files import WriterIdentity
from abfleet_log.tools.compact import compact

from tests.analysis.log_lines import START, LogLines, file_text, metric, only, report_of

GROUPS = ("control", "treatment")
NAMES = {1: "B00-café", 2: "SKU 2", 3: "3"}
LATER = START + timedelta(minutes=1)
OLD = "decisions-host-20261101T000000-999999998.jsonl"


def seen(log: LogLines, *, named: bool, prefix: str = "") -> None:
    """A call for each of 100 users of each group. Some click an item twice, some one that is not on the list, some see
    two items of it; some outcomes have no request, and one comes again with another item."""

    def item(number: int) -> dict[str, Any]:
        return {"item_id": None, "item_name": NAMES.get(number, "B99")} if named else {"item_id": number}

    items: dict[str, Any] = {"items": None, "item_names": [*NAMES.values()]} if named else {}
    for group in GROUPS:
        for number in range(100):
            user = f"{prefix}{group}-{number}"
            request = log.exposure(user, group, request_id=f"{user}/1", **items)
            if number % 10 == 0:
                for clicked in (1, 1, 2, 99):
                    log.outcome("click", user, request, LATER, **item(clicked))
            if number % 10 == 1:
                log.outcome("click", None, request, LATER, **item(3))
            if number % 10 == 2:
                log.outcome("click", user, None, LATER, **item(3))
            if number % 5 == 0:
                for looked_at in (1, 2):
                    log.outcome("impression", user, request, LATER, **item(looked_at))
    again = f"o{len(log.lines)}"
    for place, number in enumerate((1, 1, 2)):
        at = LATER + timedelta(seconds=place)
        log.outcome("click", f"{prefix}control-0", f"{prefix}control-0/1", at, outcome_id=again, **item(number))


def quality(report: dict[str, Any]) -> dict[str, Any]:
    return dict(only(report)["data_quality"])


def test_names_count_as_numbers_do(tmp_path: Path) -> None:
    """Clicks on lists, impressions, repeats and conflicts: every figure is the same, before and after compaction."""
    reports = []
    for kind in ("numbers", "names"):
        folder = tmp_path / kind
        folder.mkdir()
        log = LogLines()
        seen(log, named=kind == "names")
        log.write(folder, OLD)
        reports.append(report_of(folder, file_text(secondary=["conversion_rate"])))
        compact(folder, folder / "compacted", WriterIdentity("host", 1))
        assert not list(folder.glob("*.jsonl"))
        reports.append(report_of(folder, file_text(secondary=["conversion_rate"])))
    for other in reports[1:]:
        assert metric(other, "ctr") == metric(reports[0], "ctr")
        assert quality(other) == quality(reports[0])
    assert metric(reports[0], "ctr")["value"] > 0
    assert quality(reports[0])["conflicting_outcomes"] == 1


def test_old_logs_numbers_and_names_in_one_folder(tmp_path: Path) -> None:
    """Parquet from before items could have names, lines with numbers and lines with names are one log."""
    before = LogLines()
    seen(before, named=False, prefix="a-")
    before.write(tmp_path, OLD)
    compact(tmp_path, tmp_path / "compacted", WriterIdentity("host", 1))
    without_columns(tmp_path / "compacted")
    alone = report_of(tmp_path, file_text())
    for number, named in enumerate((False, True)):
        log = LogLines()
        seen(log, named=named, prefix=f"{number}-")
        log.write(tmp_path, f"decisions-host-20261101T000000-{number + 1}.jsonl")
        for line in log.lines:
            line["outcome_id"] = f"{number}-{line.get('outcome_id')}"
        log.write(tmp_path, f"decisions-host-20261101T000000-{number + 1}.jsonl")
    mixed = report_of(tmp_path, file_text())
    assert metric(mixed, "ctr")["value"] == pytest.approx(metric(alone, "ctr")["value"])
    assert quality(mixed)["conflicting_outcomes"] == 3 * quality(alone)["conflicting_outcomes"]
    compact(tmp_path, tmp_path / "compacted", WriterIdentity("host", 9))
    assert metric(report_of(tmp_path, file_text()), "ctr") == metric(mixed, "ctr")


def without_columns(folder: Path) -> None:
    """Takes the columns of names out of Parquet files, as older ones lack them."""
    import duckdb

    for path in folder.rglob("*.parquet"):
        other = path.with_suffix(".other")
        duckdb.execute(
            f"COPY (SELECT * EXCLUDE (item_names, item_name) FROM read_parquet('{path}', hive_partitioning = false)) "
            f"TO '{other}' (FORMAT parquet)"
        )
        other.replace(path)


@pytest.mark.parametrize("named", [True, False])
def test_a_click_of_the_other_kind_is_on_no_list(tmp_path: Path, *, named: bool) -> None:
    """Number 3 and an item called "3" are two."""
    log = LogLines()
    items: dict[str, Any] = {"items": None, "item_names": ["1", "2", "3"]} if named else {}
    click: dict[str, Any] = {"item_id": 3} if named else {"item_name": "3"}
    for group in GROUPS:
        for number in range(20):
            request = log.exposure(f"{group}-{number}", group, **items)
            log.outcome("click", f"{group}-{number}", request, LATER, **click)
    assert metric(report_of(log.write(tmp_path), file_text()), "ctr")["value"] == 0


def test_the_report_shows_names(tmp_path: Path) -> None:
    """What a version recommended most is shown by name, and two versions with the same items are alike."""
    log = LogLines()
    for group, version in zip(GROUPS, ("v1", "v2"), strict=True):
        for number in range(10):
            named = {"items": None, "item_names": ["a", "b"] if number else ["a"]}
            log.exposure(f"{group}-{number}", group, served_version=version, **named)
    log.exposure("control-0", "control", LATER, served_version="v1", items=[7])
    (report,) = analyse([log.write(tmp_path)], load_text(file_text()), detailed=True).experiments
    assert report.details is not None
    found = report.details.recommended
    assert [one.version for one in found.versions] == ["v1", "v2"]
    assert [item for item, _ in found.versions[0].top] == ["a", "b", 7]
    assert dict(found.versions[1].top) == {"a": 1.0, "b": pytest.approx(0.9)}
    assert found.overlap[0, 1] == pytest.approx(2 / 3)
