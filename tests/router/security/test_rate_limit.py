"""The rate limit: what a caller may do, whatever others do."""

import pytest
from abfleet_router.security.rate_limit import Rate, RateLimit, host_of
from hypothesis import given
from hypothesis import strategies as st


def test_a_burst_and_then_the_rate() -> None:
    """Three at once, then one for each half second; a refusal says how long to wait, and costs nothing."""
    limit = RateLimit(Rate(2.0, 3.0))
    assert [limit.wait("a", 0.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert limit.wait("a", 0.0) == pytest.approx(0.5)
    assert limit.wait("a", 0.4) == pytest.approx(0.1)
    assert limit.wait("a", 0.5) == 0.0
    assert limit.wait("a", 0.5) == pytest.approx(0.5)


def test_callers_do_not_share() -> None:
    """One that is refused takes nothing from another."""
    limit = RateLimit(Rate(1.0, 1.0))
    assert limit.wait("a", 0.0) == 0.0
    assert limit.wait("a", 0.0) > 0
    assert limit.wait("b", 0.0) == 0.0


def test_the_table_is_bounded_and_forgets_the_quietest() -> None:
    """Ten thousand strangers do not push out the one who keeps calling."""
    limit = RateLimit(Rate(1.0, 1.0), most_callers=10)
    for number in range(10_000):
        limit.wait("busy", float(number))
        limit.wait(f"stranger-{number}", float(number))
        assert len(limit) <= 10
    assert limit.wait("busy", 9_999.0) > 0


@given(
    rate=st.floats(0.1, 1000),
    burst=st.integers(1, 50),
    gaps=st.lists(st.floats(0, 2), min_size=1, max_size=200),
)
def test_never_more_than_burst_and_rate_allow(rate: float, burst: int, gaps: list[float]) -> None:
    """In any stretch of time there are at most burst + rate x time calls; and who waits as told is taken."""
    limit, now, taken = RateLimit(Rate(rate, burst)), 0.0, list[float]()
    for gap in gaps:
        now += gap
        wait = limit.wait("a", now)
        if wait:
            now += wait
            assert limit.wait("a", now + 1e-6) == 0.0
        taken.append(now)
    for index, begin in enumerate(taken):
        for count, end in enumerate(taken[index:], 1):
            assert count <= burst + rate * (end - begin + 1e-5) + 1e-6


@pytest.mark.parametrize(
    ("peer", "host"),
    [("ipv4:10.0.0.1:1234", "ipv4:10.0.0.1"), ("ipv6:%5B::1%5D:1", "ipv6:%5B::1%5D"), ("unix:", "unix"), ("", "")],
)
def test_host_of_a_peer(peer: str, host: str) -> None:
    """Connections of one machine are one caller."""
    assert host_of(peer) == host
