"""A short form of `./run prove random-tables`: any sums through the decision."""

import pytest

from tests.proofs import random_tables

NEGATIVE = 1065
"""A table whose control is below 0, with a guardrail: worse is further from 0 there."""


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_no_table_breaks_an_invariant() -> None:
    """No traceback, nothing from what nobody knows, and mirrors judged alike."""
    assert [
        (number, found)
        for number in (*range(120), NEGATIVE)
        if (found := random_tables.broken(random_tables.table(number)))
    ] == []
