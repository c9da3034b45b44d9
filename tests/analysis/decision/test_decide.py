"""Each rule of the decision, on sums made to meet it. No log: that the sums are right is tested elsewhere."""

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from abfleet_analysis.decision import planning
from abfleet_analysis.decision.decide import decide
from abfleet_analysis.decision.evidence import BadEvents, Calendar, DataQuality, Evidence, MetricEvidence
from abfleet_analysis.decision.metrics import MetricSource, metric_rules
from abfleet_analysis.decision.verdicts import Decision, Verdict
from abfleet_experiments.config import AnalysisPlan, Guardrail, MetricsPlan
from abfleet_statistics.effects import compare, contrast_z
from abfleet_statistics.lookwise import LookwiseTest
from abfleet_statistics.moments import from_sums, proportions
from abfleet_statistics.sequential import boundaries
from numpy.typing import NDArray

Floats = NDArray[np.float64]
PLAN = AnalysisPlan()
FLAT = proportions(np.full((2, 1, 2), 100.0), np.array([[[0.0, 100.0]]] * 2))
PRIMARY, ERRORS = metric_rules(MetricsPlan("conversion_rate", (Guardrail("error_rate"),)), PLAN, {})


def evidence(
    *,
    rate: tuple[float, ...] = (0.05, 0.05),
    errors: tuple[float, ...] = (0.01, 0.01),
    a_day: tuple[int, ...] = (2800, 2800),
    looks: int = 28,
    days: int = 28,
    **quality: Any,
) -> Evidence:
    """Equal days of exactly these rates, without any chance in them; nobody comes after so many days."""
    groups = ("control", "experiment", "canary")[: len(rate)]
    daily = np.tile(np.array(a_day, dtype=float), (looks, 1))
    daily[days:] = 0
    times = [*range(1, looks + 1), looks]
    users = np.stack([daily[:t].sum(axis=0) for t in times])[:, None, :]
    shares = np.array(a_day) / sum(a_day)
    return Evidence(
        groups=groups,
        weights=shares,
        calendar=Calendar(28, looks, 7),
        membership=np.ones((looks + 1, 1, 1)),
        shares=np.broadcast_to(shares, (looks + 1, 1, len(groups))),
        new_users=users,
        users=users[:, 0],
        metrics=(
            MetricEvidence(PRIMARY, proportions(users, users * rate)),
            MetricEvidence(ERRORS, proportions(users, users * errors)),
        ),
        bad_events={ERRORS.name: BadEvents(np.arange(looks), daily * errors, np.broadcast_to(shares, daily.shape))},
        quality=DataQuality(lines=100_000, users=int(users[-1].sum()), **quality),
    )


def verdict(of: Evidence) -> tuple[Verdict, str]:
    found = decide(of, PLAN)
    return found.verdict, " ".join(found.reasons)


def test_no_effect_stops_when_the_planned_users_have_come() -> None:
    """Nothing differs: keep running until the planned number is reached, then stop."""
    found = decide(evidence(), PLAN)
    assert found.verdict is Verdict.STOP_NO_EFFECT
    first = next(look for look, (seen, _) in enumerate(found.history, 1) if seen is not Verdict.KEEP_RUNNING)
    assert 5600 * (first - 1) < found.users_planned <= 5600 * first
    assert found.days_left == 0


def test_too_few_users_at_the_horizon_are_inconclusive() -> None:
    """The horizon ends before the planned number."""
    found = decide(evidence(a_day=(300, 300)), PLAN)
    assert (found.verdict, found.history[-2][0]) == (Verdict.INCONCLUSIVE, Verdict.KEEP_RUNNING)
    assert len(found.reasons) == 1
    assert re.match(
        r"the horizon has ended after 16,800 users \(\d+,\d+ planned\) at its last look, too few to detect "
        r"a change of 10% in conversion_rate: conversion_rate of experiment: \+0\.0% ",
        found.reasons[0],
    )


