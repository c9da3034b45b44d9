"""What of a log counts, and what is left out and counted: real files through the whole analysis."""

import gzip
import json
import math
import shutil
from datetime import timedelta
from pathlib import Path

import duckdb
import numpy as np
import pytest
import zstandard
from abfleet_analysis.analyse import analyse
from abfleet_analysis.evidence.log_lines import read_lines
from abfleet_analysis.reading.open_log import LogError, open_log
from abfleet_experiments.file.load import load_text
from scipy import stats

from tests.analysis.log_lines import DAY, START, LogLines, file_text, metric, only, report_of

HOUR = timedelta(hours=1)


def users(report: dict[str, object]) -> dict[str, int]:
    return {group["name"]: group["users"] for group in only(report)["groups"]}


def test_a_user_counts_once_under_the_assigned_group(tmp_path: Path) -> None:
    """Calls of one user are one user; a fallback changes what is shown beside the group, never the group."""
    log = LogLines()
    for call in range(3):
        log.exposure("a", "treatment", START + HOUR * call, fallback="timeout" if call == 1 else None)
    log.exposure("b", "control")
    experiment = only(report_of(log.write(tmp_path), file_text()))
    groups = {group["name"]: group for group in experiment["groups"]}
    assert (groups["treatment"]["users"], groups["control"]["users"]) == (1, 1)
    assert (groups["treatment"]["exposures"], groups["treatment"]["fallbacks"], groups["treatment"]["errors"]) == (
        3,
        1,
        1,
    )
    assert groups["treatment"]["model_version"] == "v2"


def test_left_out_lines_are_counted(tmp_path: Path) -> None:
    """Synthetic calls, overrides, calls without a user and held out ones are no users, and each is counted."""
    log = LogLines()
    log.exposure("a", "control")
    log.exposure("b", "treatment")
    for index in range(2):
        log.exposure(f"robot-{index}", "treatment", synthetic=True)
    log.exposure("qa", "treatment", reason="override")
    for _ in range(4):
        log.exposure(None, None)
    log.exposure("held", None, reason="holdout")
    report = report_of(log.write(tmp_path), file_text())
    quality = only(report)["data_quality"]
    assert users(report) == {"control": 1, "treatment": 1}
    assert (quality["synthetic"], quality["overrides"], quality["no_user_id"]) == (2, 1, 4)


def test_repeats_count_once(tmp_path: Path) -> None:
    """The same user and request is one exposure, the same outcome_id one outcome, over all files of all routers."""
    log = LogLines()
    log.exposure("a", "treatment", request_id="r")
    log.exposure("a", "treatment", START + HOUR, request_id="r")
    log.exposure("b", "treatment", request_id="r")
    log.exposure("c", "control", request_id="r")
    for at in (START, START + HOUR):
        log.outcome("purchase", "a", at=at, outcome_id="same", value=5.0)
    log.write(tmp_path, "decisions-one.jsonl")
    (tmp_path / "decisions-two.jsonl").write_text((tmp_path / "decisions-one.jsonl").read_text())
    report = report_of(tmp_path, file_text("revenue_per_user"))
    assert report["log"]["duplicates"] == 5 + 3
    assert {g["name"]: g["exposures"] for g in only(report)["groups"]} == {"control": 1, "treatment": 2}
    assert metric(report, "revenue_per_user")["value"] == 2.5


CHANGED: tuple[dict[str, object], ...] = (
    {"group": "control", "model_version": "v1"},
    {"status": "UNAVAILABLE", "served_version": None, "items": []},
    {"latency_ms": 900.0},
    {"items": [7, 8]},
    {"synthetic": True},
    {"reason": "override"},
    {"allocation": "000000000002"},
    {"bucket": 5},
)


