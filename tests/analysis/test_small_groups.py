"""Groups too small to say anything, and outcomes that have not arrived: real files through the whole analysis."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from abfleet_analysis.decision import metrics

from tests.analysis.log_lines import DAY, START, LogLines, file_text, only, report_of
from tests.proofs import outside, p95_at_margin

OWN = """
metrics:
  plays: {type: count, outcome: play}
  spent: {type: mean, outcome: play}
  a_show: {type: ratio, outcome: play, over: show}
"""
KINDS = {
    "conversion_rate": "conversion",
    "ctr": "click",
    "revenue_per_user": "purchase",
    "plays": "play",
    "spent": "play",
    "a_show": "play",
}


def report(
    folder: Path,
    primary: str,
    control: tuple[int, int],
    treatment: tuple[int, int],
    *,
    day: int = 1,
    guardrails: tuple[str, ...] = ("error_rate",),
    own: str = OWN,
) -> dict[str, Any]:
    """An experiment of so many users a group, of whom so many have the outcome, on a day; every user has a `show`."""
    log = LogLines()
    everyone = control[0] + treatment[0]
    shares = {"control": control[0] / everyone, "treatment": treatment[0] / everyone}
    log.allocation("000000000001", {group: share * 100 for group, share in shares.items()})
    for group, (users, several) in (("control", control), ("treatment", treatment)):
        for index in range(users):
            user, at = f"{group}-{index}", START + timedelta(seconds=10 * index)
            request = log.exposure(user, group, at, propensity=shares[group])
            log.outcome("show", user, request, at)
            if index < several:
                log.outcome(KINDS[primary], user, request, at, value=2.0, item_id=1)
    log.exposure("last", "control", START + DAY * day + timedelta(hours=1), propensity=shares["control"])
    return only(report_of(log.write(folder), file_text(primary, guardrails, metrics=own)))


@pytest.mark.parametrize("primary", list(KINDS))
def test_five_users_who_do_nothing_are_no_harm(tmp_path: Path, primary: str) -> None:
    """A tenth of 1,000 control users act, and none of 5: that is what chance does in six of ten such groups."""
    experiment = report(tmp_path, primary, (1000, 100), (5, 0))
    assert experiment["decision"]["verdict"] == "keep_running"
    assert "cannot be judged yet" in " ".join(experiment["decision"]["reasons"])
    (metric,) = (one for one in experiment["metrics"] if one["role"] == "primary")
    assert metric["counts"] is False
    assert metric["z"] is None
    assert abs(metric["skewness"]) > 1
    assert metric["users_factor"] == pytest.approx(metric["skewness"] ** 2)


@pytest.mark.parametrize("primary", ["conversion_rate", "ctr", "revenue_per_user"])
def test_five_users_of_control_who_do_nothing_are_no_success(tmp_path: Path, primary: str) -> None:
    """The same the other way round, on a day on which it could be shipped."""
    assert report(tmp_path, primary, (5, 0), (1000, 100), day=8)["decision"]["verdict"] == "keep_running"


def test_a_tenth_of_nothing_is_not_told_from_nothing(tmp_path: Path) -> None:
    """9 of 900 against none of 100: of the nine one was to be expected there."""
    experiment = report(tmp_path, "conversion_rate", (900, 9), (100, 0))
    assert experiment["decision"]["verdict"] == "keep_running"


def test_a_group_large_enough_is_rolled_back(tmp_path: Path) -> None:
    """Of 2,000 control users 400 convert, of 600 of the treatment none."""
    experiment = report(tmp_path, "conversion_rate", (2000, 400), (600, 0))
    assert experiment["decision"]["verdict"] == "roll_back"
    assert all(one["counts"] for one in experiment["metrics"] if one["role"] == "primary")


def test_the_reason_says_what_is_missing(tmp_path: Path) -> None:
    """How many events there are, how many were to be expected where, and how many users would do."""
    (reason,) = report(tmp_path, "conversion_rate", (1000, 100), (5, 0))["decision"]["reasons"]
    assert (
        "too few users have an event: 100 of 1,006, of whom 0.5 are expected in treatment, where about 1 is needed"
        in reason
    )
    assert "times as many users, or give treatment a larger share" in reason


@pytest.mark.parametrize("primary", ["conversion_rate", "ctr", "revenue_per_user", "plays", "spent", "a_show"])
def test_an_outcome_that_never_arrived_is_named(tmp_path: Path, primary: str) -> None:
    """Errors fill the other guardrail, and make the planned users come: that is no reason to stop without effect."""
    experiment = report(tmp_path, primary, (400, 0), (400, 0), day=27)
    assert experiment["decision"]["verdict"] == "keep_running"
    (reason,) = experiment["decision"]["reasons"]
    assert "cannot be judged yet, because none of 801 users in both groups has" in reason


def test_a_guardrail_without_one_outcome_does_not_hold(tmp_path: Path) -> None:
    """A winner waits for a guardrail that says nothing, because what it counts is not in the log."""
    experiment = report(tmp_path, "conversion_rate", (3000, 600), (3000, 870), day=8, guardrails=("plays",))
    assert experiment["decision"]["verdict"] == "keep_running"
    held_back = experiment["decision"]["reasons"][1]
    assert "because plays cannot be judged yet: none of 6,001 users in both groups has a `play` in the log" in held_back


@pytest.mark.parametrize("kind", ["mean", "count", "proportion", "ratio"])
def test_what_has_not_arrived_is_said_before_anything_is_decided(tmp_path: Path, kind: str) -> None:
    """Nothing is to be shipped yet; a guardrail that can never hold is named all the same."""
    own = f"metrics:\n  spent: {{type: {kind}, outcome: play{', over: show' if kind == 'ratio' else ''}}}\n"
    experiment = report(tmp_path, "conversion_rate", (200, 20), (200, 22), guardrails=("spent",), own=own)
    assert experiment["decision"]["verdict"] == "keep_running"
    reason = experiment["decision"]["reasons"][1]
    assert reason == (
        "the guardrail spent cannot be shown to hold: none of 401 users in both groups has a `play` in the log"
    )
    (metric,) = (one for one in experiment["metrics"] if one["name"] == "spent")
    assert (metric["counts"], metric["z"]) == (False, None)


def test_no_failed_call_of_a_few_users_is_no_proof(tmp_path: Path) -> None:
    """A winner waits until so many users have come that a rise of 0.2 points would have shown."""
    experiment = report(tmp_path, "conversion_rate", (600, 60), (600, 180), day=8)
    assert experiment["decision"]["verdict"] == "keep_running"
    assert experiment["decision"]["reasons"][1] == (
        "it cannot be shipped yet, because error_rate is not yet shown to be within its margin: none of 1,201 users in "
        "both groups has a failed call in the log, but with so few users a rise of 0.2% of the users cannot be detected"
    )


def test_a_share_of_no_failed_call_is_nothing(tmp_path: Path) -> None:
    """With a margin of its own the guardrail tolerates a part of control's errors, and of none there is no part."""
    experiment = report(
        tmp_path, "conversion_rate", (600, 60), (600, 180), day=8, guardrails=("{name: error_rate, margin: 0.5}",)
    )
    assert experiment["decision"]["verdict"] == "keep_running"
    assert (
        "error_rate cannot be judged: none of 1,201 users in both groups has a failed call in the log, and a "
        "margin of 50%" in (experiment["decision"]["reasons"][1])
    )


