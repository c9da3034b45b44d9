"""Interleavings in logs: who gets credit, what counts, and the verdicts, through the analysis of files."""

import hashlib
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from abfleet_analysis.analyse import analyse
from abfleet_experiments.file.load import load_text
from abfleet_log.files import WriterIdentity
from abfleet_log.tools.compact import compact
from abfleet_statistics.preference import Preferences, PreferenceTest
from scipy.stats import binom, binomtest
from typer.testing import CliRunner

from abfleet.cli import app
from abfleet.notify.verdict_changes import changes
from tests.analysis.interleaved_log import Drawn, clicked, file_text, interleaved, plain_count, plain_signs, read
from tests.analysis.log_lines import DAY, START, LogLines, only, report_of


def preference(report: dict[str, Any]) -> dict[str, Any]:
    """What the only experiment of a report shows."""
    return dict(only(report)["preference"])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_estimate_is_a_plain_count(seed: int, tmp_path: Path) -> None:
    """Users of each side at every look, p, and the value, against Python over the same lines and SciPy."""
    folder = Drawn(seed=seed).log.write(tmp_path)
    report = report_of(folder, file_text())
    lines = read(folder)
    looks, as_of = only(report)["plan"]["looks_done"], datetime.fromisoformat(report["as_of"])
    counted = plain_count(lines, looks, as_of)
    shown = preference(report)
    assert shown["users_preferring"] == list(counted[looks - 1])
    for one, (first, second) in zip(shown["path"], counted, strict=False):
        assert one["value"] == (pytest.approx((first - second) / (first + second)) if first + second else None)
    first, second = counted[looks - 1]
    assert shown["p_value"] == pytest.approx(binomtest(first, first + second).pvalue)
    wanted = binomtest(first, first + second).proportion_ci(method="exact")
    assert shown["interval"] == pytest.approx([2 * wanted.low - 1, 2 * wanted.high - 1], abs=1e-9)


def test_the_boundary_is_that_of_users_who_change_sides(tmp_path: Path) -> None:
    """What looks have in common comes from the database as it comes from a table of all users' signs."""
    folder = Drawn(users=150, days=12).log.write(tmp_path)
    report = report_of(folder, file_text())
    looks = only(report)["plan"]["looks_done"]
    found = plain_signs(read(folder), looks, datetime.fromisoformat(report["as_of"]))
    signs = np.array(list(found.values()), dtype=np.float64)
    assert (signs.min(axis=1) * signs.max(axis=1) < 0).any(), "some change sides"
    sums = Preferences((signs > 0).sum(axis=0), (signs < 0).sum(axis=0), signs.T @ signs)
    test = PreferenceTest(sums, tuple((look + 1) / 14 for look in range(looks)))
    shown = preference(report)
    assert shown["boundary"] == pytest.approx(test.boundary(looks - 1), abs=1e-9)
    for look, one in enumerate(shown["path"]):
        assert one["sequential_interval"] == pytest.approx(test.interval(look))


def test_a_report_of_an_earlier_day_says_what_was_said_then(tmp_path: Path) -> None:
    """Looks are replayed: the later log changes nothing of them, nor of their boundaries."""
    folder = Drawn(users=200, lean=0.6).log.write(tmp_path)
    whole, early = (report_of(folder, file_text(), at) for at in (None, START + DAY * 5 + timedelta(hours=1)))
    done = only(early)["plan"]["looks_done"]
    assert done == 5
    assert only(early)["history"] == only(whole)["history"][:done]
    assert preference(early)["path"] == preference(whole)["path"][:done]


def test_the_better_version_is_preferred_before_the_minimum(tmp_path: Path) -> None:
    """`plan.minimum` does not hold it back; the decision names the version, not a group."""
    folder = Drawn(users=300, lean=0.7).log.write(tmp_path)
    decision = only(report_of(folder, file_text().replace("minimum: 1d", "minimum: 10d")))["decision"]
    assert (decision["verdict"], decision["version"], decision["group"]) == ("prefer", "v2", None)
    assert decision["reasons"][0].startswith("users prefer v2 to v1, by look ")
    assert "of the 181 users with a preference prefer v2" in decision["reasons"][0]
    assert "always-valid 95 % interval" in decision["reasons"][0]


def test_a_version_that_dies_biases_nothing(tmp_path: Path) -> None:
    """Its fallbacks are left out by that rule and counted, clicks on them are nobody's, and nothing is refused."""
    folder = Drawn(users=120, died=3).log.write(tmp_path)
    experiment = only(report_of(folder, file_text()))
    lines = read(folder)
    alone = sum(line["event"] == "exposure" and "teams" not in line for line in lines)
    assert experiment["decision"]["verdict"] == "keep_running"
    assert experiment["preference"]["calls"]["fallbacks"] == alone > 0
    counted = plain_count(lines, experiment["plan"]["looks_done"], START + DAY * 100)
    assert experiment["preference"]["users_preferring"] == list(counted[-2])


