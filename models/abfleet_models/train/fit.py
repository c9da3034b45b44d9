"""Item-to-item weights from histories: cosine, EASE, transitions. Pure linear algebra.

All matrices are float64[items, items]: the row is the item in the history, the column the item that is scored.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Histories = Sequence[NDArray[np.int64]]

_USERS_AT_ONCE = 1_000
"""Users whose dense rows are in memory together: 160 MB at 20,000 items."""


def co_occurrence(histories: Histories, items: int) -> Floats:
    """How many users have both items; on the diagonal how many have the item."""
    total = np.zeros((items, items))
    for start in range(0, len(histories), _USERS_AT_ONCE):
        part = histories[start : start + _USERS_AT_ONCE]
        seen = np.zeros((len(part), items))
        for row, history in enumerate(part):
            seen[row, history] = 1.0
        total += seen.T @ seen
    return total


def cosine(together: Floats, *, neighbours: int) -> Floats:
    """Item-to-item cosine over users, c_ij = n_ij / sqrt(n_i n_j), for each scored item its `neighbours` nearest.

    Source: Sarwar et al. 2001, Item-based collaborative filtering. Neighbours are kept for each *scored* item, so that
    films of many users cannot fill all the lists, which they would if kept for each item of the history.
    """
    count = np.sqrt(np.maximum(np.diag(together), 1.0))
    similarity = together / np.outer(count, count)
    np.fill_diagonal(similarity, 0.0)
    return largest(similarity, neighbours)


def ease(together: Floats, *, penalty: float) -> Floats:
    """EASE: B = I - P diag(1/diag P) with P = (X'X + penalty I)^-1, the ridge regression of each item on all others.

    Source: Steck 2019, Embarrassingly shallow autoencoders for sparse data. Limit: one dense inverse, items cubed.
    """
    inverse = np.linalg.inv(together + penalty * np.eye(len(together)))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights


def transitions(histories: Histories, items: int, *, reach: int, damping: float) -> Floats:
    """How often j came within `reach` places after i, at distance d counted 1/d, over i's total plus `damping`.

    A first-order Markov chain with skips; `damping` keeps items that were seen a few times from being sure of
    themselves.
    """
    counts = np.zeros((items, items))
    for history in histories:
        for distance in range(1, min(reach, len(history) - 1) + 1):
            np.add.at(counts, (history[:-distance], history[distance:]), 1.0 / distance)
    np.fill_diagonal(counts, 0.0)
    weights: Floats = counts / (counts.sum(axis=1, keepdims=True) + damping)
    return weights


def popularity(histories: Histories, items: int) -> Floats:
    """[items] the share of users that have the item."""
    return np.bincount(np.concatenate(histories), minlength=items) / len(histories)


def largest(weights: Floats, count: int) -> Floats:
    """Keeps for each column the `count` weights of the largest size, and zero elsewhere; ties keep the lower row."""
    if count >= len(weights):
        return weights
    order = np.argsort(-np.abs(weights), axis=0, kind="stable")[:count]
    kept = np.zeros_like(weights)
    np.put_along_axis(kept, order, np.take_along_axis(weights, order, axis=0), axis=0)
    return kept
