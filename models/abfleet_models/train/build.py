"""From a file of ratings to versions in a registry: fit, measure, export, describe, install; the order of it (IO)."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np

from abfleet_models import release
from abfleet_models.item_names import written
from abfleet_models.manifest import SCHEMA
from abfleet_models.signature import as_json, contract
from abfleet_models.train import fit
from abfleet_models.train.dataset import MOVIELENS, TrainingColumns, TrainTestSplit, read_split
from abfleet_models.train.evaluate import evaluate
from abfleet_models.train.export import export
from abfleet_models.train.recipes import ALIASES, BASELINE, RECIPES, Recipe, train
from abfleet_models.train.scorer import Scorer, padded, recommend

MIN_RATINGS = 10
GOLDEN_USERS = 3
GOLDEN_LENGTH = 20
SCORE_TOLERANCE = 1e-6
"""Scores are one rounding away from exact integers; this is eight units in the last place of a float32."""
SPLIT_METHOD = (
    "leave the last out by time: the last item of each user (by timestamp, within a second by the file's order) is "
    "held out of training and is what the metrics ask for; the weights in model.onnx are the ones measured"
)
MOVIELENS_LATEST_SMALL = "80da8b3393dae325bbba5a31f291a6ba55d8d4f4396de3c456f2c1635b1b70e8"
"""sha256 of its ratings.csv."""


@dataclass(frozen=True, slots=True)
class BuiltVersion:
    """One version as it was installed."""

    version: str
    algorithm: str
    outcome: str
    """new, rebuilt or unchanged."""
    metrics: tuple[tuple[str, float], ...]
    size_bytes: int
    named: bool
    """Whether its items have names."""


def build(
    data: Path,
    out: Path,
    *,
    seed: int,
    now: datetime,
    min_ratings: int = MIN_RATINGS,
    columns: TrainingColumns = MOVIELENS,
    version_prefix: str = "",
    only: Sequence[Recipe] = RECIPES,
) -> Iterator[BuiltVersion]:
    """Trains recipes on `data` and installs them into the registry `out`; yields each version when it is there.

    `seed` draws the users of the golden histories; fitting and measuring draw nothing. `version_prefix` stands before
    the versions' names. An alias that exists already stays where it leads: moving it is a release. Raises
    TrainingDataError for the data, RegistryError for the registry.
    """
    split = read_split(data, min_ratings=min_ratings, columns=columns)
    names = None if split.names is None else written(split.names)
    together = fit.co_occurrence(split.histories, split.items)
    baseline = evaluate(train(BASELINE, split, together), split)
    training = _training(data, split)
    golden = _golden_histories(split, seed)
    for recipe in only:
        version = version_prefix + recipe.version
        scorer = train(recipe, split, together)
        model = export(scorer, name=recipe.algorithm)
        metrics = evaluate(scorer, split)
        outcome = release.install(
            out,
            model=model,
            metadata=_metadata(recipe, version, scorer, model, golden, training=training, seed=seed, names=names),
            metrics=_metrics(version, split, metrics, baseline),
            items=names,
            archived=recipe.archived,
            now=now,
        )
        yield BuiltVersion(
            version, recipe.algorithm, outcome, tuple(metrics.items()), len(model), split.names is not None
        )
    built = {recipe.version for recipe in only}
    for alias, version in ALIASES:
        if version in built and not (out / alias).is_symlink():
            release.point(out, alias, version_prefix + version)


def _metadata(
    recipe: Recipe,
    version: str,
    scorer: Scorer,
    model: bytes,
    golden: list[list[int]],
    *,
    training: dict[str, Any],
    seed: int,
    names: bytes | None,
) -> dict[str, Any]:
    answer = recommend(scorer, golden)
    metadata: dict[str, Any] = {
        "schema": SCHEMA,
        "version": version,
        "sha256": hashlib.sha256(model).hexdigest(),
        "size_bytes": len(model),
        "model": {
            "algorithm": recipe.algorithm,
            "description": recipe.description,
            "parameters": {**dict(recipe.parameters), "window": recipe.window},
        },
        "signature": as_json(contract(scorer.k, scorer.max_history)),
        "training": training,
        "code": {"package": "abfleet", "version": package_version("abfleet")},
        "seed": seed,
        "golden": {
            "history": padded(golden).tolist(),
            "item_ids": answer.item_ids.tolist(),
            # Nine digits are enough to give every float32 back.
            "scores": [[float(f"{score:.9g}") for score in row] for row in answer.scores],
            "tolerance": SCORE_TOLERANCE,
        },
    }
    if names is not None:
        metadata["items_sha256"] = hashlib.sha256(names).hexdigest()
    return metadata


def _metrics(
    version: str, split: TrainTestSplit, metrics: dict[str, float], baseline: dict[str, float]
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "version": version,
        "split": {"method": SPLIT_METHOD, "users": len(split.histories), "items": split.items},
        "metrics": metrics,
        "baseline": {f"{BASELINE.algorithm}.{name}": value for name, value in baseline.items()},
    }


def _training(data: Path, split: TrainTestSplit) -> dict[str, Any]:
    known = dict(split.files).get("ratings.csv") == MOVIELENS_LATEST_SMALL
    about = _MOVIELENS if known else {"name": data.resolve().name, "licence": "", "citation": ""}
    return about | {"counts": dict(split.counts), "files": dict(split.files), "split": SPLIT_METHOD}


_MOVIELENS = {
    "name": "MovieLens latest-small (September 2018), GroupLens, University of Minnesota",
    "licence": "MovieLens usage licence: research use, attribution, redistribution of the data and of transformations "
    "under the same conditions, no commercial use without permission; see models/NOTICE",
    "citation": "F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context. ACM "
    "Transactions on Interactive Intelligent Systems (TiiS) 5, 4: 19:1-19:19. https://doi.org/10.1145/2827872",
}


def _golden_histories(split: TrainTestSplit, seed: int) -> list[list[int]]:
    """A cold start, a short one, one with ids that no model knows, and the newest items of a few users."""
    draw = np.random.default_rng(seed)
    users = draw.choice(len(split.histories), size=min(GOLDEN_USERS, len(split.histories)), replace=False)
    drawn = [split.item_ids[split.histories[user][-GOLDEN_LENGTH:]].tolist() for user in users]
    return [[], [1, 2, 3, 10, 15], [-1, 2**62, 1], *drawn]