def test_no_preference_at_the_horizon(tmp_path: Path) -> None:
    """Then, and not before."""
    folder = Drawn(users=80, days=7).log.write(tmp_path)
    experiment = only(report_of(folder, file_text("5d")))
    assert experiment["decision"]["verdict"] == "no_preference"
    assert [one["verdict"] for one in experiment["history"]] == [*["keep_running"] * 4, "no_preference"]
    assert experiment["decision"]["reasons"][0].startswith("the horizon has ended after 80 users")


def test_a_horizon_of_minutes(tmp_path: Path) -> None:
    """Shorter than the default `plan.minimum`, which has no say here; looks are seconds apart."""
    text = file_text().replace("{horizon: 14d, look: 1d, minimum: 1d}", "{horizon: 5m, look: 10s}")
    log = LogLines()
    for number in range(60):
        at = START + timedelta(seconds=5 * number)
        clicked(log, f"u{number}", interleaved(log, f"u{number}", at, ("AB", "BA")[number % 2]), 1 + number % 2, at)
    experiment = only(report_of(log.write(tmp_path), text))
    assert (experiment["decision"]["verdict"], experiment["decision"]["version"]) == ("prefer", "v1")
    assert experiment["plan"]["looks_done"] == 29
    assert experiment["plan"]["minimum_until"] is None


def test_credit_is_the_teams(tmp_path: Path) -> None:
    """A, B and nobody; once for a call and item; not of other lists, not without a request, not in identical lists."""
    log = LogLines()
    request = interleaved(log, "a", teams="=ABBA")
    for item in (1, 2, 2, 5, 3):
        clicked(log, "a", request, item)
    clicked(log, "a", request, 77)  # not in the list
    clicked(log, "a", None, 3)  # names no call
    clicked(log, None, interleaved(log, "e", request_id="alone"), 4)  # names the call alone
    clicked(log, "a", interleaved(log, "a", teams="=="), 1)  # identical lists
    clicked(log, "b", interleaved(log, "b", versions=["v2", "v1"]), 2)  # the second version is team A here
    clicked(log, "c", interleaved(log, "c", versions=["v2", "v9"]), 2)  # another pair
    clicked(log, "d", interleaved(log, "d"), 1)
    shown = preference(report_of(log.write(tmp_path), file_text()))
    assert shown["look"] is None
    assert shown["users_preferring"] == [1, 2]
    assert shown["users_without_preference"] == 1
    assert shown["clicks"] == {"credits": [2, 3], "nobodys": 3, "without_request": 1}
    assert shown["calls"] | {"merged": 5, "identical": 1, "other_versions": 1} == shown["calls"]


def test_calls_that_do_not_count(tmp_path: Path) -> None:
    """Forced users, synthetic calls, a repeated line, and calls in an excluded window."""
    log = LogLines()
    clicked(log, "a", interleaved(log, "a", START + DAY), 2)
    for user, changed in (("b", {"reason": "override"}), ("c", {"synthetic": True})):
        clicked(log, user, interleaved(log, user, START + DAY, **changed), 2)
    request = interleaved(log, "d", START + DAY)
    interleaved(log, "d", START + DAY + timedelta(seconds=1), "=BAAB", request_id=request)
    clicked(log, "d", request, 2)
    clicked(log, "e", interleaved(log, "e", START + DAY * 3), 3)
    window = '    exclude: [{from: "2026-11-04T00:00:00Z", to: "2026-11-05T00:00:00Z", why: "a database was down"}]'
    folder = log.write(tmp_path)
    whole, without = (only(report_of(folder, text)) for text in (file_text(), file_text(exclude=window)))
    assert whole["preference"]["users_preferring"] == [2, 1]
    assert without["preference"]["users_preferring"] == [2, 0]
    assert (whole["plan"]["users"], without["plan"]["users"]) == (3, 2)
    assert without["data_quality"]["excluded"] == 1
    assert without["excluded"]["users"] == 1
    assert without["excluded"]["windows"][0]["calls"] == {"interleaved": 1}


def test_compacted_logs_say_the_same(tmp_path: Path) -> None:
    """Parquet has the versions and teams as the lines do."""
    folder = Drawn().log.write(tmp_path)
    lines = report_of(folder, file_text())
    compact(folder, folder / "compacted", WriterIdentity("host", 1))
    assert preference(report_of(folder / "compacted", file_text())) == preference(lines)


def test_names_of_items(tmp_path: Path) -> None:
    """Lists and clicks that have names in place of numbers."""
    log = LogLines()
    request = interleaved(log, "a", teams="AB", items=None, item_names=["x", "y"])
    log.outcome("click", "a", request, item_name="y")
    assert preference(report_of(log.write(tmp_path), file_text()))["users_preferring"] == [0, 1]


