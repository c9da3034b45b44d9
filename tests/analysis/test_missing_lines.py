"""A group whose lines are missing, all or most of them, is no evidence against another: files and the analysis."""

import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.analysis.log_lines import START, LogLines, file_text, only, report_of

MINUTE = timedelta(minutes=1)
TEXT = file_text(guardrails=["error_rate", "response_time_p95"])
BAD: dict[str, dict[str, Any]] = {
    "wrong answers": {"status": "INTERNAL", "failure": "model_error", "attempts": 1},
    "timeouts": {"status": "DEADLINE_EXCEEDED", "failure": "timeout", "attempts": 1},
    "slow answers": {"latency_ms": 900.0},
    "outages": {"status": "UNAVAILABLE", "failure": "unavailable", "attempts": 1},
}
HOURS = 12


def log_of(kind: str, rates: dict[str, float], kept: float) -> LogLines:
    """Twelve hours of a new user every 20 seconds, of whom so many have a bad event; of control's a share has lines.

    Outages come at whole half hours, and then every call of a group is lost; both groups have their own hours.
    """
    rng, log = random.Random(7), LogLines()
    log.allocation("000000000001", {"control": 50, "treatment": 50})
    for number in range(HOURS * 180):
        group, at = ("control", "treatment")[number % 2], START + timedelta(seconds=20 * number)
        minute = number // 3
        if kind == "outages":
            bad = minute % 30 < 2 if group == "treatment" else minute % 30 in (15, 16)
            bad &= rates[group] > 0
        else:
            bad = rng.random() < rates[group]
        if group == "treatment" or rng.random() < kept:
            log.exposure(f"u{number}", group, at, **(BAD[kind] if bad else {}))
    return log


def concluded(log: LogLines, folder: Path) -> tuple[str, str]:
    decision = only(report_of(log.write(folder), TEXT))["decision"]
    return decision["verdict"], " ".join(decision["reasons"])


@pytest.mark.parametrize("kept", [0.0, 0.1])
@pytest.mark.parametrize("kind", BAD)
def test_bad_events_of_a_group_alone_are_no_comparison(kind: str, kept: float, tmp_path: Path) -> None:
    """Both groups fail alike, and control's lines are missing: the data is refused, nothing is rolled back."""
    verdict, why = concluded(log_of(kind, {"control": 0.2, "treatment": 0.2}, kept), tmp_path)
    assert verdict == "refuse", why
    assert "sample-ratio mismatch" in why


@pytest.mark.parametrize("kind", ["wrong answers", "timeouts"])
def test_harm_is_found_among_the_lines_that_are_there(kind: str, tmp_path: Path) -> None:
    """A treatment that fails 15 times as often is rolled back although nine of ten lines of control are missing."""
    verdict, why = concluded(log_of(kind, {"control": 0.02, "treatment": 0.3}, 0.1), tmp_path)
    assert verdict == "roll_back", why
    assert "the data also has a fault: sample-ratio mismatch" in why


@pytest.mark.parametrize("kind", BAD)
def test_the_same_logs_whole(kind: str, tmp_path: Path) -> None:
    """Alike: no verdict. Only the treatment: rolled back, and half of the events are expected there."""
    alike, harmed = tmp_path / "alike", tmp_path / "harmed"
    alike.mkdir()
    harmed.mkdir()
    assert concluded(log_of(kind, {"control": 0.2, "treatment": 0.2}, 1.0), alike)[0] == "keep_running"
    verdict, why = concluded(log_of(kind, {"control": 0.0, "treatment": 0.3}, 1.0), harmed)
    assert verdict == "roll_back"
    assert kind == "slow answers" or "50.0% of these users are expected in treatment" in why
