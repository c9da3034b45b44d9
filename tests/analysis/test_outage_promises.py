"""What guardrails do with outages and lasting harm, in a short form of `./run prove outages`."""

import numpy as np
import pytest

from tests.proofs import outages

RUNS = 12


@pytest.mark.parametrize("setting", [one for one in outages.SETTINGS if one.known], ids=lambda setting: setting.name)
def test_equally_good_versions_are_not_rolled_back(setting: outages.Replicas) -> None:
    """Each replica killed once a day for four weeks, few calls and many; users alone would have cried wolf."""
    cells = [outages.falsely(RUNS, setting, rate=40.0, share=share) for share in (0.05, 0.5)]
    assert [now for now, _ in cells] == [0, 0]
    assert sum(before for _, before in cells) > 0


def test_the_tolerated_ratio_is_not_rolled_back() -> None:
    """Four weeks of 1.25 times as many wrong answers."""
    assert outages.false_at_the_tolerated(RUNS, rate=40.0, share=0.125) == 0


def test_a_version_that_crashes_is_found() -> None:
    """Every two hours, in a day and a half."""
    assert np.median(outages.hours_of_crashes(RUNS, 2.0)) <= 36


@pytest.mark.parametrize("good_days", [0, 7])
@pytest.mark.parametrize("ratio", [2.0, 3.0, 5.0])
def test_lasting_harm_is_found_within_the_hours_of_the_tables(ratio: float, good_days: int) -> None:
    """At 40 calls a second and a share of 12.5 %, from the start and after a good week."""
    harm = outages.HARMS[1]
    hours = harm.hours[ratio][good_days > 0]
    found = outages.hours_until(RUNS, harm, ratio, good_days=good_days, most_hours=hours * 3)
    assert np.median(found) <= hours + 0.34