def test_points_of_ones_own_are_seen_with_fewer_users(tmp_path: Path) -> None:
    """No call of these users failed: a rise of 2 points would have shown among them, one of 0.2 would not."""
    found = []
    for number, guardrail in enumerate(("error_rate", "{name: error_rate, points: 0.02}")):
        (tmp_path / str(number)).mkdir()
        experiment = report(tmp_path / str(number), "conversion_rate", (600, 60), (600, 85), guardrails=(guardrail,))
        (errors,) = (one for one in experiment["metrics"] if one["name"] == "error_rate")
        found.append(errors["z"])
    assert found[0] < 1.645 < 3 < found[1]


@pytest.mark.parametrize("split", list(outside.SPLITS))
def test_without_an_effect_few_experiments_are_decided(split: str) -> None:
    """A short form of `./run prove outside`: 400 experiments with 5 % who convert, none of them with an effect."""
    ship, back = outside.decided(outside.Cell(split, outside.kind_named("conversion 5.0%"), 5_600), 400)
    assert not outside.above(ship, 400), f"{ship} of 400 are shipped"
    assert not outside.above(back, 400, outside.BACK_BOUND), f"{back} of 400 are rolled back"


@pytest.mark.parametrize("split", list(outside.SPLITS))
@pytest.mark.parametrize("kind", ["errors +25 % of 1.0%", "errors +0.2 points on 0.00%"])
def test_a_guardrail_at_its_margin_seldom_passes(split: str, kind: str) -> None:
    """The same of guardrails; by each group's own variance 21 and 98 % of them pass at 99/1."""
    count = outside.passed(outside.Cell(split, outside.kind_named(kind), 5_600), 400)
    assert not outside.above(count, 400, outside.BACK_BOUND), f"{count} of 400 pass"


