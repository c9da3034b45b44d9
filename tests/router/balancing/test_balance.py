"""The draw of two: unbiased, never the same replica twice, and the less loaded of the two."""

from collections import Counter
from dataclasses import dataclass
from itertools import product
from math import nextafter

import pytest
from abfleet_router.balancing.balance import FORGET_SECONDS, MAX_BURST, BurstPicker, pick, slow_start_factor
from hypothesis import given
from hypothesis import strategies as st


@dataclass
class Candidate:
    """Something with a load; counts how often its load was read."""

    name: int
    value: float = 0.0
    reads: int = 0

    @property
    def load(self) -> float:
        self.reads += 1
        return self.value


def fleet(loads: list[float]) -> list[Candidate]:
    """Candidates with these loads."""
    return [Candidate(name, load) for name, load in enumerate(loads)]


@pytest.mark.parametrize("count", [2, 3, 4, 5, 7])
def test_every_pair_is_drawn_equally_often(count: int) -> None:
    """Over all equally likely draws each pair of different replicas is compared as often as any other.

    `count` steps for the first draw and `count - 1` for the second enumerate them exactly: each step is one of the
    intervals that the draw falls into.
    """
    pairs: Counter[frozenset[int]] = Counter()
    for first, second in product(range(count), range(count - 1)):
        draws = iter([(first + 0.5) / count, (second + 0.5) / (count - 1)])
        candidates = fleet([0.0] * count)
        pick(candidates, draws.__next__)
        pairs[frozenset(one.name for one in candidates if one.reads)] += 1
    assert all(len(pair) == 2 for pair in pairs), "never the same twice"
    assert len(pairs) == count * (count - 1) // 2
    assert set(pairs.values()) == {2}


@pytest.mark.parametrize("count", [2, 3, 5])
def test_equal_loads_share_equally(count: int) -> None:
    """Where nobody is busier, everybody is picked equally often: a tie has no favourite."""
    picked: Counter[int] = Counter()
    for first, second in product(range(count), range(count - 1)):
        draws = iter([(first + 0.5) / count, (second + 0.5) / (count - 1)])
        picked[pick(fleet([1.0] * count), draws.__next__).name] += 1
    assert set(picked.values()) == {count - 1}
    assert len(picked) == count


@given(
    st.lists(st.floats(0, 100), min_size=2, max_size=300),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 1, exclude_max=True),
)
def test_the_less_loaded_of_the_two_wins(loads: list[float], one: float, other: float) -> None:
    """The loads of two different ones are read, and the pick is no busier than either."""
    candidates = fleet(loads)
    chosen = pick(candidates, iter([one, other]).__next__)
    compared = [candidate for candidate in candidates if candidate.reads]
    assert len(compared) == 2
    assert chosen in compared
    assert chosen.value == min(candidate.value for candidate in compared)


def test_the_largest_draw_is_inside() -> None:
    """The largest number below 1 does not lead past the end, however it is rounded."""
    largest = nextafter(1.0, 0.0)
    for count in range(2, 300):
        assert pick(fleet([0.0] * count), lambda: largest).name >= count - 2


def test_one_is_taken_without_a_draw_and_none_is_an_error() -> None:
    """A pool of one costs no random number; an empty one has no answer."""
    (alone,) = fleet([9.0])
    assert pick([alone], lambda: pytest.fail("drawn")) is alone
    with pytest.raises(ValueError, match="none"):
        pick([], lambda: 0.0)


def test_the_busiest_of_a_pool_gets_nothing() -> None:
    """Of three, the busiest loses each comparison: this is what two choices buy over one."""
    picked = Counter(
        pick(fleet([5.0, 1.0, 2.0]), iter([(a + 0.5) / 3, (b + 0.5) / 2]).__next__).name
        for a, b in product(range(3), range(2))
    )
    assert picked == {1: 4, 2: 2}


