"""A registry trained on a small synthetic data set, and copies of it to break. Knows the CSV format of MovieLens."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from abfleet_models.registry import Registry
from abfleet_models.train.build import build

COMMITTED = Path(__file__).resolve().parents[2] / "models"
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
USERS, ITEMS = 60, 40


def write_ratings(folder: Path) -> Path:
    """60 users who walk through a catalogue of 40 items (ids 7, 14, …) from different places, with gaps and repeats."""
    draw = np.random.default_rng(20261123)
    lines = ["userId,movieId,rating,timestamp"]
    for user in range(1, USERS + 1):
        start, steps = int(draw.integers(ITEMS)), int(draw.integers(3, 30))
        places = (start + np.cumsum(draw.integers(1, 4, size=steps))) % ITEMS
        for step, place in enumerate(places):
            lines.append(f"{user},{7 * (int(place) + 1)},{draw.integers(1, 11) / 2},{1_000_000 + step // 2}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ratings.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the synthetic ratings.csv."""
    return write_ratings(tmp_path_factory.mktemp("ratings"))


@pytest.fixture(scope="session")
def trained(ratings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry trained on the synthetic ratings; only read it."""
    root = tmp_path_factory.mktemp("trained") / "models"
    assert len(list(build(ratings, root, seed=7, now=NOW, min_ratings=3))) == 4
    return root


@pytest.fixture
def root(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained registry that a test may break."""
    copy = tmp_path / "registry"
    shutil.copytree(trained, copy, symlinks=True)
    return copy


@pytest.fixture
def registry(root: Path) -> Registry:
    return Registry(root)
