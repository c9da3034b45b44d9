"""Two rankings as one list, by team draft: which items it has, and which of the two each came from. Pure.

Radlinski, Kurup & Joachims, How does clickthrough data reflect retrieval quality?, CIKM 2008, algorithm 2. That nobody
gets credit for what both rankings begin with is from Chapelle, Joachims, Radlinski & Yue, Large-scale validation and
analysis of interleaved search evaluation, ACM TOIS 30 (2012).
"""

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Final, Generic, NamedTuple, TypeVar

import mmh3

from abfleet_experiments.bucketing import interleave_salt

Item = TypeVar("Item", int, str, bytes)

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
    rankings = (first, second)
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    items = list(dict.fromkeys(item for item, _ in shared))
    teams = [NOBODY] * len(items)
    taken = set(items)
    places = [0, 0]  # in each ranking, of its best item that is not there yet
    starts = 0 if len(items) % 2 == 0 or first_picks(len(items) // 2) else 1  # who picks first in the pair
    while len(items) < limit:
        for team in (0, 1):
            while places[team] < len(rankings[team]) and rankings[team][places[team]] in taken:
                places[team] += 1
        left = [len(ranking) - place for ranking, place in zip(rankings, places, strict=True)]
        if not all(left):
            rest = dict.fromkeys(item for item in rankings[left[1] > 0] if item not in taken)
            items += rest
            teams += [NOBODY] * len(rest)
            break
        if len(items) % 2 == 0:
            starts = 0 if first_picks(len(items) // 2) else 1
        team = (starts + len(items)) % 2
        items.append(rankings[team][places[team]])
        taken.add(items[-1])
        teams.append((TEAM_A, TEAM_B)[team])
    return Draft(tuple(items[:limit]), "".join(teams[:limit]))
