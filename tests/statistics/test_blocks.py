"""The e-process by blocks against its formula in plain numbers. Knows no log."""

import math
from itertools import groupby

import numpy as np
import pytest
from abfleet_statistics import guardrails
from abfleet_statistics.blocks import BlockedProcess, log_e_by_blocks
from hypothesis import given
from hypothesis import strategies as st

Step = tuple[int, int, int, float]
"""Block, users of the treatment, users of control, the treatment's share."""
STEPS = st.lists(
    st.tuples(st.integers(3, 9), st.integers(0, 40), st.integers(0, 40), st.sampled_from([0.05, 0.125, 0.5])),
    min_size=1,
    max_size=12,
).map(sorted)


def by_hand(steps: list[Step], first: int, horizon: int) -> float:
    """ln E after the steps: each block multiplies each stake by what its users say, 4 at most."""
    stakes, unpaid, at = [0.5] * 8, 0.5, first
    for block, inside in groupby(steps, key=lambda step: step[0]):
        rows = list(inside)
        for number in range(at, block + 1):
            if number < first + horizon:
                stakes = [stake + 0.5 / horizon for stake in stakes]
                unpaid -= 0.5 / horizon
        at = block + 1
        for place, bet in enumerate(guardrails.BETS):
            factor = 1.0
            for _, treatment, control, share in rows:
                null = share * 1.25 / (1 - share + share * 1.25)
                other = share * 1.25 * bet / (1 - share + share * 1.25 * bet)
                factor *= (other / null) ** treatment * ((1 - other) / (1 - null)) ** control
            stakes[place] *= min(factor, 4.0)
    return math.log(sum(stakes) / 8 + max(unpaid, 0.0))


def path(steps: list[Step], first: int = 3, horizon: int = 5) -> tuple[list[float], int]:
    block, treatment, control, share = (np.array(column) for column in zip(*steps, strict=True))
    log_e, capped = log_e_by_blocks(
        treatment.astype(float), control.astype(float), share, block, first=first, horizon=horizon
    )
    return log_e.tolist(), capped


@given(STEPS, st.integers(1, 8))
def test_the_path_is_the_formula(steps: list[Step], horizon: int) -> None:
    """After each step E is as worked out by hand, whatever is in one block and however many blocks are empty."""
    found, _ = path(steps, horizon=horizon)
    for last, log_e in enumerate(found, start=1):
        assert log_e == pytest.approx(by_hand(steps[:last], 3, horizon), abs=1e-9)


@given(STEPS)
def test_event_by_event_is_the_same(steps: list[Step]) -> None:
    """Who follows a log gets what a report of all of it says."""
    process = BlockedProcess(first=3, horizon=5)
    assert [process.add(*step) for step in steps] == pytest.approx(path(steps)[0], abs=1e-9)


def test_one_cause_of_half_an_hour_does_not_act() -> None:
    """Users of the treatment alone, a thousand a block: four blocks stay below 200, and two more do not."""
    blocks: list[Step] = [(block, 1000, 0, 0.125) for block in range(6)]
    found, capped = path(blocks, first=0, horizon=4032)
    threshold = -math.log(guardrails.ALPHA)
    assert found[3] < threshold < found[4]
    assert capped == 5  # the last one has not ended


def test_the_cap_is_on_both_groups_together() -> None:
    """What control loses is not cut off: as many users of both groups in one block speak for the treatment."""
    even, _ = path([(0, 500, 500, 0.5)], first=0, horizon=4032)
    assert even[0] < math.log(0.51)


def test_good_days_bank_half_at_most() -> None:
    """After a week without a bad event of the treatment E has lost no more than what was there at the start."""
    week: list[Step] = [(block, 0, 200, 0.5) for block in range(1008)]
    found, _ = path(week, first=0, horizon=4032)
    assert math.log(0.37) < found[-1] < math.log(0.38)  # three quarters of the second half
    assert path([(0, 0, 0, 0.5), (5000, 0, 0, 0.5)], first=0, horizon=4032)[0] == pytest.approx([0.0, 0.0], abs=1e-12)


def test_blocks_are_a_supermartingale_at_the_tolerated_ratio() -> None:
    """The mean of E after a block of one user is what it was before; with many users the cap lowers it."""
    share, theta = 0.2, 0.25 / 1.05
    one = [math.exp(path([(3, x, 1 - x, share)])[0][0]) for x in (0, 1)]
    assert (1 - theta) * one[0] + theta * one[1] == pytest.approx(1.0)
    counts = np.random.default_rng(1).binomial(200, theta, 2000)
    many = [math.exp(path([(3, int(x), 200 - int(x), share)])[0][0]) for x in counts]
    assert 0.4 < np.mean(many) < 1.0
