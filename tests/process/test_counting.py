"""Numbers with their nouns."""

import pytest
from abfleet_process.counting import counted, listed


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 calls"), (1, "1 call"), (1.0, "1 call"), (2, "2 calls"), (1234, "1,234 calls")]
)
def test_a_number_has_its_noun_in_the_right_form(count: float, said: str) -> None:
    """One is one, and everything else is many."""
    assert counted(count, "call") == said


def test_a_plural_of_its_own_and_a_list() -> None:
    """Where `s` is not the plural; and names as a sentence has them."""
    assert counted(2, "entry", "entries") == "2 entries"
    assert [listed(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
