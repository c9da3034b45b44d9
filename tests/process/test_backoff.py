"""Waiting longer after each failure."""

from abfleet_process.backoff import backoff_seconds


def test_it_doubles_up_to_the_most() -> None:
    """1, 2, 4 … 60 s, however often it failed; nothing before the first failure."""
    waits = [backoff_seconds(failures, first=1.0, most=60.0) for failures in (0, 1, 2, 3, 6, 7, 8, 10_000)]
    assert waits == [0, 1, 2, 4, 32, 60, 60, 60]
