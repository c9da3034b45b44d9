"""The team draft: against the published algorithm for all short rankings, and what calls and limits make of it."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import product

import pytest
from abfleet_experiments.team_draft import draft, team_draft
from hypothesis import given, settings
from hypothesis import strategies as st

LONGEST = 5
RANKINGS = st.lists(st.integers(1, 30), unique=True, max_size=12)
Drafted = tuple[tuple[int, ...], str]


def rankings_beside(size: int) -> Iterator[tuple[int, ...]]:
    """Each ranking of at most five items beside (1, …, size), up to the names of items that only it has."""

    def longer(begun: tuple[int, ...], new: int) -> Iterator[tuple[int, ...]]:
        yield begun
        if len(begun) < LONGEST:
            for item in range(1, size + 1):
                if item not in begun:
                    yield from longer((*begun, item), new)
            yield from longer((*begun, new), new + 1)

    return longer((), 100)


def published(a: Sequence[int], b: Sequence[int], bits: Iterator[int]) -> Drafted:
    """Algorithm 2 of Radlinski, Kurup & Joachims 2008 to the letter: `bits` are its RandBit()."""
    drafted: list[int] = []
    team_a: set[int] = set()
    team_b: set[int] = set()
    while any(x not in drafted for x in a) and any(x not in drafted for x in b):
        if len(team_a) < len(team_b) or (len(team_a) == len(team_b) and next(bits) == 1):
            k = min(i for i, x in enumerate(a) if x not in drafted)
            drafted.append(a[k])
            team_a.add(a[k])
        else:
            k = min(i for i, x in enumerate(b) if x not in drafted)
            drafted.append(b[k])
            team_b.add(b[k])
    return tuple(drafted), "".join("A" if x in team_a else "B" for x in drafted)


def with_nobodys(a: Sequence[int], b: Sequence[int], drafted: Drafted) -> Drafted:
    """A published draft as it is served: common beginnings are nobody's, and so is the rest, which follows."""
    items, teams = drafted
    shared = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    rest = tuple(x for x in (*a, *b) if x not in items)  # of one of them, as the other has nothing left
    return (*items, *rest), "=" * shared + teams[shared:] + "=" * len(rest)


@pytest.mark.parametrize("size", range(LONGEST + 1))
def test_each_draft_comes_as_often_as_published(size: int) -> None:
    """For each pair of rankings of up to five items drafts have the probabilities of the published algorithm."""
    first = tuple(range(1, size + 1))
    pairs = 0
    for second in rankings_beside(size):
        pairs += 1
        ours: Counter[Drafted] = Counter()
        theirs: Counter[Drafted] = Counter()
        throws = list(product((0, 1), repeat=(len({*first, *second}) + 1) // 2))
        for coins in throws:
            made = draft(first, second, 10, lambda pair, coins=coins: coins[pair] == 1)  # type: ignore[misc]
            ours[made.items, made.teams] += 1
            theirs[with_nobodys(first, second, published(first, second, iter(coins)))] += 1
        assert {one: Fraction(n, len(throws)) for one, n in ours.items()} == {
            one: Fraction(n, len(throws)) for one, n in theirs.items()
        }, (first, second)
    assert pairs >= 6


@settings(max_examples=300, deadline=None)
@given(RANKINGS, RANKINGS, st.text(max_size=5), st.text(max_size=5), st.integers(0, 30), st.integers(0, 30))
def test_a_longer_list_begins_with_the_shorter(
    first: list[int], second: list[int], user_id: str, request_id: str, limit: int, more: int
) -> None:
    """Whether each version is asked for all of its list or for as much as is shown: a longer limit adds at the end."""
    call = {"salt": "s", "user_id": user_id, "request_id": request_id}
    whole = team_draft(first, second, limit + more, **call)
    for asked in ((first[:limit], second[:limit]), (first, second)):
        short = team_draft(asked[0], asked[1], limit, **call)
        assert short.items == whole.items[:limit]
        if limit:
            assert short.teams == whole.teams[:limit]
    assert len(whole.items) == len(whole.teams) == min(limit + more, len({*first, *second}))


@settings(max_examples=200, deadline=None)
@given(RANKINGS, st.integers(0, 12))
def test_the_same_ranking_is_served_as_it_is(ranking: list[int], limit: int) -> None:
    """Lists that are the same are nobody's, and no coin is thrown for them."""

    def no_coin(pair: int) -> bool:
        raise AssertionError(pair)

    assert draft(ranking, list(ranking), limit, no_coin) == (tuple(ranking[:limit]), "=" * min(limit, len(ranking)))


def test_names_are_drafted_as_numbers_are() -> None:
    """Items may have names."""
    drafted = draft(["b", "a"], ["b", "c"], 10, lambda pair: pair == 0)
    assert drafted == (("b", "c", "a"), "=B=")


def test_an_item_that_comes_twice_is_shown_once() -> None:
    """A version whose ranking repeats itself drafts its next item that is not there yet."""
    assert draft([1, 1, 2], [3, 3, 4], 4, lambda pair: True) == ((1, 3, 2, 4), "ABA=")
    assert draft([1, 1, 2], [1, 1, 4], 4, lambda pair: True) == ((1, 4, 2), "=B=")


def test_one_of_nothing_is_the_other() -> None:
    """A version without an item leaves nothing to choose from: the list is nobody's."""
    assert draft([], [1, 2], 10, lambda pair: True) == ((1, 2), "==")
    assert draft([1, 2], [], 1, lambda pair: True) == ((1,), "=")


def test_coins_are_those_of_the_call() -> None:
    """A salt, a user, a request and the number of the pair decide; each coin is fair, and tells nothing of others."""
    first, second = [1, 3, 5, 7], [2, 4, 6, 8]
    call = {"salt": "duel", "user_id": "user-1", "request_id": "r-1"}
    known = team_draft(first, second, 8, **call)
    assert known == team_draft(first, second, 8, **call)
    seen = Counter(
        team_draft(first, second, 8, salt="duel", user_id=f"user-{n % 50}", request_id=f"r-{n}").teams
        for n in range(16_000)
    )
    assert len(seen) == 16
    assert sum((count - 1000) ** 2 / 1000 for count in seen.values()) < 45  # chi-squared of 15, beyond 1 in 10,000
    for changed in ("salt", "user_id", "request_id"):
        drawn = [team_draft(first, second, 8, **call | {changed: f"other-{n}"}).teams for n in range(200)]
        assert len(set(drawn)) == 16, changed


def test_credit_is_even_where_nobody_is_better() -> None:
    """Whatever place users like to click, and however the rankings differ: without a better one teams share evenly."""
    draw = random.Random(7)
    for first, second in (((1, 2, 3, 4, 5), (2, 1, 3, 5, 4)), ((1, 2, 3), (4, 5, 6)), ((1, 2, 3, 4), (1, 4, 2, 9))):
        credit = Counter(
            team_draft(first, second, 3, salt="s", user_id="u", request_id=str(n)).teams[draw.choice((0, 0, 0, 1, 2))]
            for n in range(8000)
        )
        assert abs(credit["A"] - credit["B"]) < 4 * (credit["A"] + credit["B"]) ** 0.5
