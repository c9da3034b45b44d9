"""Answers in the shadow beside those that users got: which are compared, what is said, and who must not notice."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from abfleet_analysis.shadow.compare import compare_answers, compared_requests
from abfleet_analysis.shadow.words import document, lines
from abfleet_log.files import WriterIdentity
from abfleet_log.tools.compact import compact
from typer.testing import CliRunner

from abfleet.cli import app
from tests.analysis.log_lines import DAY, START, LogLines, file_text, report_of

MINUTE = timedelta(minutes=1)


def asked(log: LogLines, user: str | None, mine: list[int] | None, theirs: list[int] | None, **changed: Any) -> str:
    """A call answered with `theirs`, and with `mine` in its shadow."""
    at = START + len(log.lines) * MINUTE
    shadow = changed.pop("shadow", {})
    request = log.exposure(user, "control" if user else None, at, items=theirs, **changed)
    log.shadow(request, user, mine, at, **shadow)
    return request


def found(folder: Path) -> list[dict[str, Any]]:
    """The comparisons as JSON."""
    comparisons: list[dict[str, Any]] = json.loads(json.dumps(document(compare_answers([folder]))))["comparisons"]
    return comparisons


def only(folder: Path) -> dict[str, Any]:
    (comparison,) = found(folder)
    return comparison


def test_measures_are_means_over_requests(tmp_path: Path) -> None:
    """Overlap, order, identity, coverage and latency, worked out by hand."""
    log = LogLines()
    asked(log, "a", [1, 2, 3], [1, 2, 3])
    asked(log, "b", [2, 1, 4], [1, 2, 3])
    asked(log, "c", [7, 8], [1, 2], latency_ms=6.0, shadow={"latency_ms": 12.0})
    one = only(log.write(tmp_path))
    assert (one["version"], one["primary"], one["asked"], one["users"], one["compared"]) == ("v3", "v1", 3, 3, 3)
    assert [round(one[f"overlap_at_{k}"]["mean"], 6) for k in (1, 5, 10)] == [
        round(1 / 3, 6),
        round((1 + 2 / 3) / 3, 6),
        round((1 + 2 / 3) / 3, 6),
    ]
    assert (one["identical"]["mean"], one["identical"]["requests"]) == (pytest.approx(1 / 3, abs=1e-6), 3)
    assert one["kendall_tau_b"] | {"low": 0, "high": 0} == {"mean": 0.0, "low": 0, "high": 0, "requests": 2}
    assert one["coverage"] == {"items": 6, "primary_items": 3, "items_of_both": 3}
    assert one["latency_ms"]["difference"]["mean"] == 4.0
    assert (one["latency_ms"]["primary"]["p50"], one["latency_ms"]["shadow"]["p50"]) == (5.0, 8.0)
    assert one["errors"] | {"shadow": 0} == {"shadow": 0, "primary": 0.0, "statuses": {"OK": 3}}
    assert [request["overlap_at_10"] for request in one["differ_most"]] == pytest.approx([0, 2 / 3, 1])
    assert one["overlap_at_10"]["low"] < one["overlap_at_10"]["mean"] < one["overlap_at_10"]["high"]


def test_what_is_not_compared_is_counted(tmp_path: Path) -> None:
    """Errors, answers without a list, calls whose exposure the log lacks, and synthetic ones."""
    log = LogLines()
    asked(log, "a", [1], [1])
    asked(log, "b", None, [1], shadow={"status": "UNAVAILABLE"})
    asked(log, "c", None, [1], method="infer", history_length=None)
    asked(log, "d", [1], None, method="infer", history_length=None)
    asked(log, "e", [1], [1], synthetic=True)
    log.shadow("gone", "f", [1])
    log.exposure("g", "control", START + MINUTE, status="UNAVAILABLE", served_version=None, items=[])
    one, report = only(log.write(tmp_path)), compare_answers([tmp_path])
    assert (one["asked"], one["compared"], one["without_answer"], one["without_lists"]) == (5, 1, 1, 2)
    assert (report.synthetic, one["errors"]["shadow"]["mean"]) == (1, 0.2)
    assert one["errors"]["statuses"] == {"OK": 4, "UNAVAILABLE": 1}
    assert one["errors"]["primary"] == pytest.approx(1 / 5)
    assert compared_requests([tmp_path], "v3") == 1
    assert compared_requests([tmp_path], "v4") == 0


def test_each_request_counts_once(tmp_path: Path) -> None:
    """A caller that tried again has two lines of each kind; the first counts. Another version is another comparison."""
    log = LogLines()
    request = asked(log, "a", [1], [1])
    log.exposure("a", "control", START + DAY, request_id=request, items=[9])
    log.shadow(request, "a", [9], START + DAY)
    log.shadow(request, "a", [2], version="v4")
    first, second = found(log.write(tmp_path))
    assert (first["version"], first["asked"], first["compared"], first["identical"]["mean"]) == ("v3", 1, 1, 1.0)
    assert (second["version"], second["compared"], second["identical"]["mean"]) == ("v4", 1, 0.0)


def test_of_two_lines_with_the_same_time_the_same_one_counts(tmp_path: Path) -> None:
    """Whichever is read first, of users' calls and of those in the shadow."""
    comparisons = []
    for order in (1, -1):
        log = LogLines()
        for items in ([1, 2], [8, 9])[::order]:
            for user in range(6):
                log.exposure(f"u{user}", "control", items=items, request_id=f"r{user}")
                log.shadow(f"r{user}", f"u{user}", [1, items[1]], latency_ms=float(items[0]))
        (tmp_path / str(order)).mkdir()
        comparisons.append(found(log.write(tmp_path / str(order))))
    assert comparisons[0] == comparisons[1]


