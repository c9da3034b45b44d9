"""Which calls are absence, wrong answers or timeouts, and what comes of them: real files through the whole analysis."""

import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from abfleet_analysis.analyse import analyse
from abfleet_analysis.decision.metrics import Failure
from abfleet_analysis.evidence.log_lines import read_lines
from abfleet_analysis.periods.deployment import replicas_in
from abfleet_analysis.reading.open_log import open_log
from abfleet_analysis.storage.fetching import fetched_rows
from abfleet_experiments.file.load import load_text

from tests.analysis.log_lines import START, LogLines, file_text, metric, only, report_of

MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
Change = Callable[[str, int], dict[str, Any]]
"""What is different of a call of a group in a minute."""
ERRORS = file_text(guardrails=["error_rate"])
GONE = {"fallback": "unavailable", "attempts": 1}
"""A treatment that is not there: the default answers."""
NOT_THERE = {"status": "UNAVAILABLE", "attempts": 0}
"""The default that is not there."""


def service(minutes: int, change: Change = lambda group, minute: {}, *, a_minute: int = 6) -> LogLines:
    """Halves of as many calls a minute, each of another user."""
    log = LogLines()
    for minute in range(minutes):
        for number in range(a_minute):
            group = ("control", "treatment")[number % 2]
            at = START + MINUTE * minute + MINUTE * number / a_minute
            log.exposure(f"{minute}-{number}", group, at, **change(group, minute))
    return log


def restart(log: LogLines, group: str, minute: float, lost: dict[str, Any], calls: int = 31) -> None:
    """So many users of a group at once while nobody is there."""
    for number in range(calls):
        log.exposure(f"{group}-{minute}-{number}", group, START + MINUTE * minute + SECOND * number / 5, **lost)


def decided(log: LogLines, folder: Path, text: str = ERRORS, minutes: float | None = None) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    return only(report_of(log.write(folder), text, None if minutes is None else START + MINUTE * minutes))


def verdict(report: dict[str, Any]) -> tuple[str, str]:
    return report["decision"]["verdict"], " | ".join(report["decision"]["reasons"])


# --- one killed worker, and lasting harm ------------------------------------------------------------------------------


def test_a_killed_worker_is_one_outage(tmp_path: Path) -> None:
    """31 users fail within six seconds because one worker was killed: nothing is rolled back, and it is listed."""
    log = service(300)
    restart(log, "treatment", 150, GONE)
    report = decided(log, tmp_path)
    assert verdict(report)[0] == "keep_running"
    assert metric(report_of(tmp_path, ERRORS), "error_rate")["e_value"] < 1.3  # as one outage, not as wrong answers too
    (outage,) = report["outages"]
    assert outage == {
        "group": "treatment",
        "begin": "2026-11-01T02:30:00Z",
        "end": "2026-11-01T02:30:06Z",
        "calls": 31,
        "counted": 1,
        "excluded": False,
        "shared_with": [],
    }


def test_a_worker_that_is_killed_on_and_on_is_rolled_back(tmp_path: Path) -> None:
    """An outage every half hour for half a day is named with its number, minutes, calls and replicas."""
    log = service(720)
    for minute in range(20, 720, 30):
        restart(log, "treatment", minute + 0.5, GONE)
    found, why = verdict(decided(log, tmp_path))
    assert found == "roll_back"
    assert "error_rate guardrail: treatment has outages more often than tolerated" in why
    assert "outages: 24 of treatment (2 min in total, 744 calls), 0 of control, 0 shared and not counted" in why
    assert "treatment has 1 replica, control has 1" in why
    assert "(31 calls)" in why


