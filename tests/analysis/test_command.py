"""analyze, power and simulate as a person runs them: output, exit codes, and a plain sentence for every odd log."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from abfleet_analysis.analyse import analyse
from abfleet_analysis.report.render import rendered
from abfleet_analysis.report.waiting import days_text
from abfleet_experiments.file.load import load_text
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from abfleet.cli import app
from tests.analysis.log_lines import DAY, START, LogLines, file_text

REPORT = {"as_of", "log", "concluded", "experiments"}
EXPERIMENT = {
    "name",
    "state",
    "since",
    "winner",
    "waiting",
    "missing_outcomes",
    "plan",
    "allocations",
    "decision",
    "history",
    "groups",
    "srm",
    "metrics",
    "preference",
    "owner",
    "hypothesis",
    "outages",
    "data_quality",
    "excluded",
}
METRIC = {
    "name",
    "role",
    "direction",
    "currency",
    "group",
    "baseline",
    "users",
    "baseline_users",
    "value",
    "baseline_value",
    "difference",
    "relative_difference",
    "se",
    "interval",
    "p_value",
    "margin",
    "z",
    "boundary",
    "e_value",
    "sequential_interval",
    "relative_interval",
    "relative_sequential_interval",
    "cap",
    "cap_of",
    "counts",
    "skewness",
    "users_factor",
    "missing_events",
}
QUALITY = {
    "synthetic",
    "overrides",
    "no_user_id",
    "pinned",
    "users_in_two_groups",
    "moved_by_ramp",
    "not_compared",
    "in_both_groups",
    "unjoined_outcomes",
    "open_windows",
    "unusable_values",
    "wrong_clock",
    "unknown_allocation",
    "excluded",
    "other_currencies",
    "conflicting_outcomes",
    "impressions_of_no_list",
    "impression_coverage",
}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def analyze(folder: Path, *arguments: str, text: str | None = None) -> Result:
    file = folder / "experiments.yaml"
    file.write_text(file_text("conversion_rate") if text is None else text)
    return run("analyze", "--logs", folder, "--experiments", file, *arguments)


def good_log(rates: tuple[float, float] = (0.10, 0.18), days: int = 10, a_day: int = 300) -> LogLines:
    """Users who come evenly over some days, and convert exactly this often."""
    log = LogLines()
    for day in range(days):
        for index in range(a_day):
            group, user = index % 2, f"u{day}-{index}"
            at = START + DAY * day + timedelta(seconds=index)
            request = log.exposure(user, ("control", "treatment")[group], at)
            if (index // 2) % 100 < rates[group] * 100:
                log.outcome("conversion", user, request, at)
    return log


def test_json_is_the_documented_document(tmp_path: Path) -> None:
    """Every key that is promised, no other, and no NaN."""
    good_log(days=3).write(tmp_path)
    result = analyze(tmp_path, "--json", text=file_text("ctr", ("error_rate",), ("revenue_per_user",)))
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert set(report) == REPORT
    assert set(report["log"]) == {"lines", "unreadable", "duplicates"}
    (experiment,) = report["experiments"]
    assert set(experiment) == EXPERIMENT
    assert set(experiment["plan"]) == {
        "users_planned",
        "users",
        "looks_done",
        "days_left",
        "next_look",
        "minimum_until",
        "earliest_ship",
        "horizon_ends",
    }
    assert set(experiment["decision"]) == {"verdict", "group", "version", "reasons"}
    assert [set(look) for look in experiment["history"]] == [{"look", "verdict", "group", "version"}] * 2
    assert set(experiment["srm"]) == {"ok", "p_value", "e_value", "observed", "expected"}
    assert {frozenset(group) for group in experiment["groups"]} == {
        frozenset({"name", "model_version", "decision", "users", "exposures", "fallbacks", "errors"})
    }
    assert [m["name"] for m in experiment["metrics"]] == ["ctr", "error_rate", "revenue_per_user"]
    assert {frozenset(m) for m in experiment["metrics"]} == {frozenset(METRIC)}
    assert set(experiment["data_quality"]) == QUALITY


def test_text_says_the_verdict_first(tmp_path: Path) -> None:
    """The first line is the experiment and what to do; then why; then the numbers."""
    good_log(days=8, a_day=2000).write(tmp_path)
    result = analyze(tmp_path)
    first, second, *rest = result.output.splitlines()
    assert first == "test: CHECK FIRST, before treatment is shipped  running since 2026-11-01T00:00:00Z"
    assert "+80%" in second
    assert "usually mistakes" in second
    assert any(line.lstrip().startswith("conversion_rate") for line in rest)


def test_fail_on_exits_with_3_for_these_verdicts_only(tmp_path: Path) -> None:
    """0 whatever the verdict; 3 where it is listed; 2 for a word that is no verdict."""
    good_log(days=3).write(tmp_path)
    assert analyze(tmp_path).exit_code == 0
    assert analyze(tmp_path, "--fail-on", "roll_back,refuse").exit_code == 0
    assert analyze(tmp_path, "--fail-on", "ship,keep_running").exit_code == 3
    wrong = analyze(tmp_path, "--fail-on", "shipp")
    assert wrong.exit_code == 2
    assert "`shipp` is not a verdict; allowed: roll_back, refuse" in wrong.output


def test_as_of_cuts_the_log(tmp_path: Path) -> None:
    """Nothing after it is looked at, and it may be later than the log."""
    good_log((0.10, 0.10), days=5).write(tmp_path)
    early = json.loads(analyze(tmp_path, "--json", "--as-of", "2026-11-03T12:00:00Z").stdout)
    late = json.loads(analyze(tmp_path, "--json", "--as-of", "2027-11-03T12:00:00Z").stdout)
    assert early["log"]["lines"] < late["log"]["lines"]
    assert [len(one["experiments"][0]["history"]) for one in (early, late)] == [2, 28]
    assert late["experiments"][0]["decision"]["verdict"] == "inconclusive"
    assert analyze(tmp_path, "--as-of", "yesterday").exit_code == 2


def test_usage_mistakes_are_plain(tmp_path: Path) -> None:
    """A missing log or file is one sentence and exit code 2, never a traceback."""
    for result in (
        run("analyze", "--logs", tmp_path / "nowhere", "--experiments", "experiments/recommender.yaml"),
        run("analyze", "--logs", tmp_path, "--experiments", tmp_path / "none.yaml"),
        run("simulate", "nonsense"),
        run("simulate", "--split", "90/11"),
        run("simulate", "--split", "half"),
        run("simulate", "--rate", "0"),
        run("simulate", "--users-a-day", "0"),
        run("simulate", "ramp", "--split", "90/10"),
        run("simulate", "--aa", tmp_path, "--rate", "0.1"),
        run("power", "--baseline", "5", "--experiments", "experiments/recommender.yaml"),
    ):
        assert result.exit_code == 2, result.output
        assert "Traceback" not in result.output
        assert len(result.output.strip().splitlines()) == 1


# --- odd logs --------------------------------------------------------------------------------------------------------


def _one_group(log: LogLines) -> None:
    for user in range(5):
        log.exposure(f"u{user}", "control")


def _synthetic(log: LogLines) -> None:
    for user in range(20):
        log.exposure(f"u{user}", ("control", "treatment")[user % 2], synthetic=True)


def _future(log: LogLines) -> None:
    for user in range(20):
        log.exposure(f"u{user}", ("control", "treatment")[user % 2], datetime.fromisoformat("2226-01-01T00:00:00Z"))


def _one_line(log: LogLines) -> None:
    log.exposure("u", "treatment")


def _only_outcomes(log: LogLines) -> None:
    log.outcome("click", "u", "gone", item_id=1)


def _unsorted(log: LogLines) -> None:
    for index in np.random.default_rng(1).permutation(60):
        log.exposure(f"u{index}", ("control", "treatment")[index % 2], START + DAY * int(index) / 10)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (_one_group, "the log has no users of group treatment yet, so there is nothing to compare"),
        (_synthetic, "the log has no users of this experiment yet; 20 synthetic calls left out"),
        (_future, "no boundary has been crossed after 20 users"),
        (_one_line, "the log has no users of group control yet, so there is nothing to compare"),
        (_only_outcomes, "the log has no users of this experiment yet"),
        (_unsorted, "no boundary has been crossed after 60 users"),
    ],
)
def test_odd_logs_give_a_plain_sentence(tmp_path: Path, make: Callable[[LogLines], None], sentence: str) -> None:
    """Whatever is in the log, the report says in a sentence what that means, and is JSON too."""
    log = LogLines()
    make(log)
    report = analyse([log.write(tmp_path)], load_text(file_text("conversion_rate")))
    shown = io.StringIO()
    Console(file=shown, width=160).print(rendered(report))
    assert sentence in shown.getvalue()
    assert "KEEP RUNNING" in shown.getvalue()
    assert "nan" not in shown.getvalue()
    json.dumps(report.as_dict(), allow_nan=False)


@pytest.mark.parametrize("content", ["", "\n", "garbage", '{"event": "expos', '{"a": 1}\n{"b": 2}\n'])
def test_logs_without_a_line_that_can_be_read(tmp_path: Path, content: str) -> None:
    """Empty, half-written or something else altogether: it says so, and exits 0 as for every report."""
    (tmp_path / "decisions-x.jsonl").write_text(content)
    result = analyze(tmp_path)
    assert result.exit_code == 0, result.output
    assert "so there is no conclusion" in result.output


def test_a_file_without_experiments(tmp_path: Path) -> None:
    """Neither the file nor the log has one."""
    log = LogLines()
    log.exposure("u", None)
    log.write(tmp_path)
    text = 'version: 1\ndefault: v1\nmodels:\n  v1: {target: "127.0.0.1:1"}\n'
    assert "Neither the experiments file nor the log has an experiment" in analyze(tmp_path, text=text).output


# --- conclude quotes the verdict --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def log_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[float, float]], Path]:
    """A log by its rates, made once: no test adds to it."""
    return cache(lambda rates: good_log(rates, days=8, a_day=2400).write(tmp_path_factory.mktemp("log")))


@pytest.mark.parametrize(
    ("rates", "winner", "verdict", "warning"),
    [
        ((0.10, 0.13), "treatment", "ship", None),
        ((0.10, 0.13), "control", "ship", "the verdict of the log is SHIP treatment, but the winner here is control"),
        ((0.13, 0.10), "control", "roll_back", None),
        (
            (0.13, 0.10),
            "treatment",
            "roll_back",
            "the log has another verdict for treatment: ROLL BACK treatment",
        ),
        (
            (0.10, 0.105),
            "control",
            "keep_running",
            "the experiment is not decided: the verdict of the log is KEEP RUNNING",
        ),
        ((0.10, 0.105), "treatment", "keep_running", "the log has another verdict for treatment: KEEP RUNNING"),
    ],
)
def test_conclude_quotes_the_verdict(
    tmp_path: Path,
    log_of: Callable[[tuple[float, float]], Path],
    rates: tuple[float, float],
    winner: str,
    verdict: str,
    warning: str | None,
) -> None:
    """And warns where the winner is not what the log says; it never refuses."""
    file = tmp_path / "experiments.yaml"
    file.write_text(file_text("conversion_rate"))
    arguments = ("conclude", "test", "--winner", winner, "--logs", log_of(rates), "--experiments", file, "--dry-run")
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "the newest verdict, as of 2026-11-08T" in result.stdout
    told = [line.removeprefix("warning: ") for line in result.stdout.splitlines() if "the log" in line]
    assert told == ([] if warning is None else [warning])
    answer = json.loads(run(*arguments, "--json").stdout)["newest_verdict"]
    assert (answer["verdict"], answer["warning"], answer["missing"]) == (verdict, warning, None)


def test_conclude_says_that_there_is_no_verdict_to_quote(tmp_path: Path) -> None:
    """Without a log, or with one that has nobody of the experiment, it says so and goes on."""
    file = tmp_path / "experiments.yaml"
    file.write_text(file_text("conversion_rate"))
    arguments = ("conclude", "test", "--winner", "control", "--experiments", file, "--dry-run")
    result = run(*arguments, "--logs", tmp_path / "nowhere")
    assert result.exit_code == 0
    assert "no verdict in the log: --logs: " in result.stdout
    LogLines().write(tmp_path)
    assert "no verdict in the log: --logs: the log has no users of test" in run(*arguments, "--logs", tmp_path).stdout


# --- power and simulate ----------------------------------------------------------------------------------------------


def test_power_gives_the_planned_number() -> None:
    """5 % conversion, +10 %, 70/20/10: 156,000 users for the 20 % group, which is 1.25 times the fixed sample."""
    arguments = ("--baseline", "0.05", "--users-per-day", "5571", "--json")
    result = run("power", "--experiments", "experiments/recommender.yaml", *arguments)
    assert result.exit_code == 0, result.output
    groups = {group["group"]: group for group in json.loads(result.stdout)["groups"]}
    assert groups["experiment"]["users_planned"] == pytest.approx(156_000, rel=0.01)
    assert groups["experiment"]["days"] == pytest.approx(28, rel=0.01)
    assert groups["canary"]["users_planned"] > groups["experiment"]["users_planned"]


def test_power_reads_base_rates_from_a_log(tmp_path: Path) -> None:
    """The same number as with the log's own rate and deviation given by hand."""
    good_log(rates=(0.10, 0.10), a_day=400).write(tmp_path)
    file = tmp_path / "experiments.yaml"
    file.write_text(file_text("conversion_rate"))
    found = json.loads(run("power", "--logs", tmp_path, "--experiments", file, "--json").stdout)
    by_hand = json.loads(run("power", "--baseline", "0.10", "--experiments", file, "--json").stdout)
    assert found["baseline"] == pytest.approx(0.10)
    assert found["groups"][0]["users_planned"] == pytest.approx(by_hand["groups"][0]["users_planned"], rel=0.01)
    assert found["groups"][0]["days"] == pytest.approx(found["groups"][0]["users_planned"] / 443, rel=0.05)


