"""The form that models are exported in, integer weights, and what it answers, in numpy. Knows no ONNX and no files.

Scores are sums of small integers, which are exact in any order, times one float32 a target. So the answer to a history
is the same bit for bit alone, in any batch, at any padding, on any machine; and ties are real ties, decided by
popularity.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NEWEST = 127
"""Largest position weight. ONNX Runtime multiplies uint8 by int8 in pairs that saturate at 32,767 on processors without
VNNI; 2 * 127 * 127 = 32,258 stays below, so that the sum is exact everywhere."""
UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class WeightTable:
    """One matrix of item-to-item weights, and how much each place of the history counts."""

    weights: NDArray[np.int8]
    """[items, items], -127..127; the row is the item in the history, the column the item that is scored."""
    scale: NDArray[np.float32]
    """[items] what one unit in a column is worth."""
    places: NDArray[np.uint8]
    """[window] weight of the newest item first, 0..127."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """A model: score_j = sum over tables of scale_j * sum over the history of places[p] * weights[item at p, j]."""

    item_ids: NDArray[np.int64]
    """[items] in order of popularity, which is the order among equal scores."""
    tables: tuple[WeightTable, ...]
    """Without tables, every history gets the popular items that it does not have."""
    popular: NDArray[np.float32]
    """[items] scores where the window has no known item: a cold start."""
    window: int
    """Newest items of the history that scores depend on; older ones are only excluded from the answer."""
    max_history: int
    """Longest history worth sending; whoever calls keeps the newest."""
    k: int


@dataclass(frozen=True, slots=True)
class TopItems:
    """What a model gives: int64[batch, k] and float32[batch, k], best first; id 0 where no item is left."""

    item_ids: NDArray[np.int64]
    scores: NDArray[np.float32]


def quantise(weights: NDArray[np.float64], places: NDArray[np.uint8]) -> WeightTable:
    """Rounds each column to -127..127 of its largest size; a newest item counts as in `weights`."""
    largest = np.abs(weights).max(axis=0)
    unit = np.where(largest > 0.0, largest, 127.0) / 127.0
    rounded = np.rint(weights / unit).astype(np.int8)
    return WeightTable(rounded, (unit / max(int(places[0]), 1)).astype(np.float32), places)


def equal_places(length: int) -> NDArray[np.uint8]:
    """Every item of the history counts the same."""
    return np.ones(length, dtype=np.uint8)


def fading_places(length: int, *, half_life: float) -> NDArray[np.uint8]:
    """An item `half_life` places older counts half."""
    return np.rint(NEWEST * 0.5 ** (np.arange(length) / half_life)).astype(np.uint8)


def padded(histories: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """int64[batch, length] with zeros on the left."""
    length = max((len(history) for history in histories), default=0)
    return np.array([[0] * (length - len(row)) + [int(item) for item in row] for row in histories], dtype=np.int64)


def recommend(scorer: Scorer, histories: Sequence[Sequence[int]]) -> TopItems:
    """The reference that the exported graph must equal: scores each history of item ids, one at a time."""
    number = {int(item): place for place, item in enumerate(scorer.item_ids)}
    answers = [_answer(scorer, [number.get(item, UNKNOWN) for item in history]) for history in histories]
    return TopItems(np.stack([ids for ids, _ in answers]), np.stack([scores for _, scores in answers]))


def _answer(scorer: Scorer, numbers: list[int]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Answer to a history of item numbers, oldest first."""
    scores = scorer.popular.copy()
    newest_first = [number for number in numbers[-scorer.window :][::-1] if number != UNKNOWN]
    if newest_first and scorer.tables:
        scores = np.zeros(len(scorer.item_ids), dtype=np.float32)
        for table in scorer.tables:
            weight = table.places[: len(newest_first)].astype(np.int64)
            total = weight @ table.weights[newest_first].astype(np.int64)
            scores += total.astype(np.float32) * table.scale
    scores[[number for number in numbers if number != UNKNOWN]] = -np.inf
    # A stable sort keeps the lower number, the more popular item, first among equal scores.
    best = np.argsort(-scores, kind="stable")[: scorer.k]
    found = scores[best] > -np.inf
    return np.where(found, scorer.item_ids[best], 0), np.where(found, scores[best], np.float32(0.0))