def test_replicas_are_counted_where_they_are_listed(tmp_path: Path) -> None:
    """One replica against three is said beside the verdict; a name stands for nobody knows how many."""
    log = service(720, a_minute=2)
    for minute in range(20, 720, 30):
        restart(log, "treatment", minute + 0.5, GONE, calls=3)
    three = ERRORS.replace('"127.0.0.1:1"', '["127.0.0.1:1", "127.0.0.1:3", "127.0.0.1:4"]')
    assert "treatment has 1 replica, control has 3, which may be the cause" in verdict(decided(log, tmp_path, three))[1]
    named = ERRORS.replace('"127.0.0.1:1"', '"dns:///workers:1"')
    assert "the numbers of replicas are unknown" in verdict(decided(log, tmp_path, named))[1]
    assert [replicas_in(one) for one in (["unix:/a"], ["[::1]:1"], ["a:1", "b:1"], ["a:1"], ["dns:///a:1", "b:1"])] == [
        1,
        1,
        2,
        None,
        None,
    ]


def test_wrong_answers_are_found(tmp_path: Path) -> None:
    """A tenth of the treatment's answers wrong: rolled back for these, and no outage is seen."""
    chance = random.Random(1)

    def wrong(group: str, minute: int) -> dict[str, Any]:
        return {"fallback": "model_error"} if group == "treatment" and chance.random() < 0.1 else {}

    report = decided(service(360, wrong, a_minute=20), tmp_path)
    found, why = verdict(report)
    assert (found, report["outages"]) == ("roll_back", [])
    assert "error_rate guardrail: treatment answers wrongly or late more often than tolerated" in why


def test_a_burst_of_wrong_answers_is_one_cause(tmp_path: Path) -> None:
    """As many wrong answers within ten minutes are not enough."""

    def wrong(group: str, minute: int) -> dict[str, Any]:
        return {"fallback": "model_error"} if group == "treatment" and 200 <= minute < 210 else {}

    report = decided(service(300, wrong, a_minute=20), tmp_path)
    assert verdict(report)[0] == "keep_running"
    assert metric(report_of(tmp_path, ERRORS), "error_rate")["e_value"] < 10


# --- absent and shared ------------------------------------------------------------------------------------------------


def test_a_version_that_answers_nothing_is_absent(tmp_path: Path) -> None:
    """None of 90 calls in the last 30 minutes answered while control answers: rolled back, since when and how many."""
    log = service(120, lambda group, minute: GONE if group == "treatment" and minute >= 80 else {})
    found, why = verdict(decided(log, tmp_path))
    assert found == "roll_back"
    assert "treatment is absent since 2026-11-01 01:19:50 UTC: it has answered none of 120 calls" in why
    assert "control answered 90 of 90" in why
    assert verdict(decided(log, tmp_path, minutes=105))[0] == "keep_running"  # it answered 25 minutes ago


@pytest.mark.parametrize(("look", "rolled_back"), [("1h", [2]), ("10m", [11, 12, 13])])
def test_looks_know_who_was_absent_then(tmp_path: Path, look: str, rolled_back: list[int]) -> None:
    """Gone for 50 minutes: the looks of that time say so, later ones do not, and reports of then say the same."""
    log = service(240, lambda group, minute: GONE if group == "treatment" and 80 <= minute < 130 else {})
    text = ERRORS.replace("look: 1d", f"look: {look}")
    history = decided(log, tmp_path, text)["history"]
    assert [one["look"] for one in history if one["verdict"] == "roll_back"] == rolled_back
    for number in (rolled_back[0], rolled_back[-1] + 1):
        then = decided(log, tmp_path, text, minutes=number * {"1h": 60, "10m": 10}[look])
        assert then["history"] == history[:number]
        assert then["decision"]["verdict"] == history[number - 1]["verdict"]


def test_mistakes_of_clients_are_no_absence(tmp_path: Path) -> None:
    """A version that is asked nothing but nonsense is there."""
    nonsense = {"status": "INVALID_ARGUMENT", "attempts": 0}
    log = service(120, lambda group, minute: nonsense if group == "treatment" and minute >= 80 else {})
    assert verdict(decided(log, tmp_path))[0] == "keep_running"


