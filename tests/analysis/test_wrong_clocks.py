"""One wrong clock is not the time: logs with odd lines through the whole analysis, and `abfleet logs check`."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import ibis
import pytest
from abfleet_analysis.reading.clocks import _wrong
from abfleet_analysis.reading.columns import COLUMNS
from abfleet_log.clocks import AllowedTimes
from abfleet_log.tools.check import Checker
from abfleet_log.tools.read_lines import all_lines

from tests.analysis.log_lines import DAY, START, LogLines, file_text, only, report_of, text_time

EPOCH = datetime(1970, 1, 1, 0, 0, 12, tzinfo=UTC)
ROUTERS = ("router-1", "router-2", "router-3")


def three_days(days: int = 3) -> LogLines:
    """A call every five minutes, of users who convert 30 and 42 times of a hundred."""
    log = LogLines()
    for index in range(days * 288):
        group, at = ("control", "treatment")[index % 2], START + timedelta(minutes=5 * index)
        request = log.exposure(f"u{index}", group, at, router=ROUTERS[index // 2 % 3])
        if index // 2 % 50 < (15, 21)[index % 2]:
            log.outcome("conversion", f"u{index}", request, at)
    return log


def report(folder: Path, log: LogLines, as_of: datetime | None = None) -> dict[str, Any]:
    return report_of(log.write(folder), file_text("conversion_rate"), as_of)


def at(log: LogLines, event: str, when: datetime) -> None:
    """The hundredth line of a kind is of another time."""
    [line for line in log.lines if line["event"] == event][100]["ts"] = text_time(when)


def reloaded(log: LogLines, when: datetime) -> None:
    log._add(
        {
            "schema": 1,
            "event": "reload",
            "ts": text_time(when),
            "router": "router-2",
            "old_revision": None,
            "new_revision": "0" * 12,
            "active": True,
            "moved": None,
            "errors": [],
        }
    )


@pytest.mark.parametrize("case", ["1970", "8 days back", "8 days ahead", "outcome", "reload", "another", "two"])
def test_one_wrong_line_changes_no_look(tmp_path: Path, case: str) -> None:
    """Moment, looks and verdict are those of the log without it; it is counted, and `logs check` names it."""
    log, expected = three_days(), 1
    match case:
        case "1970":
            at(log, "exposure", EPOCH)
        case "8 days back":
            at(log, "exposure", START - 8 * DAY)
        case "8 days ahead":
            at(log, "exposure", START + 11 * DAY)
        case "outcome":
            at(log, "outcome", START + 11 * DAY)
        case "reload":
            reloaded(log, START + 730 * DAY)
        case "another":
            log.exposure("x", "control", START + 40 * DAY, experiment="another", router="router-2")
        case "two":
            expected = 2
            at(log, "exposure", EPOCH)
            reloaded(log, START + 40 * DAY)
    found = report(tmp_path, log)
    (tmp_path / "right").mkdir()
    right = report(tmp_path / "right", three_days())
    (experiment,) = [one for one in found["experiments"] if one["name"] == "test"]
    assert (found["as_of"], experiment["history"]) == (right["as_of"], only(right)["history"])
    assert experiment["decision"]["verdict"] == "keep_running"
    assert experiment["data_quality"]["wrong_clock"] == expected
    assert only(right)["data_quality"]["wrong_clock"] == 0
    check = Checker(gap_seconds=1e9).take(all_lines([tmp_path]))
    assert check.wrong_clock.total() == expected
    assert check.examples["wrong clock"].startswith(str(tmp_path))


def test_more_than_one_line_in_a_hundred_is_refused(tmp_path: Path) -> None:
    """They are left out, but nobody knows what else is wrong; the sentence names the router."""
    log = three_days()
    for line in [one for one in log.lines if one.get("router") == "router-2"][::10]:
        line["ts"] = text_time(EPOCH)
    experiment = only(report(tmp_path, log))
    assert experiment["decision"]["verdict"] == "refuse"
    assert experiment["data_quality"]["wrong_clock"] == 29
    assert (
        "have a time far from the rest of the log (routers: router-2): a clock was wrong, or a few calls"
        in (experiment["decision"]["reasons"][0])
    )


def test_a_router_that_is_off_is_named_and_refused(tmp_path: Path) -> None:
    """A third of all calls are three days late: which day it is, nobody knows."""
    log = three_days(6)
    for line in log.lines:
        if line.get("router") == "router-2":
            line["ts"] = text_time(datetime.fromisoformat(line["ts"]) + 3 * DAY)
    decision = only(report(tmp_path, log))["decision"]
    assert decision["verdict"] == "refuse"
    assert "the clock of router router-2 is 3.0 days ahead of the others in all calls" in decision["reasons"]


def test_a_moment_that_is_given_needs_no_newest_line(tmp_path: Path) -> None:
    """With --as-of the line that is ahead is just not there yet, or counts when its time has come."""
    log = three_days()
    at(log, "exposure", START + 11 * DAY)
    for days, users in ((3, 863), (20, 864)):
        experiment = only(report(tmp_path, log, START + days * DAY))
        assert sum(group["users"] for group in experiment["groups"]) == users
        assert experiment["data_quality"]["wrong_clock"] == 0


@pytest.mark.parametrize("dialect", ["duckdb", "pyspark", "clickhouse", "bigquery"])
def test_each_database_can_leave_lines_out(dialect: str) -> None:
    """The condition is an expression of Ibis on all of them."""
    named = ("event", "experiment", "allocation", "synthetic")
    lines = ibis.table({"at": "int64", **{name: COLUMNS[name] for name in named}}, name="lines")
    allowed = AllowedTimes(1, 2, {("test", "a"): 1})
    assert ibis.to_sql(lines.filter(~_wrong(lines, allowed)).select(hour=lines["at"] // 3600), dialect=dialect)
