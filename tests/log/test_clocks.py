"""Which times a log allows: an edge is found where it is, and what only looks like one is none."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from abfleet_log.clocks import DAY_US, HOUR_US, AllowedTimes, HourCount, allowed_times, routers_off

BEGIN = 20_000 * DAY_US
WEEKS = 14


def call(at: int, **changed: object) -> HourCount:
    """One call at so many microseconds after BEGIN."""
    line = HourCount("exposure", None, "test", "a", "r", synthetic=False, n=1, oldest=BEGIN + at, newest=BEGIN + at)
    return replace(line, **changed)


def steady(days: float, a_day: int = 240, **changed: object) -> list[HourCount]:
    """As many calls each day, the first of them at once."""
    return [call(index * DAY_US // a_day, **changed) for index in range(int(days * a_day))]


def moved(lines: Iterable[HourCount], by: int) -> list[HourCount]:
    return [replace(line, oldest=line.oldest + by, newest=line.newest + by) for line in lines]


def wrong(lines: Sequence[HourCount], **named: bool) -> list[HourCount]:
    allowed = allowed_times(lines, **named)
    return [line for line in lines if allowed.wrong(line)]


@pytest.mark.parametrize("by", [-BEGIN, -8 * DAY_US, -2 * DAY_US, 8 * DAY_US, 40 * DAY_US, 730 * DAY_US])
@pytest.mark.parametrize("event", ["exposure", "rejected", "reload", "allocation"])
def test_one_line_of_another_time(by: int, event: str) -> None:
    """Of whatever kind, before the others or after them: it alone is wrong, whatever experiment it belongs to."""
    for experiment in ("test", "another"):
        odd = call(DAY_US // 2 + by if by > -BEGIN else by, event=event, experiment=experiment)
        lines = [*steady(3), odd]
        # A call of another experiment before the others is that one's first and only one, and of no harm to anybody.
        assert wrong(lines) == [odd]


def test_an_outcome_ahead_is_wrong_and_one_long_ago_is_not() -> None:
    """Outcomes are imported from before the first call, and go on after the last one."""
    ahead = call(9 * DAY_US, event="outcome", type="click")
    assert wrong([*steady(3), ahead]) == [ahead]
    for at in (-BEGIN // 2, -8 * DAY_US):
        assert wrong([*steady(3), call(at, event="outcome", type="click")]) == []
    late = moved(steady(6, 10, event="outcome", type="purchase"), 3 * DAY_US)
    early = steady(3, 20, event="outcome", type="purchase")
    assert wrong([*steady(3), *early, *late]) == []


@pytest.mark.parametrize("by", [-8 * DAY_US, 8 * DAY_US])
def test_nine_in_a_thousand_leave_the_edge_where_it_was(by: int) -> None:
    """There is no gap between them and the others; the first and the last hour are those of the right lines."""
    right = steady(WEEKS)
    odd = set(random.Random(5).sample(range(len(right)), len(right) * 9 // 1000))
    lines = [line for index, line in enumerate(right) if index not in odd]
    lines += moved((right[index] for index in odd), by)
    allowed = allowed_times(lines)
    begin, end = allowed.oldest or BEGIN, allowed.newest or right[-1].newest
    assert begin // HOUR_US == BEGIN // HOUR_US
    assert end // HOUR_US == right[-1].newest // HOUR_US


@pytest.mark.parametrize(
    "lines",
    [
        steady(21, 1)[::2],
        [line for line in steady(28) if (line.oldest - BEGIN) // DAY_US % 7 < 5],
        [line for line in steady(28) if not 6 <= (line.oldest - BEGIN) // DAY_US < 20],
        [*steady(0.5, 4000), call(9 * DAY_US)],
        [*steady(7), *steady(7, router="s"), *moved(steady(7, router="s"), 7 * DAY_US)],
        [],
        [call(0)],
    ],
    ids=["a few lines", "weekends", "two weeks of silence", "a burst and a call", "more routers", "none", "one"],
)
def test_what_is_no_wrong_clock(lines: list[HourCount]) -> None:
    """Silence, few lines and growth are no fault."""
    assert wrong(lines) == []


def test_ten_calls_and_one_of_1970() -> None:
    """After a silence of months a tenth is few."""
    odd = call(-BEGIN)
    assert wrong([*steady(10, 1), odd]) == [odd]


def test_a_longer_log_says_the_same_of_its_beginning() -> None:
    """What was left out stays left out, and nothing else begins to be, as days are added."""
    odd = [call(-8 * DAY_US), *moved(steady(2, 2), -3 * DAY_US)]
    found = [wrong([*odd, *steady(days)]) for days in (3, 4, 9, 60)]
    assert found == [odd] * 4


def test_calls_before_their_allocation_came_into_force() -> None:
    """The log's own event says so, to a minute and far below a day; a whole week before it stays: its file is gone."""
    event = call(0, event="allocation")
    odd = call(-5 * HOUR_US)
    assert wrong([*steady(3), event, odd]) == [odd]
    assert wrong([*steady(14), replace(event, oldest=BEGIN + 7 * DAY_US, newest=BEGIN + 7 * DAY_US)]) == []


def test_a_call_of_a_later_allocation() -> None:
    """In the middle of the log, where other calls are, a call of an allocation that began days later is too early."""
    odd = call(2 * DAY_US, allocation="b")
    lines = [*steady(6), *moved(steady(6, allocation="b"), 6 * DAY_US), odd]
    assert wrong(lines) == [odd]
    assert allowed_times(lines).begins == {("test", "b"): BEGIN + 6 * DAY_US}


def test_as_of_a_moment_nothing_is_too_new() -> None:
    """Whoever names the moment knows what time it is."""
    assert wrong([*steady(3), call(9 * DAY_US)], until_newest=False) == []
    assert AllowedTimes() == allowed_times(steady(3))


@pytest.mark.parametrize("days", [-365, -3, 3, 8, 365])
def test_a_router_that_is_off(days: int) -> None:
    """One of three is named, with its days; of two both are."""
    off = moved(steady(WEEKS, router="b"), days * DAY_US)
    lines = [*steady(WEEKS, router="a"), *off, *steady(WEEKS, router="c")]
    (found,) = routers_off(lines, "test")
    assert (found.router, found.ahead_us, found.beside) == ("b", days * DAY_US, None)
    (pair,) = routers_off([line for line in lines if line.router != "c"], "test")
    assert {pair.router, pair.beside} == {"a", "b"}


def test_a_router_that_began_later_ended_earlier_or_was_replaced() -> None:
    """Fleets grow, shrink and are deployed anew."""
    everything = steady(WEEKS, router="a")
    for other in (
        moved(steady(7, router="b"), 7 * DAY_US),
        steady(7, router="b"),
        moved(steady(7, router="b"), 3 * DAY_US),
        moved(steady(WEEKS, router="b"), WEEKS * DAY_US),
        moved(steady(WEEKS, router="b"), HOUR_US),
        [],
    ):
        assert routers_off([*everything, *other], "test") == ()
