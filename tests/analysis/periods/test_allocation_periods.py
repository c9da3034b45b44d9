"""When the result is looked at, and which groups and shares an experiment has. Pure parts only."""

from datetime import timedelta

import pytest
from abfleet_analysis.periods.allocation_periods import group_names, looks_until, microseconds, moment
from abfleet_experiments.config import AnalysisPlan

from tests.analysis.log_lines import DAY, START

HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("first", "as_of", "done"),
    [
        (START + HOUR, START + HOUR * 2, 0),
        (START + HOUR, START + DAY, 1),
        (START + HOUR, START + DAY * 2 - timedelta(microseconds=1), 1),
        (START + HOUR, START + DAY * 2, 2),
        (START, START + DAY, 1),
        (START + HOUR, START + DAY * 400, 28),
    ],
)
def test_daily_looks_are_at_midnight_up_to_the_horizon(first: object, as_of: object, done: int) -> None:
    """The first at the midnight after the first exposure, then each day; none after the 28th."""
    looks = looks_until(first, as_of, AnalysisPlan())  # type: ignore[arg-type]
    assert (looks.calendar.done, looks.calendar.planned) == (done, 28)
    assert len(looks.times) == done + 1
    assert list(looks.times[:done]) == [START + DAY * (look + 1) for look in range(done)]
    assert looks.times[-1] == as_of


def test_seven_whole_days_pass_before_shipping() -> None:
    """An experiment that begins at midnight may ship at look 7; one that begins at noon at look 8."""
    plan = AnalysisPlan()
    assert looks_until(START + timedelta(minutes=3), START + DAY, plan).calendar.first_shipping == 7
    assert looks_until(START + HOUR * 12, START + DAY, plan).calendar.first_shipping == 8


def test_an_experiment_of_seconds_has_looks_too() -> None:
    """Looks shorter than a day begin at the next multiple of their own length, not at midnight."""
    plan = AnalysisPlan(horizon=timedelta(seconds=60), look=timedelta(seconds=2), minimum=timedelta(seconds=14))
    first = START + HOUR * 3 + timedelta(milliseconds=30)
    looks = looks_until(first, first + timedelta(seconds=15), plan)
    assert (looks.calendar.planned, looks.calendar.done, looks.calendar.first_shipping) == (30, 7, 7)
    assert looks.times[0] == START + HOUR * 3 + timedelta(seconds=2)


def test_microseconds_are_exact() -> None:
    """There and back, for a time that a float of seconds would round."""
    at = START + timedelta(days=90_000, microseconds=1)
    assert moment(microseconds(at)) == at


def test_control_without_a_file_is_named_or_the_largest() -> None:
    """The group called control, else the one with the largest share."""
    assert group_names(None, ["b", "control"], {"b": 0.9, "control": 0.1}) == ("control", "b")
    assert group_names(None, ["a", "b"], {"a": 0.3, "b": 0.7}) == ("b", "a")


def test_groups_keep_the_order_that_they_are_given_in() -> None:
    """Without the file too: their colours come of it."""
    assert group_names(None, ["b", "control", "a"], {}) == ("control", "b", "a")
