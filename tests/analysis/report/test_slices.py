"""Parts of the users as numbers: adjusted p against statsmodels, slices against the same users compared alone."""

import math
from datetime import datetime

import numpy as np
import pytest
from abfleet_analysis.decision.decide import conclude
from abfleet_analysis.decision.measurements import measure
from abfleet_analysis.decision.verdicts import Verdict
from abfleet_analysis.report.changes import in_words
from abfleet_analysis.report.paths import paths
from abfleet_analysis.report.recommended import overlap
from abfleet_analysis.report.slices import benjamini_hochberg, compared, described
from abfleet_analysis.simulation.scenarios import PLAN, SCENARIOS
from abfleet_statistics.effects import Estimator
from abfleet_statistics.moments import from_sums, of_users, side_by_side
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 3))
def test_benjamini_hochberg_is_the_textbook_one(p: list[float], unknown: int) -> None:
    """As statsmodels has it; slices that could not be compared count for nothing."""
    from statsmodels.stats.multitest import multipletests

    adjusted = benjamini_hochberg(np.array([math.nan] * unknown + p))
    assert np.isnan(adjusted[:unknown]).all()
    np.testing.assert_allclose(adjusted[unknown:], multipletests(p, method="fdr_bh")[1], rtol=1e-9, atol=1e-15)


def test_slices_are_the_same_users_compared_alone() -> None:
    """Value, change, interval and p of each slice are Welch's for these users; too few are not compared."""
    from statsmodels.stats.multitest import multipletests

    random = np.random.default_rng(3)
    users = {(s, g): random.exponential(1 + 0.3 * g * s, size=(400, 500, 8)[s]) for s in range(3) for g in range(2)}
    each = [side_by_side([of_users(users[s, g]) for g in range(2)]) for s in range(3)]
    moments = from_sums([np.concatenate(parts) for parts in zip(*(one.sums() for one in each), strict=True)])
    labels = ("a", "b", "few")
    found = compared(
        moments, np.ones((1, 1)), labels, ("control", "treatment"), estimator=Estimator.MEAN, negative=False
    )
    assert [(one.label, one.group, one.users) for one in found] == [
        ("a", "treatment", 400),
        ("b", "treatment", 500),
        ("few", "treatment", 8),
    ]
    p = []
    for s, one in enumerate(found[:2]):
        control, treatment = users[s, 0], users[s, 1]
        error = math.hypot(*(stats.sem(values) for values in (control, treatment)))
        relative = treatment.mean() / control.mean() - 1
        assert (one.value, one.baseline_value) == pytest.approx((treatment.mean(), control.mean()), rel=1e-9)
        assert one.relative_difference == pytest.approx(relative, rel=1e-9)
        for end in one.interval:  # Fieller's: a change at its end is as far from what is seen as chance may be
            off = treatment.mean() - (1 + end) * control.mean()
            of_end = math.hypot(stats.sem(treatment), (1 + end) * stats.sem(control))
            assert abs(off) == pytest.approx(stats.norm.ppf(0.975) * of_end, rel=1e-9)
        p.append(2 * stats.norm.sf(abs(treatment.mean() - control.mean()) / error))
    assert [one.adjusted_p for one in found[:2]] == pytest.approx(multipletests(p, method="fdr_bh")[1], rel=1e-9)
    assert all(math.isnan(number) for number in (found[2].relative_difference, *found[2].interval, found[2].adjusted_p))
    assert found[2].value == pytest.approx(users[2, 1].mean())
    assert [(one.divisor, one.baseline_divisor) for one in found] == [(400, 400), (500, 500), (8, 8)]


def test_described_slices_are_not_compared() -> None:
    """Each group by itself, control too; a ratio is one of sums."""
    rows = [
        {"label": "v1", "g": 1, "users": 1, "y": 5.0, "of": 1.0},
        {"label": "v1", "g": 0, "users": 2, "y": 4.0, "of": 8.0},
        {"label": "v2", "g": 0, "users": 9, "y": 4.0, "of": 9.0},
    ]
    control, treatment = described(rows, ("v1",), ("control", "t"))
    assert (control.group, control.users, control.value) == ("control", 2, 0.5)
    assert (treatment.group, treatment.users, treatment.value) == ("t", 1, 5.0)
    assert math.isnan(treatment.relative_difference)
    assert math.isnan(treatment.adjusted_p)
    assert (control.divisor, treatment.divisor) == (8.0, 1.0)