@pytest.mark.parametrize(
    ("a_day", "days", "rate", "why"),
    [
        (
            (50_000, 50_000),
            1,
            0.0535,
            r"the looks after look 1 of 28 added no information, so the boundary has stayed at ",
        ),
        ((2_000, 2_000), 28, 0.05265, r"z is \d\.\d\d, and the boundary at the last look is \d\.\d\d$"),
    ],
)
def test_enough_users_at_the_horizon_are_never_called_too_few(
    a_day: tuple[int, int], days: int, rate: float, why: str
) -> None:
    """More than planned came and the metric is ahead, but no look passed: on one day, or by a little."""
    found = decide(evidence(a_day=a_day, days=days, rate=(0.05, rate), errors=(0.01, 0.01)), PLAN)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.users_planned < sum(a_day) * days
    first, second = found.reasons
    assert re.search(
        r"users \([\d,]+ planned\) at its last look, and no boundary has been crossed: conversion_rate of experiment: ",
        first,
    )
    assert re.match(why, second)
    assert "too few" not in f"{first} {second}".replace("too few events for an always-valid interval", "")


def test_a_winner_ships_after_the_minimum_and_the_crossing_stands() -> None:
    """A clear lift ships at look 7, however early it was clear, and stays shipped at every later look."""
    found = decide(evidence(rate=(0.05, 0.07), a_day=(20_000, 20_000)), PLAN)
    assert [seen for seen, _ in found.history] == [Verdict.KEEP_RUNNING] * 6 + [Verdict.SHIP] * 22
    assert (found.verdict, found.group) == (Verdict.SHIP, "experiment")


def test_harm_rolls_back_without_waiting() -> None:
    """A clear loss rolls back before the minimum has passed."""
    found = decide(evidence(rate=(0.05, 0.03)), PLAN)
    assert found.verdict is Verdict.ROLL_BACK
    assert [seen for seen, _ in found.history].index(Verdict.ROLL_BACK) < 6


def test_a_guardrail_that_is_not_shown_to_hold_keeps_a_winner_back() -> None:
    """+25 % errors are within what is tolerated live, but not shown to be below the margin: nothing is shipped."""
    found = decide(evidence(rate=(0.05, 0.06), errors=(0.01, 0.0125), looks=10), PLAN)
    assert found.verdict is Verdict.KEEP_RUNNING
    better, held_back = found.reasons
    assert better.startswith("conversion_rate of experiment is better than control's: +20.0% ")
    assert held_back == "it cannot be shipped yet, because error_rate is not yet shown to be within its margin"
    late = decide(evidence(rate=(0.05, 0.06), errors=(0.01, 0.0125), a_day=(1500, 1500)), PLAN)
    assert late.verdict is Verdict.INCONCLUSIVE
    assert late.reasons[1].startswith(
        "the horizon has ended, and experiment cannot be shipped, because error_rate is not"
    )


@pytest.mark.parametrize(("rate", "verdict"), [(0.0533, Verdict.SHIP), (0.047, Verdict.ROLL_BACK)])
def test_an_interval_that_contains_0_is_explained(rate: float, verdict: Verdict) -> None:
    """The boundary of the planned looks is passed earlier than the always-valid interval excludes 0: both are shown."""
    explained = "the always-valid interval still contains 0: it holds at every moment and so is wider than the boundary"
    found = decide(evidence(rate=(0.05, rate)), PLAN)
    assert found.verdict is verdict
    assert found.reasons[1].startswith(explained)
    clear = decide(evidence(rate=(0.05, 0.06 if verdict is Verdict.SHIP else 0.04)), PLAN)
    assert clear.verdict is verdict
    assert not any(explained in reason for reason in clear.reasons)


@pytest.mark.parametrize("rate", [(0.005, 0.0), (0.0, 0.005), (0.0, 0.0), (1.0, 0.99)], ids=str)
def test_a_group_whose_users_are_all_alike_has_no_interval(rate: tuple[float, float]) -> None:
    """Nor a p: 4 of 831 users against 0 of 291 would be an interval of -100 % to -100 % with p = 0.045."""
    found = decide(evidence(rate=rate, errors=rate, a_day=(1600, 600), looks=2), PLAN)
    for metric in found.groups[0].metrics:
        assert math.isnan(metric.p_value)
        assert all(math.isnan(end) for end in (*metric.interval, *metric.relative_interval))
    usual = decide(evidence(rate=(0.005, 0.01), errors=(0.005, 0.01), a_day=(1600, 600), looks=2), PLAN)
    assert all(metric.p_value < 1 for metric in usual.groups[0].metrics)


