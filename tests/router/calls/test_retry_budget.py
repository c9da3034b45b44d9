"""The retry budget: retries stay a fixed share of the calls, with a bounded reserve."""

from abfleet_router.calls.retry_budget import RetryBudget
from hypothesis import given
from hypothesis import strategies as st


def test_the_reserve_is_there_at_first_and_runs_out() -> None:
    """A fresh router may retry so often, and no more."""
    budget = RetryBudget(per_call=0.2, banked=3.0)
    assert [budget.spend() for _ in range(5)] == [True, True, True, False, False]


def test_calls_earn_retries() -> None:
    """A share a call, and a refused retry costs nothing."""
    budget = RetryBudget(per_call=0.25, banked=1.0)
    assert budget.spend()
    budget.earn(3, now=0.0)
    assert not budget.spend()
    budget.earn(now=0.0)
    assert budget.spend()


def test_time_earns_retries() -> None:
    """A budget that is spent is full again after a while without a call, and no fuller than it was at first."""
    budget = RetryBudget(per_call=0.0, per_second=0.5, banked=3.0)
    budget.earn(now=1000.0)
    assert [budget.spend() for _ in range(4)] == [True, True, True, False]
    budget.earn(now=1002.0)
    assert [budget.spend() for _ in range(2)] == [True, False]
    budget.earn(now=4600.0)
    assert [budget.spend() for _ in range(4)] == [True, True, True, False]


@given(
    st.lists(st.one_of(st.just(None), st.integers(0, 50)), max_size=200),
    st.sampled_from([0.0, 0.1, 0.2, 1.0]),
    st.sampled_from([0.0, 1.0, 10.0, 100.0]),
)
def test_retries_are_bounded_by_calls_and_reserve(moves: list[int | None], per_call: float, banked: float) -> None:
    """Whatever the order, retries ≤ reserve + share · calls; and the reserve never grows past its size."""
    budget, calls, retries = RetryBudget(per_call=per_call, banked=banked), 0, 0
    for move in moves:
        if move is None:
            retries += budget.spend()
        else:
            budget.earn(move, now=0.0)
            calls += move
        assert 0 <= budget.tokens <= banked
        assert retries <= banked + per_call * calls + 1e-6
