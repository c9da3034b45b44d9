"""Two rankings as one list, by team draft: which items it has, and which of the two each came from. Pure.

Radlinski, Kurup & Joachims, How does clickthrough data reflect retrieval quality?, CIKM 2008, algorithm 2. That nobody
gets credit for what both rankings begin with is from Chapelle, Joachims, Radlinski & Yue, Large-scale validation and
analysis of interleaved search evaluation, ACM TOIS 30 (2012).
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import takewhile
from typing import Final, Generic, NamedTuple, TypeVar

import mmh3

from abfleet_experiments.bucketing import interleave_salt

Item = TypeVar("Item", bound=Hashable)

TEAM_A, TEAM_B, NOBODY = "A", "B", "="
"""Letters of `teams`. A is the version that the file names first."""
TEAMS: Final = frozenset((TEAM_A, TEAM_B, NOBODY))


class Draft(NamedTuple, Generic[Item]):
    """A list out of two.

    Attributes:
        items: Best first.
        teams: A letter for each: the ranking that it came from; NOBODY's is what says nothing about which is better.
    """

    items: tuple[Item, ...]
    teams: str


def team_draft(
    first: Sequence[Item], second: Sequence[Item], limit: int, *, salt: str, user_id: str, request_id: str
) -> Draft[Item]:
    """The list that this call of this user gets: the same on every router, and a longer one begins with it.

    first, second: The rankings of team A and team B, best first, each in full or at least its first `limit` items.
    salt: The experiment's own.
    """
    coins = f"{interleave_salt(salt)}:{user_id}:{request_id}:"

    def first_picks(pair: int) -> bool:
        return mmh3.hash(f"{coins}{pair}", 0, False) < 1 << 31

    return draft(first, second, limit, first_picks)


def draft(first: Sequence[Item], second: Sequence[Item], limit: int, first_picks: Callable[[int], bool]) -> Draft[Item]:
    """The draft of two rankings, at most `limit` items of it.

    first_picks: Whether the first ranking picks first in a pair, given the number of the pair from 0 on. It is not
        asked about pairs that come out the same either way.

    In each pair a coin says who picks first, and each takes its best item that is not there yet. It ends where either
    has no such item. What the other still has follows, so that nobody gets a shorter list than that version gives, and
    is nobody's: there was nothing to choose from. So is what both rankings begin with, whoever picked it. Rankings that
    are the same are served as they are.
    """
    if first == second:
        same = tuple(first[:limit])
        return Draft(same, NOBODY * len(same))
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    items = list(dict.fromkeys(item for item, _ in shared))
    count, taken = len(items), set(items)
    teams = [NOBODY] * count
    # Both are asked for one item at a time, while `taken` grows.
    rest_of_first: Iterator[Item] = (item for item in first if item not in taken)
    rest_of_second: Iterator[Item] = (item for item in second if item not in taken)
    a, b = next(rest_of_first, None), next(rest_of_second, None)
    firsts_turn = count % 2 == 1 and first_picks(count // 2)
    while count < limit and a is not None and b is not None:
        firsts_turn = not firsts_turn if count % 2 else first_picks(count // 2)
        item = a if firsts_turn else b
        items.append(item)
        taken.add(item)
        teams.append(TEAM_A if firsts_turn else TEAM_B)
        count += 1
        if a == item:
            a = next(rest_of_first, None)
        if b == item:
            b = next(rest_of_second, None)
    if count < limit:  # of one of them, as the other has none left
        left: list[Item] = [] if a is None else [a, *rest_of_first]
        left += [] if b is None else [b, *rest_of_second]
        items += dict.fromkeys(left)
        teams += [NOBODY] * (len(items) - count)
    return Draft(tuple(items[:limit]), "".join(teams)[:limit])