def test_calls_of_a_turn_go_together_for_a_millisecond_of_work() -> None:
    """After batches of 100 µs a call, ten calls of one turn follow the first draw, the eleventh the next."""
    candidates = fleet([0.0, 0.0, 0.0])
    draws = iter([0.0, 0.0, 0.99, 0.99])
    picker: BurstPicker[Candidate] = BurstPicker(draws.__next__)
    for _ in range(200):
        picker.learn(10, 0.00099)
    assert picker.burst_size == 10
    picked = [picker.pick(candidates, 1.0) for _ in range(11)]
    assert len({id(one) for one in picked[:10]}) == 1
    assert picked[10] is not picked[9]


def test_a_new_turn_draws_again_and_heavy_calls_are_spread() -> None:
    """Nothing learned, or calls of a millisecond and more: every call has a draw of its own. A new turn always has."""
    draws = CountedDraws()
    picker: BurstPicker[Candidate] = BurstPicker(draws)
    candidates = fleet([0.0, 0.0])
    for _ in range(3):
        picker.pick(candidates, 1.0)
    assert draws.made == 6
    picker.learn(1, 0.5)
    picker.pick(candidates, 1.0)
    assert draws.made == 8
    for _ in range(400):
        picker.learn(1, 1e-6)
    assert picker.burst_size == MAX_BURST
    for turn in range(5):
        picker.pick(candidates, 10.0 + turn)
    assert draws.made == 18


def test_what_a_call_was_worth_is_forgotten_after_a_minute() -> None:
    """Until then a burst stays together, whatever pauses there are; after it each call has a draw of its own."""
    draws = CountedDraws()
    picker: BurstPicker[Candidate] = BurstPicker(draws)
    candidates = fleet([0.0, 0.0])
    for _ in range(400):
        picker.learn(1, 1e-6)
    picker.pick(candidates, 1.0)
    picker.pick(candidates, 1.0 + FORGET_SECONDS)
    assert picker.burst_size == MAX_BURST
    made = draws.made
    for _ in range(3):
        picker.pick(candidates, 2.0 + 2 * FORGET_SECONDS)
    assert (picker.burst_size, draws.made) == (1, made + 6)


def test_a_change_of_candidates_is_followed_within_the_turn() -> None:
    """A replica that goes out in the middle of a turn gets none of its later calls; none is picked from nobody."""
    picker: BurstPicker[Candidate] = BurstPicker(lambda: 0.0)
    for _ in range(400):
        picker.learn(1, 1e-6)
    first = picker.pick(fleet([0.0, 0.0]), 1.0)
    picker.forget()
    others = fleet([0.0, 0.0])
    assert picker.pick(others, 1.0) in others
    assert picker.pick(others, 1.0) is not first
    picker.forget()
    assert picker.pick([], 1.0) is None


class CountedDraws:
    """A draw of 0.5 that counts how often it was made."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> float:
        self.made += 1
        return 0.5


def test_what_is_due_rises_to_all_of_it() -> None:
    """A tenth at first, half at half time, all at the end and for ever; without a slow start all from the beginning."""
    assert [slow_start_factor(age, 4.0) for age in (0.0, 0.4, 2.0, 3.0, 4.0, 1e9)] == [0.1, 0.1, 0.5, 0.75, 1.0, 1.0]
    assert slow_start_factor(0.0, 0.0) == 1.0


@pytest.mark.parametrize("part", [0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_new_replica_gets_its_part(count: int, part: float) -> None:
    """Among equally loaded ones, one that is due a part of its share gets that part of it, and the rest goes to the
    others alike; counted over all draws, those for the part in steps of a hundredth."""
    candidates, picked = fleet([1.0] * count), Counter[int]()
    for first, second, third in product(range(count), range(count - 1), range(100)):
        draws = iter([(first + 0.5) / count, (second + 0.5) / (count - 1), (third + 0.5) / 100])
        picked[pick(candidates, draws.__next__, lambda one: part if one.name == 0 else 1.0).name] += 1
    full = (count - 1) * 100
    assert picked[0] == round(part * full)
    assert len({picked[name] for name in range(1, count)}) == 1


def test_replicas_that_start_together_share_alike() -> None:
    """A part is measured against the other's: where all are new, nobody is held back and nothing is drawn for it."""
    draws = iter([0.0, 0.0])
    assert pick(fleet([0.0, 1.0]), draws.__next__, lambda one: 0.1).name == 0
