"""People who call: a history that they have seen, and what they would watch next.

Two sources of the same shape: MovieLens ratings, where what a person really watched later is known, and a built-in
population for those who have no data, where it is drawn once for each person and item.
"""

import csv
import hashlib
import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final, cast

from abfleet_models.errors import IntegrityError
from abfleet_models.item_names import read_names

Items = Sequence[int] | Sequence[str]

HELD_OUT = 0.2
"""Share of a history, its newest part, that the caller has not seen yet."""
LONGEST_HISTORY = 50
ITEMS: Final = range(1, 4001)
"""What the built-in population has seen unless items have names; most are films of the models that ship."""
LIKED_SHARE = 0.15
"""Of the items, how many a person of the built-in population would watch."""


class PopulationError(Exception):
    """The data cannot be used; the message names the flag, and says what is wrong and what is allowed."""


@dataclass(frozen=True, slots=True)
class Person:
    """One user.

    Attributes:
        history: Item ids, or items' names; oldest first.
        likes: Whether the person would watch an item next.
    """

    user_id: str
    history: Items
    likes: Callable[[int | str], bool]


def built_in(users: int, seed: int, items: Items = ITEMS) -> list[Person]:
    """Users `user-1` to `user-N`; histories are drawn by popularity, with lengths as in MovieLens (median about 35).

    items: Most popular first; popularity falls as one over the square root of the rank. A person is the same for the
    same seed and number.
    """
    cumulated = list(accumulate(1 / math.sqrt(rank) for rank in range(1, len(items) + 1)))
    people = []
    for number in range(1, users + 1):
        draw = random.Random(f"{seed}/person/{number}")  # noqa: S311 - a simulation
        length = min(LONGEST_HISTORY, max(3, round(draw.lognormvariate(3.5, 0.6))))
        length = min(length, max(1, len(items) // 2))  # there must be something that has not been seen
        places = draw.choices(range(len(items)), cum_weights=cumulated, k=length)
        history = tuple(dict.fromkeys(items[place] for place in places))
        taste = _drawn_taste(seed, number, frozenset(history))
        people.append(Person(f"user-{number}", cast("Items", history), taste))
    return people


def _drawn_taste(seed: int, number: int, seen: frozenset[int | str]) -> Callable[[int | str], bool]:
    def likes(item: int | str) -> bool:
        digest = hashlib.blake2b(f"{seed}/{number}/{item}".encode(), digest_size=4).digest()
        return item not in seen and int.from_bytes(digest, "big") < LIKED_SHARE * 2**32

    return likes


def names_of(file: Path) -> Sequence[str]:
    """The names in an items.txt, whose line n is the name of item n. Raises PopulationError."""
    try:
        return read_names(file.read_bytes())
    except OSError as error:
        raise PopulationError(
            f"--item-names: {file}: {error.strerror or error}; allowed: a file with a name in each line"
        ) from error
    except IntegrityError as error:
        raise PopulationError(f"--item-names: {file}: {error}") from error


def from_movielens(folder: Path, users: int) -> list[Person]:
    """Users `user-1` to `user-N`, each with the history of one person of ratings.csv, in turn. Raises
    PopulationError."""
    histories = _read_ratings(folder / "ratings.csv")
    people = []
    for number in range(users):
        watched = histories[number % len(histories)]
        cut = len(watched) - max(1, round(len(watched) * HELD_OUT))
        later = frozenset(watched[cut:])
        people.append(
            Person(f"user-{number + 1}", tuple(watched[max(0, cut - LONGEST_HISTORY) : cut]), later.__contains__)
        )
    return people


def _read_ratings(path: Path) -> Sequence[Sequence[int]]:
    """What each person watched, oldest first; people with fewer than five films are left out."""
    columns = ("userId", "movieId", "timestamp")
    by_user: dict[int, list[tuple[int, int]]] = defaultdict(list)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                user, movie, at = (int(row[name]) for name in columns)
                by_user[user].append((at, movie))
    except OSError as error:
        raise PopulationError(
            f"--data: {path}: {error.strerror or error}; allowed: a folder with ratings.csv"
        ) from error
    except (KeyError, ValueError, TypeError) as error:
        raise PopulationError(f"--data: {path} must be CSV with whole numbers in {', '.join(columns)}") from error
    histories = [[movie for _, movie in sorted(by_user[user])] for user in sorted(by_user)]
    if not (kept := [one for one in histories if len(one) >= 5]):
        raise PopulationError(f"--data: {path} must have at least one user with five ratings or more")
    return kept
