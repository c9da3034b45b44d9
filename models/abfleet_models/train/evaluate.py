"""Offline metrics of a model on the items held out."""

import numpy as np

from abfleet_models.train.dataset import TrainTestSplit
from abfleet_models.train.scorer import Scorer, recommend

CUTOFF = 10


def evaluate(scorer: Scorer, split: TrainTestSplit) -> dict[str, float]:
    """Metrics of the first ten items that each user's training history gets, against the one item held out.

    - recall@10: share of users whose item is among them (with one item held out, hit rate is the same);
      recall@10_se is its standard error, sqrt(p (1 - p) / users);
    - ndcg@10: 1 / log2(1 + rank) for a hit at `rank`, else 0, averaged over users;
    - coverage@10: share of all items that at least one user gets.
    """
    histories = [split.item_ids[history[-scorer.max_history :]].tolist() for history in split.histories]
    ranked = recommend(scorer, histories).item_ids[:, :CUTOFF]
    hits = ranked == split.item_ids[split.held_out][:, None]
    recall = float(hits.any(axis=1).mean())
    discounts = 1.0 / np.log2(np.arange(2, ranked.shape[1] + 2))
    return {
        "recall@10": recall,
        "recall@10_se": float(np.sqrt(recall * (1.0 - recall) / len(hits))),
        "ndcg@10": float((hits * discounts).sum(axis=1).mean()),
        "coverage@10": len(np.setdiff1d(ranked, [0])) / split.items,
    }
