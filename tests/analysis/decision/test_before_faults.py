"""Whether groups differed before their experiment began: seldom said of groups that do not differ, however uneven."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from abfleet_analysis.decision.faults import BEFORE_P, before_faults
from abfleet_analysis.decision.metrics import MetricRule, MetricSource
from abfleet_statistics.effects import Estimator
from abfleet_statistics.moments import Floats, ThirdMoments, from_sums

from tests.analysis.decision.test_decide import evidence

RUNS = 4000
MOST_FALSE = 12
"""Of RUNS: 4 are expected, and more than 12 come about once in 5,000 times."""
CONVERSION = MetricRule("conversion_rate", "primary", MetricSource.OUTCOME_ANY, Estimator.MEAN, 1, 0.1, outcome="one")
REVENUE = replace(CONVERSION, name="revenue_per_user", source=MetricSource.OUTCOME_VALUE)
CTR = MetricRule("ctr", "primary", MetricSource.CLICKS, Estimator.RATIO, 1, 0.1)
Draw = Callable[[np.random.Generator, int, float], tuple[Floats, Floats]]


def converted(rng: np.random.Generator, users: int, rate: float) -> tuple[Floats, Floats]:
    """Of each user whether they converted, and nothing else: float64[users] each."""
    return (rng.random(users) < rate).astype(np.float64), np.zeros(users)


def spent(rng: np.random.Generator, users: int, rate: float) -> tuple[Floats, Floats]:
    """Money, of a few buyers."""
    return np.where(rng.random(users) < rate, rng.lognormal(3, 1, users), 0.0), np.zeros(users)


def clicked(rng: np.random.Generator, users: int, rate: float) -> tuple[Floats, Floats]:
    """Clicks, and lists that were answered."""
    lists = rng.geometric(0.4, users)
    return rng.binomial(lists, rate).astype(np.float64), lists.astype(np.float64)


def said(
    rule: MetricRule, draw: Draw, users: tuple[int, int], rates: tuple[float, float], *, runs: int = RUNS, third: bool
) -> int:
    """In how many of the runs the groups are said to have differed; each run stands where a time would."""
    rng = np.random.default_rng(7)
    sums = np.zeros((10, runs, 1, 2))
    for run in range(runs):
        for group, (count, rate) in enumerate(zip(users, rates, strict=True)):
            y, z = draw(rng, count, rate)
            products = (y, z, y * y, y * z, z * z, y != 0, y**3, y * y * z, y * z * z, z**3)
            sums[:, run, 0, group] = [part.sum() for part in products]
    n = np.broadcast_to(np.array(users, np.float64), (runs, 1, 2))
    moments = from_sums([n, *sums[:6]], third=ThirdMoments(*sums[6:]) if third else None)
    made = evidence()
    made = replace(made, membership=np.ones((runs, 1, 1)), quality=replace(made.quality, before=moments))
    found = before_faults(made, rule, 1)
    assert len(found) == runs
    return sum(one is not None for one in found)


@pytest.mark.parametrize(
    ("rule", "draw", "rate"),
    [(CONVERSION, converted, 0.02), (CONVERSION, converted, 0.2), (REVENUE, spent, 0.1), (CTR, clicked, 0.05)],
    ids=["2 % converted", "20 % converted", "revenue", "ctr"],
)
@pytest.mark.parametrize("users", [(990, 10), (1950, 50), (100, 900), (1000, 1000)], ids=str)
def test_groups_that_did_not_differ(rule: MetricRule, draw: Draw, rate: float, users: tuple[int, int]) -> None:
    """By their own variances 1 to 80 % of uneven groups without an event were said to have differed."""
    false = said(rule, draw, users, (rate, rate), third=not rule.binary)
    assert false <= MOST_FALSE, f"{false} of {RUNS}, at p < {BEFORE_P}"


@pytest.mark.parametrize(("rule", "draw"), [(CONVERSION, converted), (REVENUE, spent), (CTR, clicked)])
def test_groups_that_did_differ(rule: MetricRule, draw: Draw) -> None:
    """Also where the treatment is the smaller one, and where it has nothing at all."""
    assert said(rule, draw, (5400, 600), (0.1, 0.3), runs=50, third=not rule.binary) >= 45
    assert said(rule, draw, (5400, 600), (0.1, 0.0), runs=50, third=not rule.binary) >= 45