@pytest.mark.parametrize("detailed", [False, True])
def test_of_repeats_at_the_same_time_one_counts_in_whatever_order(tmp_path: Path, detailed: bool) -> None:
    """Two lines of the same call that say different things: the report does not depend on which is read first."""
    reports = []
    for order in (1, -1):
        log = LogLines()
        for user, changed in enumerate(CHANGED * 2):
            at, request = START + HOUR * user, f"r{user}"
            for said in ({}, changed)[::order]:
                log.exposure(f"u{user}", "treatment", at, request_id=request)
                log.lines[-1] |= said
            log.exposure(f"c{user}", "control", at)
            log.outcome("click", f"u{user}", request, at, item_id=7, outcome_id=f"click-{user}")
        folder = tmp_path / str(order)
        folder.mkdir()
        reports.append(
            analyse([log.write(folder)], load_text(file_text()), detailed=detailed).as_dict(detailed=detailed)
        )
    assert reports[0] == reports[1]


def test_clicks_count_once_for_a_request_and_item_of_its_list(tmp_path: Path) -> None:
    """A repeated click, one on another item and one of another user's request add nothing; ctr is pairs over lists."""
    log = LogLines()
    for user in ("a", "b"):
        request = log.exposure(user, "treatment")
        log.outcome("click", user, request, item_id=1)
        log.outcome("click", user, request, item_id=1, at=START + HOUR)
        log.outcome("click", user, request, item_id=99)
        log.outcome("click", "somebody-else", request, item_id=2)
        log.outcome("click", None, request, item_id=3)
        log.exposure(user, "treatment", status="UNAVAILABLE", items=[], served_version=None)
        log.exposure(f"{user}-control", "control")
    report = report_of(log.write(tmp_path), file_text())
    found = metric(report, "ctr")
    assert (found["value"], found["baseline_value"]) == (2.0, 0.0)
    assert only(report)["data_quality"]["unjoined_outcomes"] == 2


def test_ctr_is_over_items_seen_where_impressions_say_so(tmp_path: Path) -> None:
    """A list whose items were seen counts as often as that."""
    log = LogLines()
    for group in ("control", "treatment"):
        for user in range(3):
            request = log.exposure(f"{group}-{user}", group)
            for item in (1, 2, 3):
                log.outcome("impression", f"{group}-{user}", request, item_id=item)
            log.outcome("click", f"{group}-{user}", request, item_id=1)
    assert metric(report_of(log.write(tmp_path), file_text()), "ctr")["value"] == pytest.approx(1 / 3)


def test_outcomes_without_a_request_join_the_user_within_the_window(tmp_path: Path) -> None:
    """Up to 7 days after the first exposure, or the metric's own window, and never before it."""
    log = LogLines()
    for user in ("a", "b"):
        log.exposure(user, "treatment", START + DAY)
        log.exposure(f"{user}-control", "control", START + DAY)
    for days in (0.5, 1.5, 3.5, 8.5, 10.0):
        log.outcome("conversion", "a", at=START + DAY * days)
        log.outcome("play", "a", at=START + DAY * days)
    own = "metrics:\n  plays: {type: count, outcome: play, window: 2d}\n  often: {type: count, outcome: conversion}\n"
    report = report_of(log.write(tmp_path), file_text("conversion_rate", (), ("plays", "often"), own))
    assert metric(report, "conversion_rate")["value"] == 0.5
    assert metric(report, "plays")["value"] == 0.5
    assert metric(report, "often")["value"] == 1.0


def test_metrics_whose_names_are_alike(tmp_path: Path) -> None:
    """Signs and capitals make other metrics, each with its own sum."""
    log = LogLines()
    for user in range(8):
        log.exposure(f"u{user}", ("control", "treatment")[user % 2])
    for kind, times in (("play", 1), ("skip", 2), ("stop", 3)):
        for index in range(times):
            log.outcome(kind, "u1", None, START + timedelta(seconds=1 + index))
    kinds = {"a-b": "play", "a.b": "skip", "A-b": "stop"}
    own = "metrics:\n" + "".join(f"  {name}: {{type: count, outcome: {kind}}}\n" for name, kind in kinds.items())
    report = report_of(log.write(tmp_path), file_text("conversion_rate", (), tuple(kinds), own))
    assert [metric(report, name)["value"] for name in kinds] == [0.25, 0.5, 0.75]


