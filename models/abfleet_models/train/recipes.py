"""The versions that are trained: their algorithms and parameters.

The numbers were chosen on a validation split, which holds out each user's last item but one and drops the last, never
on the items that metrics.json measures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from abfleet_models.signature import MAX_K
from abfleet_models.train import fit
from abfleet_models.train.dataset import TrainTestSplit
from abfleet_models.train.scorer import Scorer, WeightTable, equal_places, fading_places, quantise

COSINE_NEIGHBOURS = 100
EASE_NEIGHBOURS = 200
"""EASE gives every pair a weight; the largest for each item lose nothing on the validation split, at a tenth of the
size."""
TRANSITION_NEIGHBOURS = 200
EASE_PENALTY = 200.0
LONG_WINDOW = 100
SHORT_WINDOW = 50
MAX_HISTORY = 1_000
"""Beyond the window a history is only excluded from the answer, which costs little; 99 % of the users of MovieLens
latest-small have fewer items."""
TASTE_HALF_LIFE = 20.0
"""In places of the history: what a user likes changes slowly …"""
NEXT_HALF_LIFE = 3.0
"""… what comes next depends on the last few items."""
TRANSITION_REACH = 8
TRANSITION_DAMPING = 20.0
TRANSITION_WEIGHT = 8.0
"""Puts transition shares, which sum to less than 1 over all items, on the scale of EASE's weights."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One version of the registry: its algorithm, its parameters, and what fits its weight tables."""

    version: str
    algorithm: str
    description: str
    parameters: tuple[tuple[str, float], ...]
    window: int
    tables: Callable[[TrainTestSplit, fit.Floats], tuple[WeightTable, ...]]
    """Takes the split and its co-occurrence."""
    archived: bool = False


def chosen(only: Sequence[str]) -> tuple[Recipe, ...]:
    """The recipes of these versions or algorithms; all of them where none is named. Raises ValueError."""
    known = {name for recipe in RECIPES for name in (recipe.version, recipe.algorithm)}
    for name in only:
        if name not in known:
            allowed = ", ".join(f"{recipe.version} ({recipe.algorithm})" for recipe in RECIPES)
            raise ValueError(f"{name[:64]!r} is not a version or algorithm; allowed: {allowed}")
    return tuple(one for one in RECIPES if not only or {one.version, one.algorithm} & {*only})


def train(recipe: Recipe, split: TrainTestSplit, together: fit.Floats) -> Scorer:
    """Fits one version on the training part of the split."""
    return Scorer(
        item_ids=split.item_ids,
        tables=recipe.tables(split, together),
        popular=fit.popularity(split.histories, split.items).astype(np.float32),
        window=recipe.window,
        max_history=MAX_HISTORY,
        k=min(MAX_K, split.items),
    )


def _popularity(split: TrainTestSplit, together: fit.Floats) -> tuple[WeightTable, ...]:
    return ()


def _cosine(split: TrainTestSplit, together: fit.Floats) -> tuple[WeightTable, ...]:
    return (quantise(fit.cosine(together, neighbours=COSINE_NEIGHBOURS), equal_places(LONG_WINDOW)),)


def _ease(split: TrainTestSplit, together: fit.Floats) -> tuple[WeightTable, ...]:
    return (quantise(_taste(together), equal_places(LONG_WINDOW)),)


def _taste(together: fit.Floats) -> fit.Floats:
    return fit.largest(fit.ease(together, penalty=EASE_PENALTY), EASE_NEIGHBOURS)


def _sequence(split: TrainTestSplit, together: fit.Floats) -> tuple[WeightTable, ...]:
    following = fit.transitions(split.histories, split.items, reach=TRANSITION_REACH, damping=TRANSITION_DAMPING)
    following = fit.largest(following, TRANSITION_NEIGHBOURS)
    return (
        quantise(_taste(together), fading_places(SHORT_WINDOW, half_life=TASTE_HALF_LIFE)),
        quantise(TRANSITION_WEIGHT * following, fading_places(SHORT_WINDOW, half_life=NEXT_HALF_LIFE)),
    )


BASELINE = Recipe(
    version="v1.2.2",
    algorithm="popularity",
    description="The items most users have, without those in the history; the baseline of every offline metric.",
    parameters=(),
    window=LONG_WINDOW,
    tables=_popularity,
    archived=True,
)
RECIPES = (
    BASELINE,
    Recipe(
        version="v1.2.3",
        algorithm="item-cosine",
        description="Item-to-item cosine over users, the nearest neighbours of each scored item.",
        parameters=(("neighbours", COSINE_NEIGHBOURS),),
        window=LONG_WINDOW,
        tables=_cosine,
    ),
    Recipe(
        version="v1.3.0-beta",
        algorithm="ease",
        description="EASE, a linear autoencoder in closed form.",
        parameters=(("penalty", EASE_PENALTY), ("neighbours", EASE_NEIGHBOURS)),
        window=LONG_WINDOW,
        tables=_ease,
    ),
    Recipe(
        version="v1.4.0-rc1",
        algorithm="ease-recency-transitions",
        description="EASE on a history that fades with age, plus what came next after the last few items.",
        parameters=(
            ("penalty", EASE_PENALTY),
            ("neighbours", EASE_NEIGHBOURS),
            ("taste_half_life", TASTE_HALF_LIFE),
            ("next_half_life", NEXT_HALF_LIFE),
            ("transition_reach", TRANSITION_REACH),
            ("transition_neighbours", TRANSITION_NEIGHBOURS),
            ("transition_damping", TRANSITION_DAMPING),
            ("transition_weight", TRANSITION_WEIGHT),
        ),
        window=SHORT_WINDOW,
        tables=_sequence,
    ),
)
ALIASES = (("production", "v1.2.3"), ("staging", "v1.3.0-beta"))
