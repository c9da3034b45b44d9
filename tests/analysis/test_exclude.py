"""Windows of time that an experiment leaves out: real files through the whole analysis."""

import json
import random
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from abfleet_analysis.decision.excluded_time import ExcludedTime
from abfleet_analysis.report.excluded import WARNING
from abfleet_experiments.config import ExcludedWindow, time_text
from hypothesis import given
from hypothesis import strategies as st

from tests.analysis.log_lines import DAY, START, LogLines, file_text, metric, only, report_of, text_time
from tests.analysis.test_command import analyze
from tests.analysis.test_guardrails_in_logs import ERRORS, GONE, MINUTE, NOT_THERE, SECOND, restart, service, verdict

HOUR = timedelta(hours=1)
SALES = file_text("conversion_rate", ("error_rate",), ("revenue_per_user", "response_time_p95", "ctr"))
Span = tuple[datetime, datetime]


def excluding(text: str, *spans: Span) -> str:
    """A file that leaves out these windows."""
    windows = ", ".join(f"{{from: {time_text(a)}, to: {time_text(b)}, why: incident}}" for a, b in spans)
    return text.replace("    plan: {", f"    exclude: [{windows}]\n    plan: {{")


def visits(days: int = 9, users: int = 120, *, seed: int = 3, lift: float = 0.0, ramp: bool = False) -> LogLines:
    """People who come back for days, with outcomes that name their request and outcomes that do not."""
    chance, log = random.Random(seed), LogLines()
    for day in range(days):
        for number in range(users):
            group = ("control", "treatment")[number % 2]
            first = number % days
            if day < first or chance.random() < 0.4:
                continue
            at = START + DAY * day + SECOND * chance.uniform(0, 86_000)
            changed: dict[str, Any] = {"latency_ms": chance.uniform(1, 9)}
            if ramp:
                changed |= {"allocation": f"00000000000{1 + (day >= 4)}", "bucket": number}
            request = log.exposure(f"u{number}", group, at, **changed)
            if chance.random() < 0.2 + lift * (number % 2):
                log.outcome("conversion", f"u{number}", request, at + SECOND * 20)
            if chance.random() < 0.2:
                log.outcome("purchase", f"u{number}", None, at + HOUR, value=chance.uniform(1, 30), currency="EUR")
            if chance.random() < 0.3:
                log.outcome("click", f"u{number}", request, at + SECOND, item_id=2)
    return log


def without(log: LogLines, *spans: Span) -> LogLines:
    """The log as if the calls in these windows had never been, nor what names them."""
    times = [(text_time(a), text_time(b)) for a, b in spans]
    gone = {
        (line["user_id"], line["request_id"])
        for line in log.lines
        if line["event"] == "exposure" and any(a <= line["ts"] < b for a, b in times)
    }
    kept = LogLines([line for line in log.lines if (line.get("user_id"), line.get("request_id")) not in gone])
    first: dict[str, str] = {}
    for line in sorted(kept.lines_of("exposure"), key=lambda line: str(line["ts"])):
        first.setdefault(line["user_id"], line["ts"])
    # What users did between a call that is left out and their first one that counts is neither before nor after it.
    kept.lines = [
        line
        for line in kept.lines
        if line["event"] != "outcome" or line["request_id"] or line["ts"] >= first.get(line["user_id"], "")
    ]
    return kept


def numbers(report: dict[str, Any]) -> Any:
    """What must be the same whether calls are left out or were never there."""
    found = dict(only(report))
    for key in ("excluded", "allocations"):
        found.pop(key)
    found["history"] = [{k: v for k, v in look.items() if k != "with_excluded"} for look in found["history"]]
    found["data_quality"] = {k: v for k, v in found["data_quality"].items() if k != "excluded"}
    return rounded(found)


