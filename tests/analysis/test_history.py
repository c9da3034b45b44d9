"""What a report says of a look is what the report of that day said: logs read as of each of their days."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from abfleet_analysis.analyse import analyse
from abfleet_analysis.decision.measurements import measure
from abfleet_analysis.report.report import ExperimentReport
from abfleet_experiments.file.load import load_text

from tests.analysis.log_lines import DAY, START, LogLines, file_text

OWN = """
metrics:
  spent: {type: mean, outcome: play, winsorise: 0.98}
  plays: {type: count, outcome: play, winsorise: 0.9}
  a_show: {type: ratio, outcome: play, over: show}
"""
METRICS = (
    "spent",
    "plays",
    "a_show",
    "ctr",
    "conversion_rate",
    "response_time_mean",
    "response_time_p95",
    "error_rate",
)
DAYS = 10
SOME_DAYS = (2, 4, 5, 6, 9)
"""The first, those around the change, and the last; `./run prove fuzz-logs` draws its days at random."""


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten days without an effect, on the sixth of which every call begins to take twice as long; users come back,
    a few spend much, and more of them each day."""
    random = np.random.default_rng(5)
    log = LogLines()
    for day in range(DAYS):
        for index in range(240):
            user = f"u{int(random.integers(0, 500))}"
            at = START + DAY * day + timedelta(minutes=5 * index)
            latency = float(np.round(np.exp(random.normal(3, 0.4)) * (2 if day >= 5 else 1), 3))
            failed = {"fallback": "model_error"} if random.random() < 0.02 else {}
            group = "treatment" if hash_of(user) else "control"
            request = log.exposure(user, group, at, latency_ms=latency, **failed)
            for kind, chance in (("click", 0.2), ("conversion", 0.1), ("show", 0.5)):
                if random.random() < chance:
                    log.outcome(kind, user, request, at, item_id=1)
            if random.random() < 0.02 * (day + 1):
                log.outcome("play", user, request, at, value=float(np.exp(random.normal(day / 3, 1.5))))
    return log.write(tmp_path_factory.mktemp("log"))


def hash_of(user: str) -> bool:
    """Which half a user is in."""
    return int(user[1:]) * 7919 % 1000 < 500


def report(log: Path, primary: str, day: int) -> ExperimentReport:
    """The report of the evening of a day."""
    text = file_text(primary, ["error_rate", "response_time_p95"], METRICS, OWN)
    as_of = START + DAY * day + timedelta(minutes=1)
    (experiment,) = analyse([log], load_text(text), as_of=as_of).experiments
    return experiment


def test_no_later_day_changes_what_was_said(log: Path) -> None:
    """Values, errors, what counts, and the test's own sums, of every metric at every look of some days' reports."""
    last = report(log, "ctr", DAYS)
    newest = measure(last.gathered.evidence, last.plan).treatments[0]
    for day in SOME_DAYS:
        one = report(log, "ctr", day)
        then = measure(one.gathered.evidence, one.plan).treatments[0]
        assert one.gathered.evidence.calendar.done == day
        for early, late in zip(then.metrics, newest.metrics, strict=True):
            for name in ("value", "baseline", "variance", "baseline_variance", "nonzero"):
                said, says = getattr(early.comparison, name)[:day], getattr(late.comparison, name)[:day]
                assert says == pytest.approx(said, rel=1e-9, nan_ok=True), (early.rule.name, name, day)
            for name in ("difference", "error", "skewness", "counts"):
                said, says = getattr(early.null, name)[:day], getattr(late.null, name)[:day]
                assert says == pytest.approx(said, rel=1e-6, abs=1e-9, nan_ok=True), (early.rule.name, name, day)
        history = [verdict for verdict, _ in last.decision.history[:day]]
        assert [verdict for verdict, _ in one.decision.history] == history


def test_latency_that_doubles_for_both_is_nobodys_harm(log: Path) -> None:
    """A quantile's variance at earlier looks is that of its own time; at the newest quantile there was none."""
    found = report(log, "response_time_p95", DAYS)
    assert {verdict for verdict, _ in found.decision.history} == {"keep_running"}
    (p95,) = (one for one in found.gathered.evidence.metrics if one.rule.name == "response_time_p95")
    share = p95.moments.y[:, 0] / p95.moments.z[:, 0]
    assert ((share > 0.025) & (share < 0.1)).all(), "calls above the point of each look"
