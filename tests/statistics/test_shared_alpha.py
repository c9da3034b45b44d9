"""One error rate for several tests that begin at different looks."""

import numpy as np
import pytest
from abfleet_statistics.sequential import spent
from abfleet_statistics.shared_alpha import shared_alpha
from hypothesis import given
from hypothesis import strategies as st

LOOKS = 28
FRACTIONS = [look / LOOKS for look in range(1, LOOKS + 1)]


def spent_by(parts: np.ndarray) -> float:
    """What a test has spent by the last look; parts: float64[looks]."""
    return max(spent(part, fraction) for part, fraction in zip(parts.tolist(), FRACTIONS, strict=True))


@given(st.lists(st.integers(0, LOOKS), min_size=1, max_size=6))
def test_parts_never_sum_to_more_than_the_whole(began: list[int]) -> None:
    """Whenever the others begin; and no test has less than it has spent."""
    parts = shared_alpha(0.025, FRACTIONS, [0, *began])
    there = np.array([0, *began])
    for look in range(LOOKS + 1):
        assert parts[look][there <= look].sum() <= 0.025 * (1 + 1e-12)
    looks = parts[:-1] * (np.arange(LOOKS)[:, None] >= there)
    assert sum(spent_by(part) for part in looks.T) <= 0.025 * (1 + 1e-12)


@given(st.lists(st.integers(0, LOOKS), min_size=1, max_size=4), st.integers(1, LOOKS))
def test_a_test_that_begins_later_changes_no_earlier_look(began: list[int], day: int) -> None:
    """What is known at a look is all that its parts depend on."""
    began = [0, *began]
    known = [one for one in began if one < day]
    whole, then = shared_alpha(0.025, FRACTIONS, began), shared_alpha(0.025, FRACTIONS[:day], known)
    mine = [index for index, one in enumerate(began) if one < day]
    assert whole[:day, mine] == pytest.approx(then[:day], rel=1e-12)


def test_tests_that_begin_together_have_equal_parts() -> None:
    """As Bonferroni has it; and what has not been spent is divided anew when one more begins."""
    assert shared_alpha(0.025, FRACTIONS, [0, 0]) == pytest.approx(np.full((LOOKS + 1, 2), 0.0125))
    halfway = shared_alpha(0.025, FRACTIONS, [0, 14])
    assert halfway[13] == pytest.approx([0.025, 0.0125])
    assert halfway[14] == pytest.approx([0.0125, 0.0125])
    used = spent(0.025, 27 / 28)
    late = shared_alpha(0.025, FRACTIONS, [0, 27])
    assert late[27] == pytest.approx([used, 0.025 - used])
    assert shared_alpha(0.025, FRACTIONS, [0, LOOKS])[-1] == pytest.approx([0.025, 0.0], abs=1e-12)
    assert shared_alpha(0.025, FRACTIONS, []).shape == (LOOKS + 1, 0)