def test_money_has_one_currency_and_refunds_are_negative(tmp_path: Path) -> None:
    """Values of the rarer currency are left out; a refund lowers the sum."""
    log = LogLines()
    for user in ("a", "b"):
        log.exposure(user, "treatment")
        log.exposure(f"{user}-control", "control")
    for value, currency in ((10.0, "EUR"), (-4.0, "EUR"), (100.0, "USD")):
        log.outcome("purchase", "a", value=value, currency=currency)
    report = analyse([log.write(tmp_path)], load_text(file_text("revenue_per_user")))
    (experiment,) = report.experiments
    assert experiment.decision.groups[0].metrics[0].value == 3.0
    assert experiment.gathered.evidence.quality.other_currencies == 1


def test_winsorising_cuts_at_the_quantile_of_all_users(tmp_path: Path) -> None:
    """One enormous value is cut to the quantile of the users' values, of both groups together."""
    log, values = LogLines(), []
    for index in range(100):
        group = ("control", "treatment")[index % 2]
        log.exposure(f"u{index}", group)
        values.append(1e6 if index == 99 else float(index))
        log.outcome("play", f"u{index}", value=values[-1])
    own = "metrics:\n  plays: {type: mean, outcome: play, winsorise: 0.9}\n"
    found = metric(report_of(log.write(tmp_path), file_text("plays", metrics=own)), "plays")
    cut = np.minimum(values, np.sort(values)[89])  # a tenth of them is above
    assert found["value"] == pytest.approx(cut[1::2].mean())
    assert found["se"] == pytest.approx(math.sqrt(sum(cut[g::2].var(ddof=1) / 50 for g in (0, 1))))