def test_a_service_that_is_out_says_nothing_of_a_version(tmp_path: Path) -> None:
    """Neither group answers: said, without a verdict from it; the outage is shared and counts for nobody."""
    log = service(120, lambda group, minute: NOT_THERE if minute >= 80 else {})
    report = decided(log, tmp_path)
    assert verdict(report)[0] == "keep_running"
    assert [one["shared_with"] for one in report["outages"]] == [["treatment"], ["control"]]
    assert metric(report_of(tmp_path, ERRORS), "error_rate")["e_value"] == pytest.approx(1.0)
    out = decided(service(120, lambda group, minute: NOT_THERE), tmp_path / "out")
    assert verdict(out)[0] == "keep_running"


def test_shared_outages_count_for_nobody(tmp_path: Path) -> None:
    """What rolls back if it is the treatment's alone does not where control is out at the same time."""
    log = service(720)
    for minute in range(20, 720, 30):
        restart(log, "treatment", minute + 0.5, GONE)
        restart(log, "control", minute + 0.6, NOT_THERE)
    report = decided(log, tmp_path)
    assert verdict(report)[0] == "keep_running"
    assert {tuple(one["shared_with"]) for one in report["outages"]} == {("control",), ("treatment",)}
    assert metric(report_of(tmp_path, ERRORS), "error_rate")["e_value"] == pytest.approx(1.0)


# --- timeouts ---------------------------------------------------------------------------------------------------------


def late_each_half_hour(log: LogLines, after: float, users: Sequence[str] = ()) -> None:
    """Ten users of the treatment time out, so many minutes after each half hour."""
    for minute in range(20, 400, 10):
        for number in range(10):
            user = users[number] if users else f"late-{minute}-{number}"
            log.exposure(user, "treatment", START + MINUTE * (minute + after), fallback="timeout")


def test_timeouts_around_an_outage_do_not_count(tmp_path: Path) -> None:
    """Within a minute of an outage of either group they say nothing of the version; two minutes later they do."""
    for group, lost in (("treatment", GONE), ("control", NOT_THERE)):
        for after, expected in ((0.5, False), (2.0, True)):
            log = service(420)
            late_each_half_hour(log, after)
            for minute in range(20, 400, 10):
                log.exposure(f"lost-{minute}", group, START + MINUTE * minute, **lost)
            folder = tmp_path / f"{group}-{after}"
            report = decided(log, folder)
            acted = "answers wrongly or late" in verdict(report)[1]
            assert acted is expected, (group, after, report["decision"])


def test_a_user_whose_timeout_is_left_out_stays_eligible(tmp_path: Path) -> None:
    """The first timeout is around an outage, the second one is not: it is the one that counts."""
    for after, counts in ((0.5, False), (5.0, True)):
        log = service(60)
        log.exposure("b", "control", START + MINUTE * 20, **NOT_THERE)
        for user in "abcdefghij":
            log.exposure(user, "treatment", START + MINUTE * 20.5, fallback="timeout")
            log.exposure(user, "treatment", START + MINUTE * (20 + after), fallback="timeout")
        decided(log, tmp_path)
        assert (metric(report_of(tmp_path, ERRORS), "error_rate")["e_value"] > 1.1) is counts


def test_a_timeout_waits_a_minute(tmp_path: Path) -> None:
    """Until then there may be an outage beside it; a wrong answer counts at once."""
    for failure, seconds, counts in (("timeout", 59, False), ("timeout", 61, True), ("model_error", 1, True)):
        log = service(60)
        log.exposure("a", "treatment", START + MINUTE * 30, fallback=failure)
        log.write(tmp_path)
        report = report_of(tmp_path, ERRORS, START + MINUTE * 30 + SECOND * seconds)
        assert (metric(report, "error_rate")["e_value"] > 1.01) is counts, (failure, seconds)


