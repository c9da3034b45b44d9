"""Reads a CSV file of who had which item when, MovieLens' ratings or any other, and splits it by time. Does IO."""

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from abfleet_models.errors import shown
from abfleet_models.item_names import NAME_ALLOWED, is_item_name

RATINGS_FILE = "ratings.csv"
MAX_ITEM_ID = 4_194_303
"""The graph finds an item by a table as long as the largest id: 8 MiB of int16 at this bound."""
MAX_ITEMS = 20_000
"""Every model is a table of items by items; at this bound one takes 400 MB and its training several gigabytes."""
LATEST_SECONDS = 2**53
_SECONDS = re.compile(r"[0-9]{1,20}(\.[0-9]{1,9})?")
_NUMBER = re.compile(r"[1-9][0-9]{0,6}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingColumns:
    """Names of the columns that are read; by default MovieLens' own."""

    user: str = "userId"
    item: str = ""
    """Empty: `movieId`, where anything but a number is a mistake. Of a column that is named, ids are numbers if all of
    them are, and names if not."""
    time: str = "timestamp"


MOVIELENS = TrainingColumns()


class TrainingDataError(Exception):
    """The training data cannot be read; the message names file, line and field."""


@dataclass(frozen=True, slots=True)
class TrainTestSplit:
    """Training histories, and for every user the last item, held out.

    Items are numbered by popularity in the training part, most popular first (ties: lower id first), so that a lower
    number is always the better answer among equal scores.
    """

    item_ids: NDArray[np.int64]
    """[items] item number -> id; of items that have names, 1 to items."""
    histories: tuple[NDArray[np.int64], ...]
    """One array of item numbers a user, oldest first, without the item held out."""
    held_out: NDArray[np.int64]
    """[users] the item number of each user's last item."""
    counts: tuple[tuple[str, int], ...]
    """What was read and what was kept: name -> number."""
    files: tuple[tuple[str, str], ...]
    """File name -> sha256."""
    names: tuple[str, ...] | None = None
    """The names of items 1, 2, 3 and so on; None where items have numbers."""

    @property
    def items(self) -> int:
        """The number of items; they are numbered 0 to items - 1."""
        return len(self.item_ids)


def read_split(data: Path, *, min_ratings: int, columns: TrainingColumns = MOVIELENS) -> TrainTestSplit:
    """Reads a CSV file, or the one in a folder, and holds each user's last item out.

    Kept are items with at least `min_ratings` lines, and of several lines of a user with an item the newest. A user's
    order is by time, and by the file's order within a second. Users with fewer than two items are left out.
    Raises TrainingDataError.
    """
    path = _csv_file(data)
    try:
        content = path.read_bytes()
        rows = list(_rows(content.decode("utf-8-sig"), path.name, columns))
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
    # Where one id is no number, all of them are names: a file of both would give some items two ids.
    named = bool(columns.item) and not all(_is_number(item) for item in ratings)
    found = _by_popularity(histories, held_out, named=named)
    if len(found) > MAX_ITEMS:
        raise TrainingDataError(f"{path}: {len(found)} items; at most {MAX_ITEMS} are allowed; raise --min-ratings")
    number = {item: place for place, item in enumerate(found)}
    return TrainTestSplit(
        item_ids=np.arange(1, len(found) + 1) if named else np.array([int(item) for item in found], dtype=np.int64),
        histories=tuple(np.array([number[item] for item in items], dtype=np.int64) for items in histories),
        held_out=np.array([number[item] for item in held_out], dtype=np.int64),
        counts=(
            ("ratings_read", len(rows)),
            ("ratings", sum(len(items) for items in histories)),
            ("users", len(sequences)),
            ("items", len(found)),
        ),
        files=((path.name, hashlib.sha256(content).hexdigest()),),
        names=tuple(found) if named else None,
    )


def _csv_file(data: Path) -> Path:
    """The file itself, or of a folder ratings.csv, or the only CSV file in it."""
    if data.is_file() or data.suffix == ".csv":
        return data
    there = [] if (data / RATINGS_FILE).exists() else sorted(data.glob("*.csv"))
    if len(there) > 1:
        names = ", ".join(path.name for path in there[:10])
        raise TrainingDataError(f"{data}: has no {RATINGS_FILE} but several other CSV files; name one of {names}")
    return there[0] if there else data / RATINGS_FILE


def _rows(text: str, file: str, columns: TrainingColumns) -> Iterator[tuple[str, str, int]]:
    """(user, item, time in microseconds) of each line, in the file's order."""
    lines = csv.reader(text.splitlines())
    header = next(lines, [])
    names = (columns.user, columns.item or "movieId", columns.time)
    missing = [name for name in names if name not in header]
    if missing:
        options = ("--user-column", "--item-column", "--time-column")
        ways = ", ".join(option for option, name in zip(options, names, strict=True) if name in missing)
        raise TrainingDataError(
            f"{file}:1: the header {shown(','.join(header))} has no {', '.join(missing)}; {ways} names another column"
        )
    user_at, item_at, time_at = (header.index(name) for name in names)
    for line in lines:
        if not line:
            continue
        where = f"{file}:{lines.line_num}"
        if len(line) != len(header):
            raise TrainingDataError(f"{where}: {len(line)} columns, the header has {len(header)}")
        if not line[user_at]:
            raise TrainingDataError(f"{where}: {columns.user}: is empty; each line needs a user")
        yield line[user_at], _item(line[item_at], columns, where), _time(line[time_at], columns.time, where)


def _item(text: str, columns: TrainingColumns, where: str) -> str:
    if not columns.item:
        value = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
        if not 1 <= value <= MAX_ITEM_ID:
            raise TrainingDataError(
                f"{where}: movieId: {shown(text)} is not an integer from 1 to {MAX_ITEM_ID}; --item-column takes any id"
            )
        return str(value)
    if not is_item_name(text):
        raise TrainingDataError(f"{where}: {columns.item}: {shown(text)} is not an item; allowed: {NAME_ALLOWED}")
    return text


def _is_number(item: str) -> bool:
    """Whether the id is the text of a number that a model can have; `007` is not."""
    return _NUMBER.fullmatch(item) is not None and int(item) <= MAX_ITEM_ID


def _time(text: str, column: str, where: str) -> int:
    """Microseconds since 1970; a time without an offset is UTC."""
    if _SECONDS.fullmatch(text):
        whole, _, part = text.partition(".")
        if int(whole) <= LATEST_SECONDS:
            return int(whole) * 1_000_000 + int(part[:6].ljust(6, "0"))
    elif not text.isdigit():  # which some would take for a date without hyphens
        try:
            at = datetime.fromisoformat(text)
            return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1e6)
        except (ValueError, OverflowError):
            pass
    raise TrainingDataError(
        f"{where}: {column}: {shown(text)} is not an integer from 0 to {LATEST_SECONDS}, seconds since 1970, nor a "
        "time in ISO 8601 such as 2026-11-01T12:00:00Z"
    )


def _sequences(rows: list[tuple[str, str, int]]) -> list[list[str]]:
    """Items of each user, oldest first; users in the file's order."""
    by_user: dict[str, list[tuple[int, int, str]]] = {}
    for place, (user, item, time) in enumerate(rows):
        by_user.setdefault(user, []).append((time, place, item))
    sequences = []
    for events in by_user.values():
        newest_first = [item for _, _, item in sorted(events, reverse=True)]
        items = list(dict.fromkeys(newest_first))[::-1]
        if len(items) >= 2:
            sequences.append(items)
    return sequences


def _by_popularity(histories: Sequence[list[str]], held_out: list[str], *, named: bool) -> list[str]:
    """Items by their users in training, the most first; of equal ones the lower number or name."""
    counts = Counter(item for items in histories for item in items)
    return sorted(counts.keys() | set(held_out), key=lambda item: (-counts[item], 0 if named else int(item), item))
