"""What people do: a function of the draw, ordered as in life, with an effect that is the true one."""

import random

from hypothesis import given
from hypothesis import strategies as st

from abfleet.traffic.behaviour import MAX_DELAY_SECONDS, MAX_EFFECT, Act, acts

ITEMS = st.lists(st.integers(1, 10_000), max_size=20, unique=True)


@given(ITEMS, st.integers(0, 2**32), st.floats(-1, MAX_EFFECT))
def test_what_follows_a_list(items: list[int], seed: int, effect: float) -> None:
    """Only listed items; a purchase after its conversion after its click; money with a currency; no endless delay."""
    done = acts(items, lambda item: item % 3 == 0, random.Random(seed), effect=effect)
    assert done == acts(items, lambda item: item % 3 == 0, random.Random(seed), effect=effect)
    for item in {act.item for act in done}:
        steps = [act for act in done if act.item == item]
        assert item in items
        assert [act.type for act in steps] == ["click", "conversion", "purchase"][: len(steps)]
        assert [act.delay_seconds for act in steps] == sorted(act.delay_seconds for act in steps)
    for act in done:
        assert 0 <= act.delay_seconds <= MAX_DELAY_SECONDS
        assert (act.value > 0) == (act.currency == "EUR") == (act.type == "purchase")


@given(ITEMS, st.integers(0, 2**32), st.floats(-1, 1), st.floats(0, 0.8))
def test_an_effect_adds_clicks_and_changes_no_other(items: list[int], seed: int, low: float, more: float) -> None:
    """With a larger effect the same person clicks what it clicked before, and perhaps more."""
    few = acts(items, lambda item: item % 2 == 0, random.Random(seed), effect=low)
    many = acts(items, lambda item: item % 2 == 0, random.Random(seed), effect=low + more)
    assert set(few) <= set(many)


def test_the_effect_is_the_true_lift() -> None:
    """Over many lists clicks grow by the effect; positions matter, and so does taste."""
    clicks: dict[float, list[tuple[int, bool]]] = {0.0: [], 0.2: []}
    items = list(range(1, 11))
    for effect, seen in clicks.items():
        for number in range(20_000):
            done = acts(items, lambda item: item % 2 == 0, random.Random(number), effect=effect)
            seen += [(int(act.item), int(act.item) % 2 == 0) for act in done if act.type == "click"]
    base = clicks[0.0]
    assert abs(len(clicks[0.2]) / len(base) - 1.2) < 0.02
    assert sum(item == 2 for item, _ in base) > 1.5 * sum(item == 10 for item, _ in base)
    assert sum(liked for _, liked in base) > 5 * sum(not liked for _, liked in base)


@given(ITEMS, ITEMS, st.integers(0, 2**32))
def test_a_click_is_of_the_item_and_its_place(items: list[int], others: list[int], seed: int) -> None:
    """What is done with an item depends on it and its place alone, in an interleaved list as in any other."""
    mixed = [items[place] if place % 2 else other for place, other in enumerate(others[: len(items)])]

    def by_place(shown: list[int]) -> list[tuple[int, Act]]:
        done = acts(shown, lambda item: item % 3 == 0, random.Random(seed))
        return [(shown.index(int(act.item)), act) for act in done]

    if len(set(mixed)) == len(mixed):
        same = [place for place, item in enumerate(mixed) if item == items[place]]
        assert [one for one in by_place(mixed) if one[0] in same] == [one for one in by_place(items) if one[0] in same]
