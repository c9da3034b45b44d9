"""Reads ratings in MovieLens' CSV format and splits them by time. Does IO."""

import csv
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from abfleet_models.errors import shown

RATINGS_FILE = "ratings.csv"
COLUMNS = ("userId", "movieId", "timestamp")
MAX_ITEM_ID = 4_194_303
"""The graph finds an item by a table as long as the largest id: 8 MiB of int16 at this bound."""
MAX_ITEMS = 20_000
"""Every model is a table of items by items; at this bound one takes 400 MB and its training several gigabytes."""


class TrainingDataError(Exception):
    """The training data cannot be read; the message names file, line and field."""


@dataclass(frozen=True, slots=True)
class TrainTestSplit:
    """Training histories, and for every user the last item, held out.

    Items are numbered by popularity in the training part, most popular first (ties: lower id first), so that a lower
    number is always the better answer among equal scores.
    """

    item_ids: NDArray[np.int64]
    """[items] item number -> id."""
    histories: tuple[NDArray[np.int64], ...]
    """One array of item numbers a user, oldest first, without the item held out."""
    held_out: NDArray[np.int64]
    """[users] the item number of each user's last item."""
    counts: tuple[tuple[str, int], ...]
    """What was read and what was kept: name -> number."""
    files: tuple[tuple[str, str], ...]
    """File name -> sha256."""

    @property
    def items(self) -> int:
        """The number of items; they are numbered 0 to items - 1."""
        return len(self.item_ids)


def read_split(folder: Path, *, min_ratings: int) -> TrainTestSplit:
    """Reads ratings.csv and holds each user's last item out.

    Kept are items with at least `min_ratings` ratings, and of several ratings of an item by a user the newest. A user's
    order is by timestamp, and by the file's order within a second. Users with fewer than two items are left out.
    Raises TrainingDataError.
    """
    path = folder / RATINGS_FILE
    try:
        content = path.read_bytes()
        rows = list(_rows(content.decode("utf-8-sig")))
    except OSError as error:
        raise TrainingDataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise TrainingDataError(f"{path}: is not CSV in UTF-8: {error}") from error
    ratings = Counter(item for _, item, _ in rows)
    sequences = _sequences([row for row in rows if ratings[row[1]] >= min_ratings])
    if len(sequences) < 2:
        raise TrainingDataError(
            f"{path}: {len(sequences)} users have two or more items that {min_ratings} or more have rated; "
            "at least 2 are needed"
        )
    histories, held_out = [items[:-1] for items in sequences], [items[-1] for items in sequences]
    item_ids = _by_popularity(histories, held_out)
    if len(item_ids) > MAX_ITEMS:
        raise TrainingDataError(
            f"{path}: {len(item_ids)} items are too many; allowed are {MAX_ITEMS}, so raise --min-ratings"
        )
    number = {item: place for place, item in enumerate(item_ids)}
    return TrainTestSplit(
        item_ids=np.array(item_ids, dtype=np.int64),
        histories=tuple(np.array([number[item] for item in items], dtype=np.int64) for items in histories),
        held_out=np.array([number[item] for item in held_out], dtype=np.int64),
        counts=(
            ("ratings_read", len(rows)),
            ("ratings", sum(len(items) for items in histories)),
            ("users", len(sequences)),
            ("items", len(item_ids)),
        ),
        files=((RATINGS_FILE, hashlib.sha256(content).hexdigest()),),
    )


def _rows(text: str) -> Iterator[tuple[str, int, int]]:
    """(user, item, timestamp) of each line, in the file's order."""
    lines = csv.reader(text.splitlines())
    header = next(lines, [])
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise TrainingDataError(f"{RATINGS_FILE}:1: the header {shown(','.join(header))} has no {', '.join(missing)}")
    user_at, item_at, time_at = (header.index(column) for column in COLUMNS)
    for line in lines:
        if not line:
            continue
        if len(line) != len(header):
            raise TrainingDataError(
                f"{RATINGS_FILE}:{lines.line_num}: {len(line)} columns, the header has {len(header)}"
            )
        yield (
            line[user_at],
            _integer(line[item_at], "movieId", lines.line_num, low=1, high=MAX_ITEM_ID),
            _integer(line[time_at], "timestamp", lines.line_num, low=0, high=2**53),
        )


def _integer(text: str, field: str, line: int, *, low: int, high: int) -> int:
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    if not low <= value <= high:
        raise TrainingDataError(f"{RATINGS_FILE}:{line}: {field}: {shown(text)} is not an integer from {low} to {high}")
    return value


def _sequences(rows: list[tuple[str, int, int]]) -> list[list[int]]:
    """Items of each user, oldest first; users in the file's order."""
    by_user: dict[str, list[tuple[int, int, int]]] = {}
    for place, (user, item, time) in enumerate(rows):
        by_user.setdefault(user, []).append((time, place, item))
    sequences = []
    for events in by_user.values():
        newest_first = [item for _, _, item in sorted(events, reverse=True)]
        items = list(dict.fromkeys(newest_first))[::-1]
        if len(items) >= 2:
            sequences.append(items)
    return sequences


def _by_popularity(histories: list[list[int]], held_out: list[int]) -> list[int]:
    counts = Counter(item for items in histories for item in items)
    return sorted(counts.keys() | set(held_out), key=lambda item: (-counts[item], item))