def test_errors_are_the_assigned_versions_only(tmp_path: Path) -> None:
    """Its failures count, answered by a fallback or not; cancellations, overload and mistakes of the client do not."""
    log = LogLines()
    bad = [{"fallback": one} for one in ("unavailable", "timeout", "ejected", "model_error")]
    bad += [{"status": one} for one in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN")]
    good: list[dict[str, object]] = [{"fallback": "overload"}]
    good += [{"fallback": "timeout", "status": "DEADLINE_EXCEEDED", "attempts": 0}]  # was never sent
    good += [{"status": one, "attempts": 0} for one in ("DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN")]
    good += [{"status": one} for one in ("OK", "CANCELLED", "RESOURCE_EXHAUSTED", "NOT_FOUND", "UNAUTHENTICATED")]
    for index, changed in enumerate(bad + good):
        log.exposure(f"u{index}", "treatment", **changed)
        log.exposure(f"u{index}", "treatment", **changed)
        log.exposure(f"c{index}", "control")
    report = report_of(log.write(tmp_path), file_text("ctr", ("error_rate",), ("fallback_rate",)))
    assert metric(report, "error_rate")["value"] == pytest.approx(len(bad) / len(bad + good))
    assert metric(report, "fallback_rate")["value"] == pytest.approx(5 / len(bad + good))
    assert only(report)["groups"][1]["errors"] == 2 * len(bad)


def test_response_times_are_clustered_by_user(tmp_path: Path) -> None:
    """Mean and 95 % quantile over all calls; the standard error knows that a user's calls are alike."""
    random = np.random.default_rng(5)
    log, times = LogLines(), {}
    for group in ("control", "treatment"):
        level = random.lognormal(3, 0.3, size=200)
        times[group] = np.round(level[:, None] * random.lognormal(0, 0.1, size=(200, 5)), 3)
        for user, calls in enumerate(times[group]):
            for value in calls:
                log.exposure(f"{group}-{user}", group, latency_ms=float(value))
    report = report_of(log.write(tmp_path), file_text("ctr", ("response_time_p95",), ("response_time_mean",)))
    mean, high = metric(report, "response_time_mean"), metric(report, "response_time_p95")
    assert mean["value"] == pytest.approx(times["treatment"].mean())
    by_user = [times[g].mean(axis=1).var(ddof=1) / 200 for g in times]
    assert mean["se"] == pytest.approx(math.sqrt(sum(by_user)))
    assert high["value"] == pytest.approx(np.quantile(times["treatment"], 0.95), rel=0.005)
    resampled = [[np.quantile(times[g][random.integers(0, 200, 200)], 0.95) for _ in range(400)] for g in times]
    bootstrap = math.sqrt(sum(np.var(one) for one in resampled))
    assert high["se"] == pytest.approx(bootstrap, rel=0.35)


def test_cuped_uses_what_users_did_before(tmp_path: Path) -> None:
    """Spending in the 14 days before explains spending after: the same difference with a third of the variance."""
    random = np.random.default_rng(8)
    log, before, after = LogLines(), random.gamma(2, 10, size=400), np.zeros(400)
    after = before + random.normal(0, 3, size=400)
    early = START - DAY
    log.exposure("nobody", None, early)
    for user in range(400):
        log.outcome("purchase", f"u{user}", at=early, value=float(before[user]))
        log.outcome("purchase", f"u{user}", at=START - DAY * 15, value=1e6)
    for user in range(400):
        log.exposure(f"u{user}", ("control", "treatment")[user % 2])
        log.outcome("purchase", f"u{user}", at=START + HOUR, value=float(after[user]))
    found = metric(report_of(log.write(tmp_path), file_text("revenue_per_user")), "revenue_per_user")
    theta = np.cov(before, after)[0, 1] / before.var(ddof=1)
    adjusted = after - theta * (before - before.mean())
    assert found["difference"] == pytest.approx(adjusted[1::2].mean() - adjusted[::2].mean())
    assert found["se"] == pytest.approx(math.sqrt(sum(adjusted[g::2].var(ddof=1) / 200 for g in (0, 1))))
    assert found["se"] < 0.6 * math.sqrt(sum(after[g::2].var(ddof=1) / 200 for g in (0, 1)))


def test_users_in_two_groups_of_one_allocation_are_counted(tmp_path: Path) -> None:
    """They stay in the group of their first exposure, and the share of them refuses a conclusion."""
    log = LogLines()
    for user in range(200):
        log.exposure(f"u{user}", ("control", "treatment")[user % 2])
        if user < 20:
            log.exposure(f"u{user}", "treatment", START + HOUR)
    experiment = only(report_of(log.write(tmp_path), file_text()))
    assert experiment["data_quality"]["users_in_two_groups"] == 10
    assert [group["users"] for group in experiment["groups"]] == [100, 100]


def test_a_user_with_thousands_of_calls_in_a_look_is_counted_whole(tmp_path: Path) -> None:
    """Counts that have no room beside each other are kept apart: nothing of one user's runs over into another count."""
    log = LogLines()
    calls = [3000, *[2] * 99]
    for user, many in enumerate(calls):
        for call in range(many):
            failed = {"fallback": "timeout", "status": "UNAVAILABLE"} if call % 3 == 0 else {}
            at = START + timedelta(seconds=call)
            log.exposure(f"u{user}", ("control", "treatment")[user % 2], at, latency_ms=float(1 + call), **failed)
    report = report_of(log.write(tmp_path), file_text("response_time_mean", secondary=["error_rate", "fallback_rate"]))
    control, treatment = only(report)["groups"]
    assert (control["exposures"], treatment["exposures"]) == (3000 + 49 * 2, 50 * 2)
    assert (control["errors"], control["fallbacks"]) == (1000 + 49, 1000 + 49)
    assert (treatment["errors"], treatment["fallbacks"]) == (50, 50)
    found = metric(report, "response_time_mean")
    answered = [1.0 + call for call in range(3000) if call % 3] + [2.0] * 49
    assert (found["value"], found["baseline_value"]) == (2.0, pytest.approx(np.mean(answered)))


@pytest.mark.parametrize("groups", [30, 31, 70])
def test_an_experiment_of_many_groups(tmp_path: Path, groups: int) -> None:
    """Who was in two of them is known, whether they have a bit each or not."""
    names = [f"g{index:02}" for index in range(groups)]
    log = LogLines()
    for user in range(groups * 10):
        log.exposure(f"u{user}", names[user % groups], propensity=1 / groups)
    for user in (0, 1):
        log.exposure(f"u{user}", names[user + groups // 2], START + HOUR, propensity=1 / groups)
    text = file_text().replace("name: test", "name: another")
    (experiment,) = [e for e in report_of(log.write(tmp_path), text)["experiments"] if e["name"] == "test"]
    assert len(experiment["groups"]) == groups
    assert experiment["data_quality"]["users_in_two_groups"] == 2
    assert {group["users"] for group in experiment["groups"]} == {10}


def test_a_concluded_experiment_is_analysed_from_its_log(tmp_path: Path) -> None:
    """Gone from the file, its groups and shares come from allocation events; the silent group is missed."""
    log = LogLines()
    log.allocation("000000000001", {"control": 80, "old": 10, "silent": 10})
    for user in range(300):
        log.exposure(f"u{user}", "control" if user % 9 else "old", propensity=None)
    text = file_text().replace("name: test", "name: another")
    reports = {e["name"]: e for e in report_of(log.write(tmp_path), text)["experiments"]}
    assert set(reports) == {"another", "test"}
    assert [group["name"] for group in reports["test"]["groups"]] == ["control", "old", "silent"]
    assert reports["test"]["decision"]["verdict"] == "refuse"
    assert reports["test"]["srm"]["expected"] == {"control": 240, "old": 30, "silent": 30}


def test_shares_come_from_propensities_where_there_are_no_events(tmp_path: Path) -> None:
    """What the seen groups leave to 1 is the unseen group's, so its silence is noticed."""
    log = LogLines()
    for user in range(100):
        log.exposure(f"u{user}", "control")
    experiment = only(report_of(log.write(tmp_path), file_text()))
    assert experiment["allocations"][0]["weights"] == {"control": 0.5, "treatment": 0.5}
    assert experiment["decision"]["verdict"] == "refuse"


def test_a_report_is_a_function_of_its_input(tmp_path: Path) -> None:
    """As of an earlier moment the report is the one that the log of then gives, whatever came later, in any order."""
    random = np.random.default_rng(6)
    early, whole = LogLines(), LogLines()
    for index in random.permutation(600):
        at, user = START + HOUR * int(index), int(random.integers(0, 200))
        for log in (early, whole) if index < 300 else (whole,):
            request = log.exposure(f"u{user}", ("control", "treatment")[user % 2], at, request_id=f"x{index}")
            if index % 7 == 0:
                log.outcome("click", f"u{user}", request, at, item_id=1, outcome_id=f"y{index}")
    for name, log in (("early", early), ("whole", whole)):
        (tmp_path / name).mkdir()
        log.write(tmp_path / name)
    as_of = START + HOUR * 299
    then = report_of(tmp_path / "early", file_text(), as_of)
    assert report_of(tmp_path / "whole", file_text(), as_of) == then
    assert then["log"]["lines"] == len(early.lines)


def test_all_kinds_of_files_say_the_same(tmp_path: Path) -> None:
    """Plain and compressed lines and Parquet, or some of each, give the same report."""
    log, second = LogLines(), LogLines()
    for user in range(50):
        for one in (log, second) if user % 2 else (log,):
            request = one.exposure(f"u{user}", ("control", "treatment")[user % 3 % 2], request_id=f"r{user}")
            one.outcome("click", f"u{user}", request, item_id=1, outcome_id=f"o{user}")
    folders = {kind: tmp_path / kind for kind in ("plain", "zst", "gz", "parquet", "mixed")}
    for folder in folders.values():
        folder.mkdir()
    source = log.write(folders["plain"], "decisions-x.jsonl") / "decisions-x.jsonl"
    (folders["zst"] / "decisions-x.jsonl.zst").write_bytes(zstandard.compress(source.read_bytes()))
    (folders["gz"] / "decisions-x.jsonl.gz").write_bytes(gzip.compress(source.read_bytes()))
    rows = f"read_json('{source}', format = 'newline_delimited')"
    duckdb.execute(f"COPY (SELECT * FROM {rows}) TO '{folders['parquet'] / 'part.parquet'}' (FORMAT parquet)")
    # One file more, of which the others have more columns: what it lacks is null.
    duckdb.execute(
        f"COPY (SELECT event, ts, request_id, user_id FROM {rows} WHERE FALSE) "
        f"TO '{folders['parquet'] / 'empty.parquet'}' (FORMAT parquet)"
    )
    shutil.copy(folders["parquet"] / "part.parquet", folders["mixed"])
    second.write(folders["mixed"])
    reports = {kind: report_of(folder, file_text()) for kind, folder in folders.items()}
    assert reports["zst"] == reports["gz"] == reports["parquet"] == reports["plain"]
    assert reports["mixed"]["log"].pop("duplicates") == len(second.lines)
    assert reports["mixed"]["log"].pop("lines") == reports["plain"]["log"].pop("lines") + len(second.lines)
    reports["plain"]["log"].pop("duplicates")
    assert reports["mixed"] == reports["plain"]


def test_a_missing_log_is_said_plainly(tmp_path: Path) -> None:
    """No folder, and a folder without a log."""
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(LogError, match=str(tmp_path)[:40]), open_log([path]):
            pass


def test_lines_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    """A torn last line, bytes that are no text, other JSON: each is one unreadable line, and the rest is read."""
    log = LogLines()
    log.exposure("a", "control")
    whole = json.dumps(log.lines[0]).encode()
    torn = [whole, b"\xff\xfe", b"[1, 2]", b"null", whole.replace(b"2026-11-01T", b"yesterday"), whole[:100]]
    (tmp_path / "decisions-x.jsonl").write_bytes(b"\n".join(torn))
    with open_log([tmp_path]) as opened:
        lines = read_lines(opened, 2**60)
    assert (lines.survey.lines, lines.survey.unreadable) == (6, 5)


def test_a_time_that_cannot_be_is_unreadable(tmp_path: Path) -> None:
    """A line of the year 10,000, or from before 1970, neither breaks the report nor dates it."""
    log = LogLines()
    log.exposure("a", "control")
    whole = json.dumps(log.lines[0])
    odd = [whole.replace(log.lines[0]["ts"], at) for at in ("9999-12-31T23:59:59-14:00", "1969-12-31T23:00:00Z")]
    (tmp_path / "decisions-x.jsonl").write_text("\n".join([whole, *odd]) + "\n")
    report = analyse([tmp_path], load_text(file_text()))
    assert report.as_of == START
    assert (report.log.lines, report.log.unreadable) == (3, 2)


def test_what_is_counted_of_the_whole_log_does_not_need_a_user(tmp_path: Path) -> None:
    """An experiment that nobody was in says the same of the log's outcomes as one that has users."""
    log = LogLines()
    for number in range(3):
        log.outcome("click", f"u{number}", "of-another-log")
    log.outcome("click", "u0", "of-another-log", outcome_id="o0", value=2.0)
    quality = only(report_of(log.write(tmp_path), file_text()))["data_quality"]
    assert (quality["unjoined_outcomes"], quality["conflicting_outcomes"]) == (3, 1)


def test_unjoined_outcomes_that_differ_refuse(tmp_path: Path) -> None:
    """A router that loses the exposures of one group's users leaves outcomes without requests, and no conclusion."""
    log = LogLines()
    for user in range(400):
        group = ("control", "treatment")[user % 2]
        request = log.exposure(f"u{user}", group)
        lost = group == "treatment" and user % 8 == 1
        log.outcome("click", f"u{user}", "gone" if lost else request, item_id=1)
    experiment = only(report_of(log.write(tmp_path), file_text()))
    assert experiment["data_quality"]["unjoined_outcomes"] == 50
    assert experiment["decision"]["verdict"] == "refuse"
    assert "outcomes without a request in the log" in " ".join(experiment["decision"]["reasons"])


def test_guardrail_of_slow_responses_learns_from_control(tmp_path: Path) -> None:
    """Half again as slow rolls back, without a threshold in the file; the first thousand responses teach it."""
    random = np.random.default_rng(9)
    log = LogLines()
    for index in range(6000):
        group = ("control", "treatment")[index % 2]
        value = float(random.lognormal(2, 0.3)) * (1.5 if group == "treatment" else 1.0)
        log.exposure(f"u{index}", group, START + timedelta(seconds=index), latency_ms=round(value, 3))
    experiment = only(report_of(log.write(tmp_path), file_text("ctr", ("response_time_p95",))))
    assert experiment["decision"]["verdict"] == "roll_back"
    assert next(m for m in experiment["metrics"] if m["role"] == "guardrail")["e_value"] >= 200


def test_a_ramp_leaves_out_moved_buckets_whole(tmp_path: Path) -> None:
    """10 to 50 %, users who come back and a base rate that doubles: no false lift, and the moved users are counted."""
    random = np.random.default_rng(12)
    log, moved = LogLines(), 0
    log.allocation("00000000000a", {"control": 90, "treatment": 10})
    log.allocation("00000000000b", {"control": 50, "treatment": 50}, START + DAY * 5)
    for user in range(4000):
        bucket, heavy = int(random.integers(0, 10_000)), random.random() < 0.2
        came = [random.random() < (0.9 if heavy else 0.3) for _ in range(2)]
        for phase, share in enumerate((0.1, 0.5)):
            if came[phase]:
                group, at = ("treatment" if bucket < share * 10_000 else "control"), START + DAY * (5 * phase + 1)
                request = log.exposure(
                    f"u{user}", group, at, bucket=bucket, allocation=f"00000000000{'ab'[phase]}", propensity=share
                )
                if random.random() < (0.4 if heavy else 0.05) * (1 + phase):
                    log.outcome("conversion", f"u{user}", request, at)
        moved += came[0] and 1000 <= bucket < 5000
    experiment = only(report_of(log.write(tmp_path), file_text("conversion_rate")))
    assert experiment["data_quality"]["moved_by_ramp"] == pytest.approx(moved, abs=3)
    assert experiment["data_quality"]["users_in_two_groups"] == 0
    assert experiment["srm"]["p_value"] > 0.001
    found = experiment["metrics"][0]
    assert abs(found["difference"]) < stats.norm.isf(0.0005) * found["se"]
    assert len(experiment["allocations"]) == 2


def test_an_experiment_of_forced_users_alone(tmp_path: Path) -> None:
    """Not in the file, and with nobody whom the split took: a report without groups, and no crash."""
    log = LogLines()
    log.exposure("qa", "treatment", reason="override")
    text = file_text().replace("name: test", "name: another")
    reports = {e["name"]: e for e in report_of(log.write(tmp_path), text)["experiments"]}
    assert reports["test"]["groups"] == []
    assert reports["test"]["data_quality"]["overrides"] == 1
    assert reports["test"]["decision"]["verdict"] == "keep_running"


def test_two_experiments_do_not_mix(tmp_path: Path) -> None:
    """Each has its own users, outcomes and allocations, in one log."""
    log = LogLines()
    for name, clicks in (("test", 2), ("other", 1)):
        for user in range(8):
            request = log.exposure(
                f"{name}-{user}", ("control", "treatment")[user % 2], experiment=name, allocation=f"00000000000{clicks}"
            )
            for item in range(1, clicks + 1):
                log.outcome("click", f"{name}-{user}", request, item_id=item)
    reports = {e["name"]: e for e in report_of(log.write(tmp_path), file_text())["experiments"]}
    for name, clicks in (("test", 2), ("other", 1)):
        assert [group["users"] for group in reports[name]["groups"]] == [4, 4]
        assert reports[name]["metrics"][0]["value"] == clicks
        assert len(reports[name]["allocations"]) == 1


def test_times_are_utc_and_another_offset_is_understood(tmp_path: Path) -> None:
    """Z, no zone and an offset name the same instant."""
    log = LogLines()
    for user in range(3):
        log.exposure(f"u{user}", "control")
    log.write(tmp_path)
    file = tmp_path / "decisions-host-20261101T000000-1.jsonl"
    first, second, third = file.read_text().splitlines()
    changed = [first, second.replace(".000000Z", ""), third.replace("01T00:00:00.000000Z", "01T02:00:00.0+02:00")]
    file.write_text("\n".join(changed))
    assert report_of(tmp_path, file_text())["as_of"] == "2026-11-01T00:00:00Z"
    assert report_of(tmp_path, file_text(), START)["log"]["lines"] == 3