def test_lines_whose_teams_do_not_fit_are_counted(tmp_path: Path) -> None:
    """Odd lines of other programs end no report; many of them are broken data."""
    log = LogLines()
    for number in range(30):
        clicked(log, f"u{number}", interleaved(log, f"u{number}", START + timedelta(minutes=number)), 2)
    odd = ({"teams": "AB"}, {"teams": "AXBBA"}, {"items": None}, {"versions": ["v1"]}, {"teams": 7}, {"versions": "v1"})
    for number in range(66):
        interleaved(log, f"odd{number}", START + timedelta(minutes=number))
        log.lines[-1] |= odd[number % len(odd)]
    experiment = only(report_of(log.write(tmp_path), file_text()))
    calls = experiment["preference"]["calls"]
    assert (calls["merged"], calls["unusable"], calls["other_versions"]) == (30, 44, 11)
    assert experiment["decision"]["reasons"] == ["44 calls of 85 have teams that do not fit their items"]


def test_a_router_whose_clock_is_off_is_refused(tmp_path: Path) -> None:
    """As for any experiment: it is named, and nothing is concluded."""
    log = LogLines()
    for router, day in (("router-1", 0), ("router-2", 200)):
        for number in range(40):
            at = START + DAY * day + timedelta(hours=number)
            interleaved(log, f"{router}-{number}", at, ("AB", "BA")[number % 2], router=router)
    decision = only(report_of(log.write(tmp_path), file_text()))["decision"]
    assert decision["verdict"] == "refuse"
    assert decision["reasons"] == ["the clocks of routers router-1 and router-2 differ by 200.0 days in all calls"]


def test_an_unfair_draft_is_refused(tmp_path: Path) -> None:
    """One version picks first in every list: lines are missing, or the coin is not one."""
    log = LogLines()
    for number in range(400):
        interleaved(log, f"u{number}", START + timedelta(minutes=number), "AB")
    decision = only(report_of(log.write(tmp_path), file_text()))["decision"]
    assert decision["verdict"] == "refuse"
    assert "the drafts are not fair: v1 in 400 lists and v2 in 0 lists picked first" in decision["reasons"][0]


@pytest.mark.parametrize(
    ("calls", "reason"),
    [
        ((), "no call of it is in the log yet"),
        ((None,), "no list has been merged yet: of 1 call none has both versions' answers"),
        (("==",), "the two versions' lists have not differed yet, in 1 call of 1 user"),
        (
            ("=AB",),
            (
                "no boundary has been crossed after 1 user: none of 1 user whose lists differed has clicked more of "
                "one version's items than of the other's"
            ),
        ),
    ],
)
def test_too_little_to_say(calls: tuple[str | None, ...], reason: str, tmp_path: Path) -> None:
    """What is missing is named, at each step of the way."""
    log = LogLines()
    log.exposure("other", None)
    for teams in calls:
        interleaved(log, "a", START, teams)
    decision = only(report_of(log.write(tmp_path), file_text()))["decision"]
    assert (decision["verdict"], decision["reasons"]) == ("keep_running", [reason])


def test_an_interleaving_that_left_the_file(tmp_path: Path) -> None:
    """The log alone says that it is one, and of which versions."""
    folder = Drawn(users=300, lean=0.7).log.write(tmp_path)
    text = file_text()
    text = text[: text.index("experiments:")]
    experiment = only(report_of(folder, text))
    assert (experiment["state"], experiment["decision"]["version"]) == ("ended", "v2")


def test_an_ab_test_of_the_same_name_leaves_these_lines_out(tmp_path: Path) -> None:
    """Lines of an earlier interleaving are of no group that is compared."""
    from tests.analysis.log_lines import file_text as groups_text

    plain, log = LogLines(), Drawn(users=30).log
    for number in range(40):
        plain.exposure(f"p{number}", ("control", "treatment")[number % 2], START + DAY * 9)
    log.lines += plain.lines
    for index, line in enumerate(plain.lines):
        line["request_id"] = f"plain-{index}"
    experiment = only(report_of(log.write(tmp_path), groups_text()))
    assert [one["name"] for one in experiment["groups"]] == ["control", "treatment"]
    assert experiment["plan"]["users"] == 40
    assert experiment["preference"] is None


def test_other_experiments_are_reported_beside_it(tmp_path: Path) -> None:
    """The whole document is there for each, by the same keys."""
    folder = Drawn(users=20).log.write(tmp_path)
    report = analyse([folder], load_text(file_text()), detailed=True)
    assert set(report.as_dict(detailed=True)["experiments"][0]) >= {"decision", "preference", "history", "metrics"}  # type: ignore[index]


# --- commands ---------------------------------------------------------------------------------------------------------


