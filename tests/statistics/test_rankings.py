"""How alike two lists are: each measure against its definition, written out, and against SciPy."""

from collections.abc import Sequence
from fractions import Fraction

import pytest
from abfleet_statistics.rankings import kendall_tau_b, overlap, rank_biased_overlap
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

LISTS = st.lists(st.integers(0, 12), max_size=10, unique=True)
PAIRS = st.tuples(LISTS, LISTS)


def defined_rbo(one: Sequence[int], other: Sequence[int], p: Fraction) -> Fraction:
    """Equation 32 of Webber, Moffat & Zobel, term by term, in exact numbers."""
    short, long = sorted((one, other), key=len)
    s, depth = len(short), len(long)
    x = [Fraction(len(set(short[:d]) & set(long[:d]))) for d in range(depth + 1)]
    first = sum((x[d] / d * p**d for d in range(1, depth + 1)), Fraction(0))
    second = sum((x[s] * (d - s) / (s * d) * p**d for d in range(s + 1, depth + 1)), Fraction(0))
    return (1 - p) / p * (first + second) + ((x[depth] - x[s]) / depth + x[s] / s) * p**depth


@given(PAIRS, st.sampled_from((Fraction(9, 10), Fraction(1, 2), Fraction(98, 100))))
def test_rank_biased_overlap_is_its_definition(pair: tuple[list[int], list[int]], p: Fraction) -> None:
    """For lists of any lengths; it is from 0 to 1, and whose list is whose does not matter."""
    one, other = pair
    found = rank_biased_overlap(one, other, float(p))
    assert found == rank_biased_overlap(other, one, float(p))
    if one and other:
        assert found == pytest.approx(float(defined_rbo(one, other, p)), abs=1e-12)
        assert 0 <= found <= 1 + 1e-12
    else:
        assert found == (None if one == other else 0)


@given(PAIRS)
def test_kendalls_tau_b_is_scipys(pair: tuple[list[int], list[int]]) -> None:
    """Of the places of the common items."""
    one, other = pair
    common = [item for item in one if item in other]
    found = kendall_tau_b(one, other)
    if len(common) < 2:
        assert found is None
    else:
        oracle = kendalltau([one.index(item) for item in common], [other.index(item) for item in common], variant="b")
        assert found == pytest.approx(oracle.statistic, abs=1e-12)


@given(PAIRS, st.integers(1, 12))
def test_overlap_is_its_definition(pair: tuple[list[int], list[int]], k: int) -> None:
    """Of as many items as the longer list has among the first k."""
    one, other = pair
    found = overlap(one, other, k)
    longest = max(len(one[:k]), len(other[:k]))
    assert found == (None if not longest else len(set(one[:k]) & set(other[:k])) / longest)


@given(LISTS)
def test_equal_lists_are_as_alike_as_can_be(items: list[int]) -> None:
    """1 by every measure that has a value."""
    if items:
        assert overlap(items, items, 5) == 1
        assert rank_biased_overlap(items, items) == pytest.approx(1)
    if len(items) > 1:
        assert (kendall_tau_b(items, items), kendall_tau_b(items, items[::-1])) == (1, -1)


def test_an_item_that_is_there_twice_counts_once() -> None:
    """At its first place."""
    assert overlap([1, 1, 2], [1, 2], 3) == 1
    assert rank_biased_overlap([1, 1, 2], [1, 2]) == pytest.approx(1)
    assert kendall_tau_b([1, 2, 1], [2, 1, 2]) == -1
    assert kendall_tau_b(["a", "b"], ["b", "a"]) == -1


def test_the_top_weighs_most() -> None:
    """The same two items exchanged, at the top and at the end."""
    base = list(range(10))
    top, end = [1, 0, *base[2:]], [*base[:8], 9, 8]
    assert (rank_biased_overlap(base, top) or 0) < (rank_biased_overlap(base, end) or 0) < 1
    assert kendall_tau_b(base, top) == kendall_tau_b(base, end)