# --- the path to a conclusion -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scenario", "seed", "verdict", "known"),
    [("planned-effect", 1, Verdict.SHIP, 17), ("harm", 1, Verdict.ROLL_BACK, 22)],
)
def test_paths_cross_where_the_verdict_says(scenario: str, seed: int, verdict: Verdict, known: int) -> None:
    """The estimate is beyond a boundary at exactly the looks whose test has passed it, and first at the verdict's."""

    measurements = measure(SCENARIOS[scenario].draw(np.random.default_rng([5, seed])), PLAN)
    decision = conclude(measurements)
    looks = measurements.evidence.calendar.done
    at = tuple(datetime.fromtimestamp(86_400 * day) for day in range(looks + 1))  # noqa: DTZ006
    found = paths(measurements, at)
    treatment = measurements.treatments[0]
    for measured, path in zip(treatment.metrics, found.metrics, strict=False):
        sign = measured.rule.sign
        if measured.test is not None:
            crossed = [measured.test.crosses(look) for look in range(looks)]
            assert crossed == (sign * path.relative_difference >= sign * path.better_at)[:looks].tolist()
        harm = treatment.losing if path.role == "primary" else measured.harm
        assert harm is not None
        crossed = [harm.crosses(look) for look in range(looks)]
        assert crossed == (sign * path.relative_difference <= sign * path.worse_at)[:looks].tolist()
    primary = found.metrics[0]
    assert decision.groups[0].history.index(verdict) + 1 == known
    beyond = primary.relative_difference > primary.better_at
    assert int(np.argmax(beyond if verdict is Verdict.SHIP else primary.relative_difference < primary.worse_at)) < known
    result = decision.groups[0].metrics[0]
    assert (primary.low[-1], primary.high[-1]) == pytest.approx(result.relative_sequential_interval, rel=1e-12)
    assert found.ratio_p[-1] == decision.sample_ratio.p_value
    assert math.exp(found.metrics[1].log_e[-1]) == pytest.approx(decision.groups[0].metrics[1].e_value)
    assert np.isnan(primary.log_e).all()


def test_overlap_is_jaccard() -> None:
    """Common over all; nothing against nothing is unknown."""
    found = overlap([{1, 2, 3}, {2, 3, 4, 5}, set()])
    assert found[0, 1] == found[1, 0] == 2 / 5
    assert found[0, 0] == 1
    assert found[0, 2] == 0
    assert math.isnan(found[2, 2])


# --- changes in plain words -------------------------------------------------------------------------------------------


def line(second: int, router: str = "a", **members: object) -> dict[str, object]:
    names = (
        "config_revision",
        "allocation",
        "salt",
        "traffic",
        "weights",
        "moved",
        "old_revision",
        "new_revision",
        "active",
        "errors",
    )
    return dict.fromkeys(names) | {"at": second * 1_000_000, "router": router} | members


def shares(second: int, router: str, weights: str, **members: object) -> dict[str, object]:
    every = {"event": "allocation", "weights": weights, "allocation": weights, "traffic": 100.0} | members
    return line(second, router, **every)


def test_what_all_routers_say_is_said_once() -> None:
    """Two routers, one late, one started again: four changes, the return to earlier shares being one of them."""
    first, second = '{"control":70,"t":30}', '{"control":50,"t":50}'
    rows = [
        shares(0, "a", first),
        shares(1, "b", first),
        shares(10, "a", second, moved=0.2, config_revision="r2"),
        shares(11, "a", second),
        shares(19, "b", second, moved=0.2),
        shares(20, "a", first, moved=0.2),
        shares(21, "b", first, moved=0.2),
        shares(30, "a", first, traffic=0.0),
        shares(31, "b", first, traffic=0.0),
    ]
    found = list(in_words(rows))
    assert [one.text for one in found] == [
        "shares are 70/30 (control, t)",
        "shares are now 50/50 (control, t); 20.0 % of users moved",
        "shares are now 70/30 (control, t); 20.0 % of users moved",
        "the experiment takes nobody",
    ]
    assert [one.at.second for one in found] == [0, 10, 20, 30]
    assert found[1].revision == "r2"


def test_reloads_and_refusals_are_told_with_their_reasons() -> None:
    """In force, waiting, refused; each once, and once more when it happens again."""
    refused = {"event": "reload", "active": False, "errors": ["groups: weights must sum to 100"]}
    rows = [
        line(0, "a", **refused),
        line(1, "b", **refused),
        line(2, "a", event="reload", active=False, new_revision="r2", errors=["revision r2 waits for a worker"]),
        line(3, "a", event="reload", active=True, old_revision="r1", new_revision="r2", moved=0.125, errors=[]),
        line(4, "b", event="reload", active=True, old_revision="r1", new_revision="r2", moved=0.125, errors=[]),
        line(5, "a", **refused),
        line(6, "b", **refused),
    ]
    assert [(one.kind, one.text) for one in in_words(rows)] == [
        ("refused", "refused: groups: weights must sum to 100"),
        ("reload", "not in force yet: revision r2 waits for a worker"),
        ("reload", "the file's revision r2 is in force; 12.5 % of users moved"),
        ("refused", "refused: groups: weights must sum to 100"),
    ]