def test_simulating_an_experiment_of_ones_own() -> None:
    """Its own shares, rate and users: errors are promised as ever, and what is found is shown without a promise."""
    own = ("--split", "90/10", "--rate", "0.02", "--users-a-day", "2000", "--runs", "40")
    result = run("simulate", *own, "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert {row["scenario"] for row in rows} >= {"no-effect", "planned-effect", "harm", "errors"}
    assert {row["runs"] for row in rows} == {40}
    assert {row["most"] for row in rows if row["scenario"] == "no-effect"} >= {0.025, 0.05}
    assert all(row["least"] is None for row in rows)
    shown = run("simulate", "no-effect", *own)
    assert shown.exit_code == 0
    assert "roll_back" in shown.output


def test_power_counts_the_minimum_and_never_says_no_days() -> None:
    """Users who come within minutes do not make an experiment of minutes; both times are in the answer."""
    arguments = (
        "power",
        "--experiments",
        "experiments/recommender.yaml",
        "--baseline",
        "0.05",
        "--users-per-day",
        "1e9",
    )
    (group, _) = json.loads(run(*arguments, "--json").stdout)["groups"]
    assert group["days"] == 7
    assert 0 < group["days_of_users"] < 0.001
    text = run(*arguments).output
    assert "0.0 days" not in text
    assert "7 days: the users come within less than a minute, but nothing is shipped before `plan.minimum`" in text


@pytest.mark.parametrize(
    ("days", "text"),
    [(28, "28 days"), (1, "1 day"), (0.9999, "1 day"), (0.5, "12 hours"), (1 / 24, "1 hour"), (0.0101, "14.5 minutes")],
)
def test_a_time_is_never_written_as_nothing(days: float, text: str) -> None:
    """In the largest unit of which there is one."""
    assert days_text(days) == text
    assert days_text(days / 1e9) == "less than a minute"


def test_dealing_a_log_again_finds_nothing(tmp_path: Path) -> None:
    """A log with a clear effect, its users dealt anew: effects are found no more often than promised."""
    good_log(rates=(0.10, 0.30)).write(tmp_path)
    file = tmp_path / "experiments.yaml"
    file.write_text(file_text("conversion_rate", ("error_rate",)))
    result = run("simulate", "--aa", tmp_path, "--experiments", file, "--runs", "100", "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert (answer["runs"], answer["users"], answer["kept"]) == (100, 3000, True)
    few = run("simulate", "--aa", Path("tests"), "--experiments", file)
    assert few.exit_code == 2


def test_the_command_line_starts_without_the_analysis_libraries() -> None:
    """`abfleet --help` imports none of them: they cost a second."""
    heavy = ("ibis", "scipy", "duckdb", "numpy", "pyarrow")
    code = f"import sys, abfleet.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env=os.environ.copy()
    )
    assert done.stdout.strip() == "[]"