def test_the_same_request_id_of_two_users_is_two_requests(tmp_path: Path) -> None:
    """The user is part of the key; a call without a user is joined by its request id alone."""
    log = LogLines()
    asked(log, "a", [1], [1], request_id="same")
    asked(log, "b", [2], [1], request_id="same")
    asked(log, None, [3], [3], request_id="nobody")
    one = only(log.write(tmp_path))
    assert (one["compared"], one["users"], one["without_answer"]) == (3, 3, 0)
    assert one["identical"]["mean"] == pytest.approx(2 / 3, abs=1e-6)


def test_intervals_are_clustered_by_user(tmp_path: Path) -> None:
    """A user with a hundred calls is one user: the interval is as wide as that of few."""
    many, few = LogLines(), LogLines()
    for number in range(300):
        user = f"u{number % 6}"
        asked(many, user, [1] if number % 2 else [2], [1])
        asked(few, f"u{number}", [1] if number % 2 else [2], [1])
    widths = []
    for name, log in (("many", many), ("few", few)):
        (tmp_path / name).mkdir()
        one = only(log.write(tmp_path / name))["identical"]
        assert one["mean"] == 0.5
        widths.append(one["high"] - one["low"])
    assert widths[0] > 4 * widths[1]


def test_by_attribute(tmp_path: Path) -> None:
    """What the file lets into the log tells where versions differ."""
    log = LogLines()
    for number in range(40):
        country = "DE" if number % 4 else "FR"
        asked(log, f"u{number}", [1] if country == "DE" else [2], [1], attributes={"country": country})
    values = {one["value"]: one["overlap_at_10"] for one in only(log.write(tmp_path))["by_attribute"]}
    assert list(values) == ["DE", "FR"]
    assert (values["DE"]["mean"], values["DE"]["requests"]) == (1.0, 30)
    assert (values["FR"]["mean"], values["FR"]["requests"]) == (0.0, 10)


def test_names_hashes_and_parquet(tmp_path: Path) -> None:
    """Items with names, users as keyed hashes, and a compacted folder: the same comparison."""
    log = LogLines()
    named = {"items": None, "item_names": ["x", "y"]}
    for number in range(10):
        request = log.exposure(None, None, START, user_id_hmac=f"{number:064x}", reason="allocated", **named)
        log.shadow(request, None, None, START, user_id_hmac=f"{number:064x}", item_names=["x", "z"])
    folder = log.write(tmp_path)
    before = found(folder)
    assert (before[0]["compared"], before[0]["users"], before[0]["overlap_at_1"]["mean"]) == (10, 10, 1.0)
    assert before[0]["overlap_at_10"]["mean"] == 0.5
    compact(folder, folder / "compacted", WriterIdentity("host", 1))
    assert not list(folder.glob("*.jsonl"))
    assert found(folder) == before


@pytest.mark.parametrize("packed", [False, True])
def test_no_report_knows_of_it(tmp_path: Path, *, packed: bool) -> None:
    """Lines of the shadow, younger and older than all others, leave a report as it is, and the moment it is as of."""
    plain, shadowed = LogLines(), LogLines()
    for log in (plain, shadowed):
        for number in range(200):
            group = "treatment" if number % 2 else "control"
            request = log.exposure(f"u{number}", group, START + number * timedelta(hours=1))
            if number % 3 == 0:
                log.outcome("click", f"u{number}", request, START + number * timedelta(hours=1), item_id=1)
            if log is shadowed:
                log.shadow(request, f"u{number}", [1], START + (number * 20 - 900) * timedelta(hours=1))
    reports = []
    for name, log in (("plain", plain), ("shadowed", shadowed)):
        (tmp_path / name).mkdir()
        folder = log.write(tmp_path / name)
        if packed:
            assert compact(folder, folder / "compacted", WriterIdentity("host", 1)).files == 1
        reports.append(report_of(folder, file_text()))
    assert reports[0] == reports[1]


def run(*words: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["shadow", *map(str, words)])
    assert result.exit_code == code, result.output
    return result.output


def test_the_command(tmp_path: Path) -> None:
    """Words for people, JSON for programs; what callers sent does not reach the terminal raw."""
    log = LogLines()
    for number in range(12):
        asked(log, f"u{number}", [1, 2], [2, 1], request_id=f"r{number}\x1b[2J", attributes={"country": "DE"})
    folder = log.write(tmp_path)
    text = run("--logs", folder)
    assert "v3 in the shadow of v1, 2026-11-01T00:00:00Z to" in text
    assert "12 shadow calls of 12 users; compared: 12" in text
    assert "overlap@10            1.000  (0.758 to 1.000)" in text
    assert "Kendall's tau-b      -1.000" in text
    assert "country = DE: overlap@10 1.000" in text
    assert "\x1b" not in text
    (one,) = json.loads(run("--logs", folder, "--json"))["comparisons"]
    assert one["compared"] == 12
    assert one["differ_most"][0]["request_id"] == "r0\x1b[2J"


def test_a_log_without_any(tmp_path: Path) -> None:
    """Says so; a folder without a log is a usage error."""
    log = LogLines()
    log.exposure("a", "control")
    assert "this log has no shadow calls; add `shadow`" in run("--logs", log.write(tmp_path))
    assert json.loads(run("--logs", tmp_path, "--json")) == {"comparisons": [], "synthetic": 0}
    (tmp_path / "empty").mkdir()
    assert "--logs: " in run("--logs", tmp_path / "empty", code=2)
    assert list(lines(compare_answers([tmp_path])))