def run(*arguments: object) -> Any:
    """The command, in this process."""
    return CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Flags for a folder with an interleaving whose users prefer v2, and its experiments file."""
    folder = tmp_path_factory.mktemp("interleaving")
    Drawn(users=250, lean=0.7).log.write(folder)
    file = folder / "experiments.yaml"
    file.write_text(file_text(), encoding="utf-8")
    return str(folder), str(file)


def test_the_text_report(drawn: tuple[str, str]) -> None:
    """Verdict, table and every population; nothing of control and metrics."""
    shown = run("analyze", "--logs", drawn[0], "--experiments", drawn[1]).output
    assert shown.startswith("test: PREFER v2  running since ")
    for part in (
        "users who prefer it",
        "95 %, at all looks",
        "the lists of ",
        "merged lists: ",
        "drafts: fair (p = ",
        "an A/B test of the two would need some ",
    ):
        assert part in shown
    assert "control" not in shown


def test_markdown_and_html(drawn: tuple[str, str], tmp_path: Path) -> None:
    """Both are made of the same rows and sentences."""
    page = tmp_path / "report.html"
    result = run("analyze", "--logs", drawn[0], "--experiments", drawn[1], "--markdown", "--html", page)
    assert "## test: PREFER v2" in result.output
    assert "| version | users who prefer it |" in result.output
    assert "Users prefer v2: " in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(("verdicts", "code"), [("prefer", 3), ("no_preference,ship", 0)])
def test_fail_on_knows_these_verdicts(drawn: tuple[str, str], verdicts: str, code: int) -> None:
    """As any other."""
    result = run("analyze", "--logs", drawn[0], "--experiments", drawn[1], "--fail-on", verdicts, "--json")
    assert result.exit_code == code


@pytest.mark.parametrize(
    ("winner", "warning"), [("v2", None), ("v1", "the verdict of the log is PREFER v2, but the winner here is v1")]
)
def test_conclude_quotes_the_preference(drawn: tuple[str, str], winner: str, warning: str | None) -> None:
    """The winner is a version, and a warning says where the log has the other one."""
    flags = ("--logs", drawn[0], "--experiments", drawn[1], "--dry-run", "--json")
    document = json.loads(run("conclude", "test", "--winner", winner, *flags).stdout)["newest_verdict"]
    assert (document["verdict"], document["version"], document["warning"]) == ("prefer", "v2", warning)


def test_a_change_to_a_preference_is_notified(drawn: tuple[str, str]) -> None:
    """With the version; a change without one has the same message and id as it always had."""
    document = json.loads(run("analyze", "--logs", drawn[0], "--experiments", drawn[1], "--json").stdout)
    (change,) = changes({}, document)
    assert change.message() | {"verdict": "prefer", "version": "v2", "group": None} == change.message()
    assert "prefer v2: users prefer v2 to v1" in change.sentence()
    document["experiments"][0]["decision"] |= {"verdict": "roll_back", "group": "treatment", "version": None}
    (change,) = changes({}, document)
    assert "version" not in change.message()
    parts = ["test", {"verdict": "keep_running", "group": None, "treatments": {}}]
    parts += [{"verdict": "roll_back", "group": "treatment", "treatments": {}}, document["as_of"]]
    assert change.id == hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def test_power_of_an_interleaving(drawn: tuple[str, str]) -> None:
    """From a log or without one; the exact sign test has the power at that number of users."""
    flags = ("--experiments", drawn[1], "--preference", "0.55", "--json")
    need = json.loads(run("power", *flags, "--with-preference", "0.25", "--users-per-day", "1000").stdout)
    assert need["users_planned"] == pytest.approx(4 * need["users_with_preference"], abs=4)
    assert need["days"] == pytest.approx(need["users_planned"] / 1000, rel=0.01)
    users = round(need["users_with_preference"] / 1.25)
    threshold = int(binom.isf(0.025, users, 0.5))
    assert float(binom.sf(threshold, users, 0.55)) == pytest.approx(0.8, abs=0.02)
    of_log = json.loads(run("power", *flags, "--logs", drawn[0]).stdout)
    assert 0.2 < of_log["with_preference"] < 0.9
    assert of_log["days"] > 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--preference", "0.4"), "--preference: is 0.4; allowed: a share above 0.5 and below 1, such as 0.55"),
        (("--with-preference", "1.2"), "--with-preference: is 1.2; allowed: a share above 0 and up to 1, such as 0.3"),
        (("--effect", "0.1"), "--baseline, --deviation, --effect: are not of test, which interleaves"),
    ],
)
def test_power_refuses(drawn: tuple[str, str], flags: tuple[str, ...], message: str) -> None:
    """What is not of an interleaving, and shares that cannot be."""
    more = () if "--with-preference" in flags else ("--with-preference", "0.3")
    result = run("power", "--experiments", drawn[1], *more, *flags)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