def test_slow_answers_around_an_outage_do_not_count(tmp_path: Path) -> None:
    """A version that is slow while it comes back is not slow."""
    text = file_text(guardrails=["{name: response_time_p95, threshold_ms: 100}"])
    for outage, expected in ((True, False), (False, True)):
        log = service(420)
        for minute in range(20, 400, 10):
            for number in range(10):
                at = START + MINUTE * (minute + 0.2)
                log.exposure(f"slow-{minute}-{number}", "treatment", at, latency_ms=300.0)
            if outage:
                log.exposure(f"lost-{minute}", "treatment", START + MINUTE * minute, **GONE)
        assert ("response_time_p95 guardrail" in verdict(decided(log, tmp_path, text))[1]) is expected


# --- classes and looks ------------------------------------------------------------------------------------------------


CLASSES = [
    ("unavailable", "OK", 1, Failure.ABSENT, True),
    ("ejected", "OK", 1, Failure.ABSENT, True),
    ("ejected", "DEADLINE_EXCEEDED", 0, Failure.ABSENT, True),
    ("model_error", "OK", 2, Failure.WRONG, True),
    ("timeout", "OK", 2, Failure.LATE, True),
    ("timeout", "UNAVAILABLE", 2, Failure.LATE, True),
    ("overload", "OK", 1, Failure.NONE, False),
    (None, "INTERNAL", 1, Failure.WRONG, True),
    (None, "UNKNOWN", 1, Failure.WRONG, True),
    (None, "DEADLINE_EXCEEDED", 1, Failure.LATE, True),
    (None, "DEADLINE_EXCEEDED", 0, Failure.NONE, False),
    ("timeout", "DEADLINE_EXCEEDED", 0, Failure.NONE, False),
    ("model_error", "INTERNAL", 0, Failure.WRONG, True),
    (None, "INTERNAL", 0, Failure.NONE, False),
    (None, "UNKNOWN", 0, Failure.NONE, False),
    (None, "UNAVAILABLE", 0, Failure.ABSENT, True),
    (None, "UNAVAILABLE", 1, Failure.AMBIGUOUS, True),
    (None, "RESOURCE_EXHAUSTED", 0, Failure.NONE, False),
    (None, "INVALID_ARGUMENT", 0, Failure.NONE, False),
    (None, "CANCELLED", 1, Failure.NONE, False),
    (None, "OK", 1, Failure.NONE, False),
]


def classes_of(folder: Path, group: str, calls: list[dict[str, Any]]) -> list[tuple[int, bool]]:
    """How calls of a group are classed, and whether each counts as an error, in the order given."""
    log = LogLines()
    for number, call in enumerate(calls):
        log.exposure(f"u{number}", group, START + SECOND * number, **call)
    log.write(folder)
    with open_log([folder]) as opened:
        table = read_lines(opened, 2**61).exposures
        rows = fetched_rows(table.select("at", "failure", "error").order_by("at"))
    return [(row["failure"], row["error"]) for row in rows]


def test_each_failure_has_its_class(tmp_path: Path) -> None:
    """A reason for a fallback goes before the status; a call that was never sent is nobody's failure."""
    calls = [{"fallback": reason, "status": status, "attempts": sent} for reason, status, sent, _, _ in CLASSES]
    assert classes_of(tmp_path, "treatment", calls) == [(failure, error) for *_, failure, error in CLASSES]


OWN_REASONS = [
    ("unavailable", "UNAVAILABLE", 1, Failure.ABSENT, True),
    ("ejected", "UNAVAILABLE", 0, Failure.ABSENT, True),
    ("unavailable", "DEADLINE_EXCEEDED", 1, Failure.ABSENT, True),
    ("model_error", "UNAVAILABLE", 1, Failure.WRONG, True),
    ("timeout", "DEADLINE_EXCEEDED", 1, Failure.LATE, True),
    ("timeout", "DEADLINE_EXCEEDED", 0, Failure.NONE, False),
    ("timeout", "UNAVAILABLE", 1, Failure.LATE, True),
    ("overload", "RESOURCE_EXHAUSTED", 1, Failure.NONE, False),
    (None, "CANCELLED", 1, Failure.NONE, False),
    (None, "OK", 1, Failure.NONE, False),
]


