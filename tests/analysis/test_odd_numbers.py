"""Numbers that no sum could take, wherever a line may have one: each costs itself, is counted, and ends no report."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from abfleet_analysis.analyse import analyse
from abfleet_experiments.file.load import load_text
from abfleet_log.files import WriterIdentity
from abfleet_log.tools.compact import compact

from tests.analysis.log_lines import DAY, START, LogLines, file_text, metric, only, report_of

OWN = """
metrics:
  plays: {type: count, outcome: play}
  played: {type: proportion, outcome: play}
  spent: {type: mean, outcome: play}
  capped: {type: mean, outcome: play, winsorise: 0.99}
  a_show: {type: ratio, outcome: play, over: show}
"""
EVERY = ("plays", "played", "capped", "a_show", "ctr", "revenue_per_user", "conversion_rate", "response_time_mean")
ODD = ["1e19", "-1e19", "9.3e18", "1e300", "1e400", "NaN", "Infinity", "-Infinity"]
MARK = 77.25


def written(folder: Path, field: str, raw: str, *, outcome: str | None = "play", times: int = 1) -> Path:
    """A log of 60 users a group, in which a field of the treatment's `u3` is this piece of JSON.

    outcome: The type of the line that has it; None for the call. times: How many such outcomes there are.
    """
    log = LogLines()
    for group in ("control", "treatment"):
        for index in range(60):
            user, at = f"{group}-u{index}", START + timedelta(minutes=index)
            odd = group == "treatment" and index == 3
            request = log.exposure(user, group, at, **({field: MARK} if odd and outcome is None else {}))
            for kind in ("play", "purchase", "click", "show", "conversion") if index < 20 else ():
                changed: dict[str, Any] = {"value": 2.0, "item_id": 1}
                for _ in range(times if odd and kind == outcome else 1):
                    if odd and kind == outcome:
                        changed[field] = MARK
                    log.outcome(kind, user, request, at, **changed)
    log.exposure("late", "control", START + DAY * 3)
    file = next(iter(log.write(folder).iterdir()))
    text = file.read_text()
    assert json.dumps(MARK) in text
    file.write_text(text.replace(json.dumps(MARK), raw))
    return folder


def report(folder: Path) -> dict[str, Any]:
    guardrails = ("error_rate", "response_time_p95")
    return report_of(folder, file_text("spent", guardrails, EVERY, OWN))


@pytest.mark.parametrize("raw", ODD)
def test_a_value_that_is_no_number_costs_itself(tmp_path: Path, raw: str) -> None:
    """The outcome happened: it is counted where outcomes are, and adds nothing where values are."""
    found = report(written(tmp_path, "value", raw))
    assert only(found)["data_quality"]["unusable_values"] == 1
    assert found["log"]["unreadable"] == 0
    assert metric(found, "plays")["value"] == metric(found, "played")["value"] == 20 / 60
    assert metric(found, "spent")["value"] == metric(found, "capped")["value"] == 19 * 2 / 60
    assert metric(found, "spent")["baseline_value"] == pytest.approx(20 * 2 / 61)
    assert metric(found, "revenue_per_user")["value"] == 20 * 2 / 60
    assert only(found)["decision"]["verdict"] == "keep_running"


@pytest.mark.parametrize("raw", ["1e19", "NaN", "-Infinity"])
def test_money_too(tmp_path: Path, raw: str) -> None:
    """A purchase without a value that can be used is one without value."""
    found = report(written(tmp_path, "value", raw, outcome="purchase"))
    assert metric(found, "revenue_per_user")["value"] == 19 * 2 / 60
    assert only(found)["data_quality"]["unusable_values"] == 1


def test_large_values_that_are_allowed_are_added_up(tmp_path: Path) -> None:
    """The largest one, so often that the sum is more than an integer of 64 bits has room for."""
    found = report(written(tmp_path, "value", "1e15", times=10_000))
    assert metric(found, "spent")["value"] == pytest.approx(1e19 / 60)
    assert only(found)["data_quality"]["unusable_values"] == 0


@pytest.mark.parametrize("raw", ["NaN", "Infinity", "1e19", "-5"])
def test_a_response_time_that_is_none_is_not_timed(tmp_path: Path, raw: str) -> None:
    """The call counts, its time does not."""
    found = report(written(tmp_path, "latency_ms", raw, outcome=None))
    assert metric(found, "response_time_mean")["value"] == 5.0
    assert metric(found, "response_time_p95")["value"] == pytest.approx(5.0, rel=2e-3)
    assert only(found)["data_quality"]["unusable_values"] == 1
    assert sum(group["users"] for group in only(found)["groups"]) == 121


@pytest.mark.parametrize("raw", ["NaN", "1e19", "-1", "1.5"])
def test_a_share_that_is_none_is_not_expected(tmp_path: Path, raw: str) -> None:
    """One line's propensity of 1e19 does not make the split one that was never asked for."""
    experiment = only(report(written(tmp_path, "propensity", raw, outcome=None)))
    assert experiment["srm"]["ok"]
    assert experiment["srm"]["expected"] == {"control": 60.5, "treatment": 60.5}
    assert experiment["data_quality"]["unusable_values"] == 1


@pytest.mark.parametrize("raw", ["1e19", "NaN"])
def test_details_and_compacted_logs_say_the_same(tmp_path: Path, raw: str) -> None:
    """A report with everything beside it, and one of the same lines as Parquet."""
    text = file_text("spent", ["error_rate", "response_time_p95"], EVERY, OWN)
    plain = only(report(written(tmp_path, "value", raw)))
    detailed = json.loads(json.dumps(analyse([tmp_path], load_text(text), detailed=True).as_dict()))
    assert only(detailed)["metrics"] == plain["metrics"]
    out = tmp_path / "compacted"
    compact(tmp_path, out, WriterIdentity("host", 2))
    compacted = only(report(out))
    assert list(out.rglob("*.parquet"))
    assert compacted["metrics"] == plain["metrics"]
    assert compacted["data_quality"] == plain["data_quality"]