def test_a_winner_that_waited_for_a_guardrail_says_so() -> None:
    """The boundary is crossed at look 6, the errors are within their margin at look 16, and it is shipped then."""
    found = decide(evidence(rate=(0.05, 0.06), errors=(0.01, 0.011), a_day=(5000, 5000)), PLAN)
    assert [seen for seen, _ in found.history].index(Verdict.SHIP) == 15
    assert found.reasons[1:] == (
        "conversion_rate crossed its boundary at look 6, and error_rate was shown to be within its margin at look 16",
    )
    at_once = decide(evidence(rate=(0.05, 0.055), errors=(0.01, 0.01), a_day=(5000, 5000)), PLAN)
    assert at_once.verdict is Verdict.SHIP
    assert len(at_once.reasons) == 1


def test_the_time_left_is_by_the_rate_since_the_first_user() -> None:
    """2,000 users in 10 hours are 4,800 a day, though the first look has been, and only that."""
    young = evidence(a_day=(1000, 1000), looks=1)
    young = replace(young, calendar=Calendar(28, 1, 7, elapsed_days=10 / 24))
    assert planning.days_left(young, 50_000) == pytest.approx(10)
    assert planning.days_left(young, 2_100) == 6, "the plan's minimum is still to come"
    assert planning.days_left(young, 1e9) == 27
    assert planning.days_left(evidence(a_day=(1000, 1000), looks=10), 30_000) == 5, (
        "by looks, where nothing else is known"
    )


def test_before_the_minimum_a_winner_is_named_and_waits() -> None:
    """The boundary is crossed on day 3: that is said, and why it does not count yet."""
    better, held_back = decide(evidence(rate=(0.05, 0.07), a_day=(20_000, 20_000), looks=3), PLAN).reasons
    assert better.endswith("; it crossed its boundary")
    assert held_back == "it cannot be shipped yet, because the plan's minimum has not passed"


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("size", [-10.0, 10.0])
def test_a_margin_is_a_part_of_the_size_of_controls_value(size: float, direction: str) -> None:
    """Net of refunds a user may be worth less than nothing: 5 % worse is within 10 %, and 15 % is not."""
    rule = replace(PRIMARY, role="guardrail", source=MetricSource.OUTCOME_VALUE, margin=0.1)
    rule = replace(rule, sign=1 if direction == "up" else -1)
    for worse, held in ((0.05, True), (0.15, False)):
        mean = np.array([size, size - rule.sign * worse * abs(size)])
        users = np.cumsum(np.full((10, 1, 2), 2000.0), axis=0)
        y, yy = users * mean, users * (mean**2 + 4)
        found = compare(from_sums([users, y, 0 * y, yy, 0 * y, 0 * y, users]), np.ones((10, 1, 1)), 1)
        factor, points = planning.margin(rule, found)
        z = contrast_z(found, factor, points, sign=rule.sign)
        assert bool(z[-1] > 3) is held


def test_a_guardrail_without_any_event_passes_once_it_would_have_shown() -> None:
    """No errors in either group: of 39,200 users a rise of 0.2 points would be seen, of 2,800 it would not."""
    assert verdict(evidence(rate=(0.05, 0.07), errors=(0.0, 0.0)))[0] is Verdict.SHIP
    few = evidence(rate=(0.05, 0.15), errors=(0.0, 0.0), a_day=(100, 100), looks=14)
    found, why = verdict(few)
    assert found is Verdict.KEEP_RUNNING
    assert "users in both groups has a failed call in the log" in why


def test_users_are_planned_for_errors_that_nobody_has_seen() -> None:
    """Without an error, as many as would show a rise of 0.2 points; a primary metric of nothing is not planned for."""
    assert 7_700 < decide(evidence(rate=(0.5, 0.5), errors=(0.0, 0.0)), PLAN).users_planned < 7_720
    assert np.isnan(decide(evidence(rate=(0.0, 0.0)), PLAN).users_planned)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_decides_nothing(value: float) -> None:
    """Sums that are no numbers, of one group, in any metric: nothing is shipped, rolled back or stopped for them."""
    for metric in (0, 1):
        whole = evidence(rate=(0.05, 0.05), errors=(0.01, 0.01))
        broken = whole.metrics[metric].moments.sums()
        broken = [one.copy() for one in broken]
        for one in broken[1:]:
            one[:, :, 1] = value
        metrics = list(whole.metrics)
        metrics[metric] = replace(metrics[metric], moments=from_sums(broken))
        found = decide(replace(whole, metrics=tuple(metrics)), PLAN)
        assert {seen for seen, _ in found.history} <= {
            Verdict.KEEP_RUNNING,
            Verdict.INCONCLUSIVE,
            Verdict.STOP_NO_EFFECT,
        }
        assert metric or found.verdict is Verdict.INCONCLUSIVE


