"""Each way in which data can be broken, made in a log that is good otherwise: real files through the whole analysis.

The log has a winner, which is shipped. Each fault that refuses is shown beside one that is just small enough.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from abfleet_analysis.decision.evidence import DataQuality
from abfleet_analysis.decision.faults import _unjoined
from abfleet_analysis.reading.open_log import LogError, open_log
from scipy import stats

from tests.analysis.log_lines import DAY, START, LogLines, file_text, only, report_of

DAYS, A_DAY = 9, 300
OFTEN = {"control": 30, "treatment": 42}
"""Of a hundred users, how many convert."""
GROUPS = ("control", "treatment")
Damage = Callable[[LogLines], None]


def good_log() -> LogLines:
    """Users who come evenly, a call each, and convert exactly this often."""
    log = LogLines()
    for day in range(DAYS):
        for index in range(A_DAY):
            group, user = GROUPS[index % 2], f"u{day}-{index}"
            at = START + DAY * day + timedelta(seconds=index)
            request = log.exposure(user, group, at)
            if index // 2 % 50 < OFTEN[group] / 2:
                log.outcome("conversion", user, request, at)
    return log


def concluded(folder: Path, log: LogLines, tail: str = "", *, silent: float = 0) -> tuple[str, str]:
    """Verdict and reasons, with `tail` at the end of the log, and in the experiments file a third group of the weight
    `silent`, which has no line."""
    file = next(iter(log.write(folder).iterdir()))
    with file.open("a") as out:
        out.write(tail)
    text = file_text("conversion_rate").replace("weight: 50", f"weight: {50 - silent / 2:g}")
    third = f"\n      - {{name: silent, model: v2, weight: {silent:g}}}\n    metrics"
    text = text.replace("\n    metrics", third if silent else "\n    metrics")
    decision = only(report_of(folder, text))["decision"]
    return decision["verdict"], " ".join(decision["reasons"])


def fewer(share: float) -> Damage:
    """A share of the treatment's users have no lines."""

    def damage(log: LogLines) -> None:
        users = [line["user_id"] for line in log.lines if line["event"] == "exposure" and line["group"] == "treatment"]
        gone = set(users[:: round(1 / share)])
        log.lines = [line for line in log.lines if line["user_id"] not in gone]

    return damage


def in_two_groups(users: int) -> Damage:
    """So many users of control are served as the treatment's too, and so many the other way round."""

    def damage(log: LogLines) -> None:
        for index in range(users):
            log.exposure(f"u0-{index}", GROUPS[1 - index % 2], START + timedelta(hours=1))

    return damage


def unjoined(count: dict[str, int]) -> Damage:
    """So many outcomes of a group's users are of a request that is not in the log."""

    def damage(log: LogLines) -> None:
        for group, many in count.items():
            for index in range(many):
                user = f"u0-{2 * index + GROUPS.index(group)}"
                log.outcome("conversion", user, f"gone-{user}", START + timedelta(hours=1))

    return damage


def lost_list(requests: int, clicks: int, *, users: int) -> Damage:
    """Requests of the treatment that are not in the log, of so many users, each with so many outcomes."""

    def damage(log: LogLines) -> None:
        for index in range(requests):
            for _ in range(clicks):
                log.outcome("click", f"u0-{2 * (index % users) + 1}", f"gone-{index}", START + timedelta(hours=1))

    return damage


def before(often: dict[str, int]) -> Damage:
    """The users converted so often of a hundred in the days before the experiment began."""

    def damage(log: LogLines) -> None:
        early = START - DAY
        log.exposure("somebody-else", None, early)
        for day in range(DAYS):
            for index in range(A_DAY):
                if index // 2 % 50 < often[GROUPS[index % 2]] / 2:
                    log.outcome("conversion", f"u{day}-{index}", None, early)

    return damage


def of_three(silent: float) -> LogLines:
    """The good log, with an allocation in which a third group has that weight."""
    log, half = good_log(), 50 - silent / 2
    log.allocation("000000000001", {"control": half, "treatment": half, "silent": silent}, START)
    for line in log.lines:
        line.update({"propensity": half / 100} if line["event"] == "exposure" else {})
    return log


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (fewer(0.25), "sample-ratio mismatch: control has 1,350 users ("),
        (in_two_groups(40), "40 users (1.5%) were served in two groups of one allocation"),
        (unjoined({"treatment": 60}), "outcomes without a request in the log are not equally frequent in all groups: "),
        (before({"control": 10, "treatment": 30}), "conversion_rate of treatment differed from control in the 14 days"),
    ],
    ids=["sample ratio", "two groups", "unjoined", "before"],
)
def test_each_fault_refuses(tmp_path: Path, damage: Damage, why: str) -> None:
    """The winner is not shipped, and the sentence says what is broken."""
    log = good_log()
    damage(log)
    verdict, reasons = concluded(tmp_path, log)
    assert verdict == "refuse"
    assert why in reasons