def test_the_log_says_why_a_version_failed(tmp_path: Path) -> None:
    """The assigned version's own reason goes before the status; nothing is unknown any more."""
    calls = [{"failure": reason, "status": status, "attempts": sent} for reason, status, sent, _, _ in OWN_REASONS]
    assert classes_of(tmp_path, "control", calls) == [(failure, error) for *_, failure, error in OWN_REASONS]


def test_control_s_own_reason_is_no_longer_held_against_it_twice(tmp_path: Path) -> None:
    """Where the log says that the default was not there, that is an outage and no wrong answer, and the other way."""
    for name, counts in (("unavailable", (1, 0)), ("model_error", (0, 5))):
        log, folder = service(60), tmp_path / name
        restart(log, "control", 20, {"status": "UNAVAILABLE", "attempts": 1, "failure": name}, calls=5)
        folder.mkdir()
        (report,) = analyse([log.write(folder)], load_text(ERRORS)).experiments
        evidence = report.gathered.evidence
        assert (len(evidence.outages[1].known_us), evidence.bad_events["error_rate"].counts[:, 0].sum()) == counts


def test_how_many_outages_a_day_are_tolerated_is_in_the_file(tmp_path: Path) -> None:
    """Six hours with an outage each half hour are tolerated where the file allows 50 a day, and not where it is one."""
    log = service(400)
    for minute in range(20, 400, 30):
        restart(log, "treatment", minute + 0.5, GONE, calls=3)
    values = [
        metric(report_of(log.write(tmp_path), ERRORS.replace("error_rate", one)), "error_rate")["e_value"]
        for one in ("{name: error_rate, outages_per_day: 50}", "{name: error_rate, outages_per_day: 1}", "error_rate")
    ]
    assert values[0] < 2
    assert values[1] == values[2] > 50


def test_why_control_failed_is_held_against_control(tmp_path: Path) -> None:
    """UNAVAILABLE after an attempt may be either for the default version, so it is both; a treatment's is neither."""
    ambiguous = {"status": "UNAVAILABLE", "attempts": 1}
    log = service(60)
    for group in ("control", "treatment"):
        restart(log, group, {"control": 20, "treatment": 40}[group], ambiguous, calls=5)
    report = decided(log, tmp_path)
    assert [(one["group"], one["calls"]) for one in report["outages"]] == [("control", 5)]
    assert metric(report_of(tmp_path, ERRORS), "error_rate")["e_value"] == pytest.approx(1.0)  # never above it
    other = ERRORS.replace("default: v1", "default: v0").replace("models:", 'models:\n  v0: {target: "127.0.0.1:9"}')
    assert decided(log, tmp_path, other)["outages"] == []


def test_a_look_says_what_a_report_of_then_said(tmp_path: Path) -> None:
    """Over hours with wrong answers, timeouts and outages, history is that of the reports of some of these hours."""
    chance = random.Random(5)

    def odd(group: str, minute: int) -> dict[str, Any]:
        if group == "treatment" and chance.random() < 0.08:
            return {"fallback": chance.choice(["model_error", "timeout"])}
        return {}

    log = service(480, odd)
    for minute in range(25, 480, 45):
        restart(log, ("treatment", "control")[minute % 4 == 1], minute, (GONE, NOT_THERE)[minute % 4 == 1])
    text = ERRORS.replace("look: 1d", "look: 1h")
    whole = decided(log, tmp_path, text)["history"]
    assert {look["verdict"] for look in whole} == {"keep_running", "roll_back"}
    for hours in (1, 3, 5, 7):
        then = decided(log, tmp_path, text, minutes=60 * hours)["history"]
        assert then == whole[: len(then)]
