"""Ejection: every transition of a replica's record, on a clock that is told the time."""

import pytest
from abfleet_router.balancing.ejection import (
    FORGET_SECONDS,
    EjectionPolicy,
    EjectionRecord,
    eject,
    failed,
    is_ejected,
    is_failing,
    may_eject_on_suspicion,
    succeeded,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.router.fakes import FakeClock

POLICY = EjectionPolicy(consecutive_failures=3, base_seconds=1.0, max_seconds=8.0)


def test_every_transition() -> None:
    """In → suspect → out → on probation → out for twice as long → trusted again, and the doubling begins anew."""
    clock, record = FakeClock(100.0), EjectionRecord()

    assert [failed(record, POLICY, clock(), proven=False) for _ in range(2)] == [False, False]
    succeeded(record)
    assert record == EjectionRecord(), "a success between failures: they are no longer in a row"

    assert [failed(record, POLICY, clock(), proven=False) for _ in range(3)] == [False, False, True]
    assert eject(record, POLICY, clock()) == 101.0
    assert is_ejected(record, clock())
    assert not failed(record, POLICY, clock(), proven=True), "sent before the ejection, back after it"

    clock.advance(0.999)
    assert is_ejected(record, clock())
    clock.advance(0.001)
    assert not is_ejected(record, clock()), "the end of the ejection is not part of it"

    assert failed(record, POLICY, clock(), proven=False), "on probation one failure is enough"
    assert eject(record, POLICY, clock()) == 103.0
    clock.advance(2.0)
    succeeded(record)
    assert not failed(record, POLICY, clock(), proven=False), "trusted again"
    assert [failed(record, POLICY, clock(), proven=False) for _ in range(2)] == [False, True]
    assert eject(record, POLICY, clock()) == clock() + 1.0, "the doubling begins anew"


def test_failures_of_long_ago_are_forgotten() -> None:
    """After a minute without a call a replica is neither nearly ejected nor on probation, and the doubling begins
    anew; while calls go on failing nothing is forgotten."""
    clock, record = FakeClock(100.0), EjectionRecord()
    assert [failed(record, POLICY, clock(), proven=False) for _ in range(2)] == [False, False]
    clock.advance(FORGET_SECONDS)
    assert is_failing(record, clock())
    clock.advance(0.1)
    assert not is_failing(record, clock())
    assert [failed(record, POLICY, clock(), proven=False) for _ in range(3)] == [False, False, True]
    for seconds in (1.0, 2.0, 4.0, 8.0, 8.0):
        assert eject(record, POLICY, clock()) == clock() + seconds
        clock.advance(seconds)
        assert failed(record, POLICY, clock(), proven=False), "on probation"
    clock.advance(FORGET_SECONDS + 0.1)
    assert not failed(record, POLICY, clock(), proven=False), "no longer on probation"
    assert eject(record, POLICY, clock()) == clock() + 1.0


def test_a_proven_failure_is_enough() -> None:
    """A broken connection or a wrong version ejects at the first failure."""
    assert failed(EjectionRecord(), POLICY, 0.0, proven=True)


def test_ejections_double_up_to_the_most() -> None:
    """1, 2, 4, 8, 8, … seconds while no call succeeds, for ever: a replica may be out of order for days."""
    record, now, lengths = EjectionRecord(), 0.0, []
    for _ in range(2000):
        until = eject(record, POLICY, now)
        lengths.append(until - now)
        now = until
    assert lengths[:5] == [1.0, 2.0, 4.0, 8.0, 8.0]
    assert set(lengths[5:]) == {8.0}


@given(
    st.lists(st.sampled_from(["fail", "prove", "succeed", "wait"]), max_size=60),
    st.integers(1, 6),
)
def test_a_record_never_ejects_early(moves: list[str], consecutive: int) -> None:
    """Whatever happens: without proof and probation it takes so many failures with no success between."""
    policy = EjectionPolicy(consecutive_failures=consecutive)
    record, now, in_a_row, out_since_success = EjectionRecord(), 0.0, 0, False
    for move in moves:
        if move == "wait":
            now += 0.7
        elif move == "succeed":
            succeeded(record)
            in_a_row, out_since_success = 0, False
            assert not is_ejected(record, now)
        else:
            was_out = is_ejected(record, now)
            due = failed(record, policy, now, proven=move == "prove")
            in_a_row += not was_out
            assert due == (not was_out and (move == "prove" or out_since_success or in_a_row >= consecutive))
            if due:
                assert now < eject(record, policy, now) <= now + policy.max_seconds
                in_a_row, out_since_success = 0, True


@pytest.mark.parametrize(("size", "most"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (9, 4)])
def test_at_most_half_of_a_pool_is_out_on_suspicion(size: int, most: int) -> None:
    """One after the other is ejected until floor(n / 2) are out."""
    out = 0
    while may_eject_on_suspicion(size, out):
        out += 1
    assert out == most