def rounded(value: Any) -> Any:
    """Without the last bits of sums, which depend on the order in which a database adds up."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value


WINDOWS: dict[str, list[Span]] = {
    "a day": [(START + DAY * 3, START + DAY * 4)],
    "hours": [(START + DAY * 5.3, START + DAY * 5.3 + MINUTE * 200)],
    "two": [(START + DAY * 1.2, START + DAY * 1.6), (START + DAY * 5, START + DAY * 6.5)],
    "over a ramp": [(START + DAY * 3.7, START + DAY * 4.4)],
    "the first look": [(START + DAY * 0.5, START + DAY * 1.5)],
    "touching": [(START + DAY * 2, START + DAY * 3), (START + DAY * 3, START + DAY * 4)],
}


AS_OF = START + DAY * 9


@dataclass(frozen=True, slots=True)
class Seen:
    """A log of visits that no test adds to, and its report with nothing left out."""

    folder: Path
    report: dict[str, Any]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = visits().write(tmp_path_factory.mktemp("visits"))
    return Seen(folder, report_of(folder, SALES, AS_OF))


@pytest.mark.parametrize(
    ("name", "ramp"),
    [*((name, False) for name in WINDOWS if name != "over a ramp"), ("two", True), ("over a ramp", True)],
)
def test_what_is_left_out_might_never_have_been(tmp_path: Path, name: str, ramp: bool) -> None:
    """Every number of the report is that of a log without these calls and without the outcomes that name them: users
    who came in a window enter with their next call, and outcomes without a request join them from there."""
    spans, log = WINDOWS[name], visits(ramp=ramp)
    if ramp:
        log.allocation("000000000001", {"control": 50, "treatment": 50})
        log.allocation("000000000002", {"control": 50, "treatment": 50}, START + DAY * 4)
    everything, plain = tmp_path / "with", tmp_path / "without"
    for folder, lines in ((everything, log), (plain, without(log, *spans))):
        folder.mkdir()
        lines.write(folder)
    found = report_of(everything, excluding(SALES, *spans), AS_OF)
    assert numbers(found) == numbers(report_of(plain, SALES, AS_OF))
    (excluded,) = [only(found)["excluded"]]
    left = sum(sum(one["calls"].values()) for one in excluded["windows"])
    assert 0 < left == len(log.lines_of("exposure")) - len(without(log, *spans).lines_of("exposure"))
    assert only(found)["data_quality"]["excluded"] == left
    came = len({line["user_id"] for line in log.lines_of("exposure")})
    assert excluded["users"] == came - only(found)["plan"]["users"]


def test_looks_go_on_from_the_first_call_of_all(seen: Seen) -> None:
    """Leaving out the beginning, or everything, moves no look and no allocation."""
    whole = only(seen.report)
    for end in (START + DAY * 2.5, START + DAY * 30):
        found = only(report_of(seen.folder, excluding(SALES, (START - DAY, end)), AS_OF))
        assert found["plan"]["looks_done"] == whole["plan"]["looks_done"]
        assert [look["with_excluded"]["verdict"] for look in found["history"]] == [
            look["verdict"] for look in whole["history"]
        ]
        assert found["allocations"] in (whole["allocations"], [])
    assert found["plan"]["users"] == 0
    assert "in excluded windows left out" in verdict(found)[1]
    assert verdict(found)[0] == "keep_running"


@pytest.mark.parametrize("hours", [(-48, -24), (24 * 30, 24 * 31)])
def test_a_window_of_nothing_changes_nothing(seen: Seen, hours: tuple[int, int]) -> None:
    """Before the first call, or later than the report: the same report, which says so."""
    span = (START + HOUR * hours[0], START + HOUR * hours[1])
    found = report_of(seen.folder, excluding(SALES, span), AS_OF)
    assert numbers(found) == numbers(seen.report)
    assert only(found)["excluded"]["decision"] is None
    text = analyze(seen.folder, "--as-of", time_text(AS_OF), text=excluding(SALES, span)).stdout
    assert ("ended before the first call" if hours[0] < 0 else "begins after the time of this report") in text


# --- guardrails -------------------------------------------------------------------------------------------------------


def crashing(minutes: int = 720) -> LogLines:
    """A treatment that is out every half hour."""
    log = service(minutes)
    for minute in range(20, minutes, 30):
        restart(log, "treatment", minute + 0.5, GONE)
    return log


def test_a_roll_back_that_was_said_stays(tmp_path: Path) -> None:
    """Without the hours of an incident nothing is rolled back; the report names them, and what was said before."""
    log = service(900)
    for minute in range(20, 500, 30):
        restart(log, "treatment", minute + 0.5, GONE, calls=3)
    log.write(tmp_path)
    text = ERRORS.replace("look: 1d", "look: 1h")
    before = only(report_of(tmp_path, text))
    assert verdict(before)[0] == "roll_back"
    spans = [(START + MINUTE * 100, START + MINUTE * 505)]
    report = report_of(tmp_path, excluding(text, *spans))
    found = only(report)
    assert verdict(found)[0] == "keep_running"
    assert {look["verdict"] for look in found["history"]} == {"keep_running"}
    said = [look["with_excluded"]["verdict"] for look in found["history"]]
    assert said == [look["verdict"] for look in before["history"]]
    assert "roll_back" in said
    assert found["excluded"]["decision"]["verdict"] == "roll_back"
    (value,) = found["excluded"]["e_values"]
    assert value["e_value"] >= 200 > metric(report, "error_rate")["e_value"]
    for form in ((), ("--markdown",)):
        shown = " ".join(analyze(tmp_path, *form, text=excluding(text, *spans)).stdout.replace("\\", "").split())
        assert re.search(
            r"\(incident\): 2,469 calls of 2,469 users; by group: control 1,215 of 1,215 users, ", shown
        ), form
        assert "with the excluded calls the verdict would be: roll back treatment; error_rate guardrail" in shown
        assert "the verdict with the excluded calls was: roll back treatment" in shown
        assert WARNING in shown


def test_outages_are_found_first_and_dropped_where_they_begin(tmp_path: Path) -> None:
    """One that begins before a window counts, one that begins inside does not, however long it lasts."""
    log = service(120)
    for second in range(0, 1500, 30):  # from minute 40 to 65
        log.exposure(f"long-{second}", "treatment", START + MINUTE * 40 + SECOND * second, **GONE)
    cases = ((30, 50, 0, True), (40, 41, 0, True), (41, 50, 3, False), (41, 55, 2, False), (45, 80, 1, False))
    for begin, end, counted, out in cases:
        span = (START + MINUTE * begin, START + MINUTE * end)
        folder = tmp_path / f"{begin}-{end}"
        folder.mkdir()
        log.write(folder)
        found = report_of(folder, excluding(ERRORS, span))
        (outage,) = only(found)["outages"]
        assert (outage["excluded"], outage["counted"]) == (out, 3), (begin, end)
        value = metric(found, "error_rate")["e_value"]
        assert value == pytest.approx(metric_of_outages(counted), rel=0.01), (begin, end)


def metric_of_outages(count: int) -> float:
    """E where nothing but so many outages of a treatment at equal shares was."""
    from abfleet_statistics.outages import log_e_of_outages

    if not count:
        return 1.0
    path = log_e_of_outages(np.ones(count, dtype=bool), np.full(count, 0.5))
    return float((1 + np.exp(path).max()) / 2)


def test_excluded_time_is_no_time_without_an_outage(tmp_path: Path) -> None:
    """Days that are left out do not speak for a treatment that was out before and after: E is that of the days left."""
    log, late = LogLines(), LogLines()
    for lines, gap in ((log, 10), (late, 0)):
        for part in (0, 1):
            begin = START + DAY * part * (gap + 0.25)
            for minute in range(0, 360, 2):
                for group in ("control", "treatment"):
                    lines.exposure(f"{group}-{part}-{minute}", group, begin + MINUTE * minute)
            for minute in range(20, 340, 30):
                lines.exposure(f"lost-{part}-{minute}", "treatment", begin + MINUTE * minute, **GONE)
    values = []
    for name, lines, text in (
        ("gap", log, ERRORS),
        ("excluded", log, excluding(ERRORS, (START + DAY * 0.25, START + DAY * 10.25))),
        ("none", late, ERRORS),
    ):
        folder = tmp_path / name
        folder.mkdir()
        values.append(metric(report_of(lines.write(folder), text), "error_rate")["e_value"])
    assert values[1] == pytest.approx(values[2], rel=0.02)
    assert values[0] <= values[1]


def test_the_clock_of_absence_goes_on_after_a_window(tmp_path: Path) -> None:
    """A treatment that answers nothing in a window is not absent; it is once the time beside it comes to 30 minutes."""
    away = {"fallback": "unavailable", "attempts": 1}
    log = service(200, lambda group, minute: away if group == "treatment" and minute >= 60 else {})
    log.write(tmp_path)
    text = excluding(ERRORS, (START + MINUTE * 70, START + MINUTE * 150))
    expected = {95: True, 69: False, 149: False, 165: False, 171: True}
    for minute, absent in expected.items():
        plain = minute == 95
        found = only(report_of(tmp_path, ERRORS if plain else text, START + MINUTE * minute))
        assert ("is absent" in verdict(found)[1]) is absent, minute
    for look in ("1h", "10m"):
        timed = text.replace("look: 1d", f"look: {look}").replace("horizon: 28d", "horizon: 10d")
        found = only(report_of(tmp_path, timed, START + MINUTE * 200))
        times = {"1h": [60, 120, 180], "10m": list(range(10, 201, 10))}[look]
        said = [look["verdict"] == "roll_back" for look in found["history"]]
        assert said == [minute >= 170 for minute in times], look


def test_both_halves_of_a_service_that_is_out_are_left_out(tmp_path: Path) -> None:
    """Control's outage goes like the treatment's: what is kept is judged by what is kept."""
    log = crashing()
    for minute in range(25, 720, 30):
        restart(log, "control", minute + 0.5, NOT_THERE)
    log.write(tmp_path)
    found = report_of(tmp_path, excluding(ERRORS, (START, START + MINUTE * 700)))
    assert metric(found, "error_rate")["e_value"] < 2
    assert [one["excluded"] for one in only(found)["outages"]].count(False) == 2


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "says"),
    [
        ("2026-11-02T00:00:00Z", "must be FROM/TO"),
        ("2026-11-02T00:00:00/2026-11-03T00:00:00Z", "a time with its zone"),
        ("2026-11-03T00:00:00Z/2026-11-02T00:00:00Z", "must be before"),
        ("2026-11-04T12:00:00Z/2026-11-05T00:00:00Z", "overlaps another window"),
        ("2026-10-01T00:00:00Z/2026-10-02T00:00:00Z", "outside of what is reported: the first call was at"),
        ("2027-10-01T00:00:00Z/2027-10-02T00:00:00Z", "outside of what is reported"),
    ],
)
def test_a_wrong_window_is_refused(tmp_path: Path, window: str, says: str) -> None:
    """With what is wrong and what is allowed."""
    text = excluding(SALES, (START + DAY * 3, START + DAY * 4))
    visits(days=5, users=20).write(tmp_path)
    result = analyze(tmp_path, "--exclude", window, text=text)
    assert result.exit_code == 2
    assert f"--exclude: {window.partition('/')[0]}"[:9] in result.output
    assert says in " ".join(result.output.split())


def test_the_same_window_twice_is_refused(tmp_path: Path) -> None:
    """Two of the command that overlap each other are a mistake, like one that overlaps a window of the file."""
    visits(days=5, users=20).write(tmp_path)
    flag = ("--exclude", "2026-11-02T00:00:00Z/2026-11-03T00:00:00Z")
    result = analyze(tmp_path, *flag, *flag, text=SALES)
    assert result.exit_code == 2
    assert "overlaps another window" in " ".join(result.output.split())


def test_a_window_of_the_command_is_one_of_the_file(seen: Seen) -> None:
    """`--exclude` once or more gives the numbers of the same windows in the file, and joins them."""
    spans = WINDOWS["two"]
    flags = [flag for a, b in spans for flag in ("--exclude", f"{time_text(a)}/{time_text(b)}")]
    by_file = report_of(seen.folder, excluding(SALES, *spans))
    for text, flagged in ((SALES, flags), (excluding(SALES, spans[0]), flags[2:])):
        result = analyze(seen.folder, "--json", *flagged, text=text)
        assert result.exit_code == 0, result.output
        assert numbers(json.loads(result.stdout)) == numbers(by_file)


# --- time -------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(1, 30)), max_size=5),
    st.integers(0, 250),
    st.integers(0, 80),
)
def test_excluded_time_against_counting(spans: list[tuple[int, int]], at: int, length: int) -> None:
    """Inside, before and back, against a count of seconds one by one."""
    windows = [ExcludedWindow(START + SECOND * a, START + SECOND * (a + b), "") for a, b in spans]
    time = ExcludedTime.of(windows)
    zero = round(START.timestamp()) * 1_000_000
    out = {second for a, b in spans for second in range(a, a + b)}
    assert bool(time.inside(np.array([zero + at * 1_000_000]))[0]) is (at in out)
    assert time.before(np.array([zero + at * 1_000_000]))[0] == 1_000_000 * len([s for s in out if s < at])
    begin = (time.back(zero + at * 1_000_000, length * 1_000_000) - zero) // 1_000_000
    assert len([s for s in range(begin, at) if s not in out]) == length
    assert begin not in out or not length