def spending(folder: Path, winsorise: str, *, buyers: int, shares: tuple[float, float] = (0.5, 0.5)) -> dict[str, Any]:
    """An experiment of 600 users of whom so many buy, each for one more than the last."""
    log = LogLines()
    for index in range(600):
        user, group = f"u{index}", "control" if index < 600 * shares[0] else "treatment"
        log.exposure(user, group, propensity=shares[group == "treatment"])
        if index % (600 // buyers) == 0:
            log.outcome("play", user, value=float(index // (600 // buyers) + 1))
    log.exposure("last", "control", START + DAY * 8, propensity=shares[0])
    own = f"metrics:\n  spent: {{type: mean, outcome: play{winsorise}}}\n"
    text = file_text("spent", metrics=own).replace("weight: 50}", f"weight: {shares[0] * 100:g}}}", 1)
    text = text.replace("weight: 50}", f"weight: {shares[1] * 100:g}}}")
    (metric,) = only(report_of(log.write(folder), text))["metrics"]
    return dict(metric)


def test_a_cap_of_nothing_is_that_of_the_users_who_have_a_value(tmp_path: Path) -> None:
    """12 of 600 users buy: the 0.97 quantile of all is 0, which would make both groups 0; that of the 12 cuts none of
    them, of 60 it cuts one, who would have spent 60."""
    (tmp_path / "few").mkdir()
    few = spending(tmp_path / "few", ", winsorise: 0.97", buyers=12)
    assert (few["cap"], few["cap_of"]) == (None, None)
    assert few["value"] == pytest.approx(sum(range(7, 13)) / 300)
    (tmp_path / "more").mkdir()
    more = spending(tmp_path / "more", ", winsorise: 0.8", buyers=60)
    assert (more["cap"], more["cap_of"]) == (48.0, "users with a value")
    assert more["baseline_value"] == pytest.approx(sum(range(1, 31)) / 301)
    assert more["value"] == pytest.approx(sum(min(one, 48) for one in range(31, 61)) / 300)


@pytest.mark.parametrize(("winsorise", "shares", "cap"), [("", (0.5, 0.5), None), ("", (0.8, 0.2), 59.0)])
def test_uneven_groups_winsorise_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, winsorise: str, shares: tuple[float, float], cap: float | None
) -> None:
    """Nobody says so in the file; with 0.999 of these few users nothing is cut, so that the test asks for 0.998."""
    monkeypatch.setattr(metrics, "UNEVEN_WINSORISE", 0.998)
    metric = spending(tmp_path, winsorise, buyers=60, shares=shares)
    assert (metric["cap"], metric["cap_of"]) == (cap, None if cap is None else "users")


def test_a_quantile_of_1_cuts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However uneven the groups are."""
    monkeypatch.setattr(metrics, "UNEVEN_WINSORISE", 0.9)
    assert spending(tmp_path, ", winsorise: 1", buyers=60, shares=(0.8, 0.2))["cap"] is None


def test_a_p95_at_its_margin_seldom_passes_in_a_small_group() -> None:
    """A short form of `./run prove p95-at-margin`: by the small group's own variance it passes in 13 of 100."""
    random = np.random.default_rng(1)
    assert sum(p95_at_margin.passes(random, (0.95, 0.05), 5600) for _ in range(100)) <= 7