def test_a_difference_without_any_variance_decides_nothing() -> None:
    """An infinite z is one that nobody can believe."""
    test = LookwiseTest(0.025, (0.5, 1.0), compare(FLAT, np.ones((2, 1, 1)), 1), np.array([np.inf, np.inf]))
    assert not test.counts.any()
    assert not test.crosses(1)


def test_errors_roll_back_even_where_the_lift_is_too_good() -> None:
    """+60 % conversion with ten times the errors is rolled back, not checked."""
    found, why = verdict(evidence(rate=(0.05, 0.08), errors=(0.01, 0.10)))
    assert found is Verdict.ROLL_BACK
    assert "error_rate guardrail" in why


def test_too_good_to_be_true_is_checked_first() -> None:
    """A lift strictly above five times the planned effect asks for a check; one just below ships."""
    assert verdict(evidence(rate=(0.05, 0.08)))[0] is Verdict.CHECK_FIRST
    assert verdict(evidence(rate=(0.05, 0.0749)))[0] is Verdict.SHIP


def test_sample_ratio_mismatch_refuses() -> None:
    """4 % of the treatment's users missing: no conclusion, whatever the lift."""
    whole = evidence(rate=(0.05, 0.07))
    lost = whole.new_users * np.array([1.0, 0.96])
    found, why = verdict(replace(whole, new_users=lost, users=lost[:, 0]))
    assert found is Verdict.REFUSE
    assert "sample-ratio mismatch" in why


def test_a_slight_mismatch_at_shipping_is_checked_first() -> None:
    """A chi-square p below 0.01 is not enough to refuse, and enough to ask before shipping."""
    whole = evidence(rate=(0.05, 0.07))
    lost = whole.new_users * np.array([1.0, 0.985])
    assert verdict(replace(whole, new_users=lost, users=lost[:, 0]))[0] is Verdict.CHECK_FIRST


def test_users_in_two_groups_refuse_above_one_percent_and_ten() -> None:
    """The limits are both strict: more than 1 % and more than 10."""
    users = int(evidence().users[-1].sum())
    at = users // 100
    assert verdict(evidence(rate=(0.05, 0.07), users_in_two_groups=at))[0] is Verdict.SHIP
    found, why = verdict(evidence(rate=(0.05, 0.07), users_in_two_groups=at + 1))
    assert (found, "two groups" in why) == (Verdict.REFUSE, True)


def test_unreadable_lines_refuse_above_a_thousandth_and_ten() -> None:
    """100 of 100,000 lines are let pass, 101 are not; ten of a short log are."""
    assert verdict(evidence(rate=(0.05, 0.07), unreadable=100))[0] is Verdict.SHIP
    found, why = verdict(evidence(rate=(0.05, 0.07), unreadable=101))
    assert (found, "cannot be read" in why) == (Verdict.REFUSE, True)


def test_unequally_unjoined_outcomes_refuse() -> None:
    """Outcomes whose request is missing, 1 % in one group and 3 % in the other."""
    equal = {"joined": np.array([9900.0, 9900.0]), "unjoined": np.array([100.0, 100.0])}
    assert verdict(evidence(rate=(0.05, 0.07), **equal))[0] is Verdict.SHIP
    unequal = {"joined": np.array([9900.0, 9700.0]), "unjoined": np.array([100.0, 300.0])}
    found, why = verdict(evidence(rate=(0.05, 0.07), **unequal))
    assert (found, "without a request in the log" in why) == (Verdict.REFUSE, True)


def test_groups_that_differed_before_refuse_a_winner() -> None:
    """A lift that was there before the experiment is none of the treatment's; it is looked at only when shipping."""
    n = np.full((29, 1, 2), 1e4)
    y = n * [0.05, 0.07]
    before = from_sums([n, y, n * 0, y, n * 0, n * 0, y])
    found, why = verdict(evidence(rate=(0.05, 0.07), before=before))
    assert (found, "before the experiment" in why) == (Verdict.REFUSE, True)
    assert verdict(evidence(before=before))[0] is Verdict.STOP_NO_EFFECT