def test_a_small_group_without_an_event_before_is_no_fault(tmp_path: Path) -> None:
    """None of 135 users had converted before the experiment, where control's did in 2 %: that comes of chance."""
    log, early = LogLines(), START - DAY
    log.exposure("somebody-else", None, early)
    log.allocation("000000000001", {"control": 95, "treatment": 5}, START)
    for index in range(2700):
        group, user, at = GROUPS[index % 20 == 0], f"u{index}", START + DAY * (index // 300) + timedelta(seconds=index)
        request = log.exposure(user, group, at, propensity=0.05 if group == "treatment" else 0.95)
        if index % 10 < (3, 7)[group == "treatment"] or (group == "treatment" and index % 40):
            log.outcome("conversion", user, request, at)
        if group == "control" and index % 50 == 1:
            log.outcome("conversion", user, None, early)
    log.write(tmp_path)
    text = file_text("conversion_rate").replace("weight: 50", "weight: 95", 1).replace("weight: 50", "weight: 5")
    decision = only(report_of(tmp_path, text))["decision"]
    assert decision["verdict"] == "check_first", "so large an effect is to be looked at, but nothing is refused"
    assert not any("before the experiment" in reason for reason in decision["reasons"])


@pytest.mark.parametrize(("at", "expected"), [(START - DAY, "ship"), (START + timedelta(hours=1), "refuse")], ids=str)
def test_outcomes_from_before_the_experiment_lost_no_request_of_it(tmp_path: Path, at: datetime, expected: str) -> None:
    """Of one group's users, whose calls of the day before are in another file, or whose clock was wrong."""
    log = good_log()
    log.exposure("somebody-else", None, START - 2 * DAY)
    for index in range(60):
        log.outcome("click", f"u0-{2 * index + 1}", f"gone-{index}", at)
    assert concluded(tmp_path, log)[0] == expected


def test_ten_users_in_two_groups_ship(tmp_path: Path) -> None:
    """A few of them break nothing."""
    log = good_log()
    in_two_groups(10)(log)
    assert concluded(tmp_path, log)[0] == "ship"


@pytest.mark.parametrize(("weight", "expected"), [(0.1, "ship"), (2, "refuse")])
def test_a_group_without_a_user(tmp_path: Path, weight: float, expected: str) -> None:
    """One that should have had 54 is missed; one that should have had three may be silent by chance."""
    verdict, reasons = concluded(tmp_path, of_three(weight), silent=weight)
    assert verdict == expected
    assert ("group silent has a weight of 2% and none of 2,700 users" in reasons) is (expected == "refuse")


@pytest.mark.parametrize(("lines", "expected"), [(10, "ship"), (11, "refuse")])
def test_unreadable_lines(tmp_path: Path, lines: int, expected: str) -> None:
    """More than ten, and more than one in a thousand."""
    verdict, reasons = concluded(tmp_path, good_log(), tail="half a line\n" * lines)
    assert verdict == expected
    assert ("11 of 3,683 log lines (0.30%) cannot be read" in reasons) is (expected == "refuse")


def test_a_half_written_last_line_breaks_nothing(tmp_path: Path) -> None:
    """What a crash leaves: counted, and the conclusion stands."""
    log = good_log()
    file = next(iter(log.write(tmp_path).iterdir()))
    with file.open("a") as out:
        out.write('{"schema":1,"event":"expos')
    report: dict[str, Any] = report_of(tmp_path, file_text("conversion_rate"))
    assert report["log"]["unreadable"] == 1
    assert only(report)["decision"]["verdict"] == "ship"


@pytest.mark.parametrize(
    "damage",
    [lost_list(1, 60, users=1), lost_list(3, 20, users=3), lost_list(60, 1, users=1)],
    ids=["one", "3", "user"],
)
def test_a_lost_line_with_many_outcomes_does_not_refuse(tmp_path: Path, damage: Damage) -> None:
    """However many clicks a lost list had, it was lost once; and one client that names wrong requests is one client."""
    log = good_log()
    damage(log)
    assert concluded(tmp_path, log)[0] == "ship"


def test_few_lost_requests_of_a_small_group_do_not_refuse() -> None:
    """Where a chi-square is wrong the test is exact: one lost request in a group of 1 % is no fault, six are."""
    for lost, refused in ((1, False), (2, False), (6, True)):
        quality = DataQuality(joined=np.array([99_000.0, 1000 - lost]), unjoined=np.array([1.0, lost]))
        assert bool(_unjoined(("control", "canary"), quality)) is refused
    many = DataQuality(joined=np.array([50_000.0, 50_000]), unjoined=np.array([100.0, 200]))
    p = stats.chi2_contingency(np.stack([many.unjoined, many.joined]), correction=False).pvalue
    assert f"(p = {p:.2g})" in _unjoined(("control", "treatment"), many)[0]


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken for one without a log: a pattern finds nothing in a folder that it may not read."""

    def refused(path: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    good_log().write(tmp_path)
    monkeypatch.setattr("abfleet_analysis.reading.open_log.os.listdir", refused)
    with pytest.raises(LogError, match="cannot be read: Permission denied"), open_log([tmp_path]):
        pass
