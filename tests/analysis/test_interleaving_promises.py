"""A short form of `./run prove interleaving`: fewer runs of what it draws."""

import pytest

from tests.proofs import interleaving
from tests.proofs.outside import above

RUNS = 60


@pytest.mark.parametrize("name", interleaving.NULLS)
def test_no_preference_is_seldom_one(name: str) -> None:
    """At any of 28 looks, and nothing is refused."""
    preferred, refused = interleaving.verdicts(interleaving.NULLS[name], RUNS)
    assert not above(preferred, RUNS, 0.05)
    assert refused == 0


def test_a_twentieth_of_an_ab_tests_users_do() -> None:
    """Of two real rankings the better one is preferred as often as an A/B test with so many users finds it."""
    assert interleaving.a_pair(30, None, *interleaving.NINTH)


def test_a_version_that_dies() -> None:
    """Shifts no estimate, and refuses nothing."""
    assert interleaving.a_death(20)