def test_users_who_come_later_change_no_earlier_look() -> None:
    """Groups that differ before the experiment by users of the last day refuse that day, and none before it."""
    n = np.full((29, 1, 2), 1e4)
    y = n * np.where(np.arange(29) < 27, 0.05, [[0.05], [0.07]]).T[:, None, :]
    before = from_sums([n, y, n * 0, y, n * 0, n * 0, y])
    decision = decide(evidence(rate=(0.05, 0.07), before=before), PLAN)
    said = [look[0] for look in decision.history]
    assert said[-3:] == [Verdict.SHIP, Verdict.SHIP, Verdict.REFUSE][: len(said[-3:])]


def test_a_group_with_weight_and_no_traffic_refuses() -> None:
    """One group's lines are thrown away: its weight says that it should be there."""
    whole = evidence()
    none = whole.new_users * np.array([1.0, 0.0])
    silent = replace(whole, new_users=none, users=none[:, 0], shares=whole.shares * 0)  # not by the split's test
    found, why = verdict(silent)
    assert (found, "none of" in why) == (Verdict.REFUSE, True)


def test_a_fault_beside_a_failing_guardrail_is_named_and_does_not_save_the_treatment() -> None:
    """Roll back comes first; the broken data is said beside it."""
    found, why = verdict(evidence(errors=(0.01, 0.10), unreadable=5000))
    assert found is Verdict.ROLL_BACK
    assert "cannot be read" in why


def test_each_group_has_its_own_decision() -> None:
    """A canary that is rolled back leaves the other treatment's verdict alone, and is the experiment's verdict."""
    found = decide(evidence(rate=(0.05, 0.07, 0.05), errors=(0.01, 0.01, 0.10), a_day=(3000, 3000, 1000)), PLAN)
    assert {group.group: group.verdict for group in found.groups} == {
        "experiment": Verdict.SHIP,
        "canary": Verdict.ROLL_BACK,
    }
    assert (found.verdict, found.group) == (Verdict.ROLL_BACK, "canary")


def test_of_several_winners_the_best_is_named() -> None:
    """Two treatments ship; the group is the one with the higher estimate."""
    found = decide(evidence(rate=(0.05, 0.065, 0.07), errors=(0.01,) * 3, a_day=(3000, 3000, 3000)), PLAN)
    assert (found.verdict, found.group) == (Verdict.SHIP, "canary")


def test_treatments_share_the_error_rate() -> None:
    """With two treatments each boundary is that of half the alpha."""

    def boundary(of: Decision) -> float:
        return of.groups[0].metrics[0].boundary

    looks = [look / 28 for look in range(1, 29)]
    one = decide(evidence(), PLAN)
    two = decide(evidence(rate=(0.05,) * 3, errors=(0.01,) * 3, a_day=(2000, 2000, 2000)), PLAN)
    assert boundary(two) == pytest.approx(2.397, abs=1e-3)
    assert boundary(one) == pytest.approx(boundaries(0.025, looks, looks)[-1], abs=1e-3)


@pytest.mark.parametrize("looks", [0, 1, 5])
def test_history_has_a_verdict_for_each_look(looks: int) -> None:
    """As many as looks were done, also for none."""
    found = decide(evidence(looks=looks) if looks else _before_any_look(), PLAN)
    assert len(found.history) == looks
    assert found.verdict is Verdict.KEEP_RUNNING


def test_history_does_not_change_with_later_looks() -> None:
    """What was said at a look is what an earlier report said then."""
    late, early = decide(evidence(rate=(0.05, 0.055)), PLAN), decide(evidence(rate=(0.05, 0.055), looks=12), PLAN)
    assert late.history[:12] == early.history


def _before_any_look() -> Evidence:
    first = evidence(looks=1)
    events = {name: replace(one, time=one.time * 0) for name, one in first.bad_events.items()}
    return replace(
        first,
        calendar=replace(first.calendar, done=0),
        membership=first.membership[1:],
        shares=first.shares[1:],
        new_users=first.new_users[1:],
        users=first.users[1:],
        metrics=tuple(replace(m, moments=from_sums([s[1:] for s in m.moments.sums()])) for m in first.metrics),
        bad_events=events,
    )


def test_users_who_come_too_fast_do_not_hide_an_effect() -> None:
    """With the planned users there on day 2 and a lift that would pass at the horizon, it goes on, and ships."""
    found = [seen for seen, _ in decide(evidence(rate=(0.05, 0.0545), a_day=(30_000, 30_000)), PLAN).history]
    assert Verdict.STOP_NO_EFFECT not in found
    assert found[-1] is Verdict.SHIP
