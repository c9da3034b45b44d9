"""Training: the split, the metrics, the export. The same data give the same bytes; the committed files come from it."""

import csv
import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from abfleet_models.golden.verification import verify_golden
from abfleet_models.registry import Registry
from abfleet_models.train import fit
from abfleet_models.train.build import build
from abfleet_models.train.dataset import TrainingDataError, TrainTestSplit, read_split
from abfleet_models.train.evaluate import evaluate
from abfleet_models.train.recipes import BASELINE, RECIPES, Recipe, train
from abfleet_models.train.scorer import NEWEST, Scorer, equal_places, fading_places, quantise, recommend
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.conftest import COMMITTED, NOW, write_ratings
from tests.models.reference import Reference, ask, open_session

DATA = os.environ.get("ABFLEET_TEST_DATA", "")
needs_data = pytest.mark.skipif(
    not (Path(DATA) / "ratings.csv").is_file() or not DATA,
    reason="ABFLEET_TEST_DATA names no folder with MovieLens latest-small, which is not part of the repository",
)


def write(folder: Path, *lines: str, header: str = "userId,movieId,rating,timestamp") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "ratings.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return folder


def contents(root: Path) -> dict[str, str]:
    """Every file and link of a registry: its path, and the digest of its bytes or where it leads."""
    return {
        str(path.relative_to(root)): str(path.readlink())
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def test_training_twice_gives_the_same_bytes(ratings: Path, trained: Path, tmp_path: Path) -> None:
    """Models, metadata, metrics, registry.json and links are identical, byte for byte, and nothing else is left."""
    again = tmp_path / "again"
    outcomes = [built.outcome for built in build(ratings, again, seed=7, now=NOW, min_ratings=3)]
    assert outcomes == ["new"] * 4
    assert contents(again) == contents(trained)
    versions = ("v1.2.3", "v1.3.0-beta", "v1.4.0-rc1", "archive/v1.2.2")
    files = {f"{version}/{name}" for version in versions for name in ("model.onnx", "metadata.json", "metrics.json")}
    assert set(contents(again)) == {"registry.json", "production", "staging"} | files


def test_training_into_a_registry_that_is_there(ratings: Path, root: Path) -> None:
    """Unchanged versions are left alone and not logged again, changed ones are rebuilt and logged; aliases stay."""
    (root / "production").unlink()
    (root / "production").symlink_to("v1.4.0-rc1")
    before = contents(root)
    later = datetime(2027, 1, 1, tzinfo=UTC)
    assert {built.outcome for built in build(ratings, root, seed=7, now=later, min_ratings=3)} == {"unchanged"}
    assert contents(root) == before
    (root / "v1.2.3" / "model.onnx").write_bytes(b"broken")
    outcomes = {built.version: built.outcome for built in build(ratings, root, seed=7, now=later, min_ratings=3)}
    assert outcomes.pop("v1.2.3") == "rebuilt"
    assert set(outcomes.values()) == {"unchanged"}
    log = json.loads((root / "registry.json").read_text())["log"]
    assert (len(log), log[-1]["event"], log[-1]["version"]) == (5, "rebuilt", "v1.2.3")
    assert {name: digest for name, digest in contents(root).items() if name != "registry.json"} == {
        name: digest for name, digest in before.items() if name != "registry.json"
    }
    assert Registry(root).check() == []


def test_the_seed_draws_the_golden_histories_alone(ratings: Path, trained: Path, tmp_path: Path) -> None:
    """Another seed changes metadata.json; model and metrics are a function of the data."""
    other = tmp_path / "other"
    assert len(list(build(ratings, other, seed=8, now=NOW, min_ratings=3))) == 4
    changed = {name for name, digest in contents(other).items() if digest != contents(trained)[name]}
    assert changed == {name for name in contents(other) if name.endswith("metadata.json")}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.version)
def test_exported_graph_equals_its_scorer(recipe: Recipe, ratings: Path, trained: Path) -> None:
    """The file answers as the scorer that was measured, and as a reference that reads only the file."""
    split = read_split(ratings, min_ratings=3)
    scorer = train(recipe, split, fit.co_occurrence(split.histories, split.items))
    folder = trained / ("archive" if recipe.archived else "") / recipe.version
    session = open_session(folder / "model.onnx")
    reference = Reference(folder / "model.onnx", window=recipe.window, k=split.items)
    draw = np.random.default_rng(11)
    histories = [
        draw.choice([*split.item_ids, 5, 2**50], size=size).tolist() for size in draw.integers(0, 150, size=200)
    ]
    wanted = recommend(scorer, histories)
    item_ids, scores = ask(session, *histories)
    assert item_ids.tolist() == wanted.item_ids.tolist()
    assert scores.tobytes() == wanted.scores.tobytes()
    for row, history in enumerate(histories[:50]):
        assert reference.answer(history)[0] == item_ids[row].tolist()


def test_a_small_catalogue_ends_with_id_0(trained: Path) -> None:
    """With fewer than k items left the answer ends in id 0 with score 0; a history of everything leaves nothing."""
    version = Registry(trained).resolve("v1.4.0-rc1")
    session = open_session(version.model_path)
    catalogue = ask(session, [])[0][0].tolist()
    assert len(set(catalogue)) == version.manifest.k == 40
    item_ids, scores = ask(session, catalogue[:30])
    assert set(item_ids[0][:10].tolist()) == set(catalogue[30:])
    assert item_ids[0][10:].tolist() == [0] * 30
    assert scores[0][10:].tolist() == [0.0] * 30
    assert ask(session, catalogue)[0][0].tolist() == [0] * 40


def test_split_holds_out_the_last_item_by_time(tmp_path: Path) -> None:
    """Order is by timestamp, then by the file; of repeats the newest counts; rare items and lone users are left out."""
    folder = write(
        tmp_path / "data",
        "1,10,5.0,300",
        "1,20,5.0,100",
        "1,30,5.0,200",
        "2,10,3.0,50",
        "2,20,3.0,50",
        "2,30,3.0,50",
        "3,30,1.0,1",
        "3,10,1.0,2",
        "3,30,1.0,3",
        "4,10,1.0,1",
        "5,99,1.0,1",
        "5,20,1.0,2",
        "",
    )
    split = read_split(folder, min_ratings=2)
    assert split.item_ids.tolist() == [10, 20, 30]  # in training 10 and 20 have two users each, 30 has one
    assert [split.item_ids[history].tolist() for history in split.histories] == [[20, 30], [10, 20], [10]]
    assert split.item_ids[split.held_out].tolist() == [10, 30, 30]
    assert dict(split.counts) == {"ratings_read": 12, "ratings": 5, "users": 3, "items": 3}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,x,5.0,100", r"ratings\.csv:2: movieId: 'x' is not an integer from 1 to 4194303"),
        ("1,0,5.0,100", r"ratings\.csv:2: movieId: '0' is not an integer"),
        ("1,4194304,5.0,100", r"ratings\.csv:2: movieId: '4194304' is not"),
        ("1,²,5.0,100", r"ratings\.csv:2: movieId: '²' is not"),
        ("1,5,5.0,-1", r"ratings\.csv:2: timestamp: '-1' is not an integer from 0"),
        ("1,5,5.0", r"ratings\.csv:2: 3 columns, the header has 4"),
        ("1,5,5.0,100", r"0 users have two or more items that 1 or more have rated; at least 2 are needed"),
    ],
)
def test_wrong_data_names_file_line_and_field(tmp_path: Path, line: str, message: str) -> None:
    """A wrong cell is reported with where it is, what it is and what is allowed."""
    with pytest.raises(TrainingDataError, match=message):
        read_split(write(tmp_path / "data", line), min_ratings=1)


def test_wrong_files_are_named(tmp_path: Path) -> None:
    """A missing file, a missing column and a file that is no text each say so."""
    with pytest.raises(TrainingDataError, match=r"ratings\.csv: cannot be read: No such file"):
        read_split(tmp_path, min_ratings=1)
    with pytest.raises(
        TrainingDataError, match=r"ratings\.csv:1: the header 'user,item' has no userId, movieId, timestamp"
    ):
        read_split(write(tmp_path / "data", header="user,item"), min_ratings=1)
    (tmp_path / "ratings.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TrainingDataError, match="is not CSV in UTF-8"):
        read_split(tmp_path, min_ratings=1)


def toy(k: int = 3) -> tuple[Scorer, TrainTestSplit]:
    """Three users, four items; popularity ranks 0, 1, 2, 3."""
    histories = (np.array([0, 1]), np.array([0, 2]), np.array([0, 1]))
    ids = np.array([5, 6, 7, 8], dtype=np.int64)
    split = TrainTestSplit(ids, histories, np.array([2, 3, 3]), counts=(), files=())
    popular = np.array([0.9, 0.6, 0.3, 0.1], dtype=np.float32)
    return Scorer(ids, (), popular, window=10, max_history=10, k=k), split


def test_metrics_by_hand() -> None:
    """Users get [7, 8], [6, 8] and [7, 8] and look for 7, 8 and 8: hits at ranks 1, 2 and 2."""
    scorer, split = toy()
    metrics = evaluate(scorer, split)
    assert metrics["recall@10"] == 1.0
    assert metrics["recall@10_se"] == 0.0
    assert metrics["ndcg@10"] == pytest.approx((1.0 + 2.0 / np.log2(3.0)) / 3.0)
    assert metrics["coverage@10"] == 0.75
    alone = evaluate(toy(k=1)[0], split)
    assert alone["recall@10"] == pytest.approx(1.0 / 3.0)
    assert alone["recall@10_se"] == pytest.approx(np.sqrt(2.0 / 27.0))
    assert alone["coverage@10"] == 0.5


def test_ease_is_the_ridge_regression_of_each_item_on_the_others() -> None:
    """EASE's closed form equals solving each column's ridge regression on the other items."""
    draw = np.random.default_rng(2)
    seen = (draw.random((30, 6)) < 0.4).astype(np.float64)
    histories = [np.flatnonzero(row) for row in seen]
    together = fit.co_occurrence(histories, 6)
    assert together.tolist() == (seen.T @ seen).tolist()
    weights = fit.ease(together, penalty=3.0)
    for item in range(6):
        others = [other for other in range(6) if other != item]
        solved = np.linalg.solve(
            seen[:, others].T @ seen[:, others] + 3.0 * np.eye(5), seen[:, others].T @ seen[:, item]
        )
        assert weights[others, item] == pytest.approx(solved)
        assert weights[item, item] == 0.0


def test_cosine_and_transitions_by_hand() -> None:
    """Cosine keeps the nearest for each scored item; transitions fall with distance and are damped."""
    histories = [np.array([0, 1, 2]), np.array([0, 1]), np.array([1, 0])]
    together = fit.co_occurrence(histories, 3)
    assert fit.cosine(together, neighbours=3)[0, 1] == pytest.approx(1.0)
    nearest = fit.cosine(together, neighbours=1)
    assert nearest[:, 2].tolist() == pytest.approx([1 / np.sqrt(3.0), 0.0, 0.0])  # a tie between 0 and 1: the lower row
    weights = fit.transitions(histories, 3, reach=2, damping=1.0)
    assert weights[0].tolist() == pytest.approx([0.0, 2.0 / 3.5, 0.5 / 3.5])
    assert weights[2].tolist() == [0.0, 0.0, 0.0]
    assert fit.popularity(histories, 3).tolist() == pytest.approx([1.0, 1.0, 1.0 / 3.0])


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), items=st.integers(1, 12), length=st.integers(1, 40))
def test_quantised_weights_stay_close_and_sums_stay_exact(seed: int, items: int, length: int) -> None:
    """Each weight is within half a unit of its column, and no pair of products can leave int16, nor a sum float32."""
    draw = np.random.default_rng(seed)
    weights = draw.normal(size=(items, items)) * 10.0 ** draw.integers(-6, 6, size=items)
    places = fading_places(length, half_life=5.0)
    table = quantise(weights, places)
    unit = np.abs(weights).max(axis=0) / 127.0
    back = table.weights * (table.scale.astype(np.float64) * NEWEST)
    assert (np.abs(back - weights) <= unit * 0.5001 + 1e-5 * np.abs(weights)).all()
    assert int(table.weights.min()) >= -127
    assert places[0] == NEWEST
    assert (np.diff(places.astype(int)) <= 0).all()
    assert 2 * 127 * NEWEST <= 2**15 - 1
    assert 127 * int(places.sum(dtype=np.int64)) < 2**24
    assert set(equal_places(length).tolist()) == {1}


@needs_data
def test_committed_files_come_from_the_data(tmp_path: Path) -> None:
    """Training on MovieLens latest-small gives the committed metrics within 1e-6, and models that answer the same."""
    root = tmp_path / "models"
    assert len(list(build(Path(DATA), root, seed=7, now=NOW))) == 4
    for path in sorted(COMMITTED.glob("**/metrics.json")):
        committed = json.loads(path.read_text())
        rebuilt = json.loads((root / path.relative_to(COMMITTED)).read_text())
        for part in ("metrics", "baseline"):
            assert rebuilt[part] == pytest.approx(committed[part], abs=1e-6)
    for name in ("v1.2.3", "v1.3.0-beta", "v1.4.0-rc1"):
        verify_golden(Registry(root).resolve(name))
        same = (root / name / "model.onnx").read_bytes() == (COMMITTED / name / "model.onnx").read_bytes()
        assert same, f"{name}: another model than the committed one; its metrics agree all the same"


@needs_data
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.version)
def test_committed_metrics_measured_through_the_graph(recipe: Recipe) -> None:
    """recall@10 of the committed files, run by ONNX Runtime on a split made here anew, is what metrics.json says."""
    rows: dict[str, list[tuple[int, int, int]]] = {}
    counts: dict[int, int] = {}
    with (Path(DATA) / "ratings.csv").open(newline="", encoding="utf-8") as file:
        for place, row in enumerate(csv.DictReader(file)):
            item = int(row["movieId"])
            counts[item] = counts.get(item, 0) + 1
            rows.setdefault(row["userId"], []).append((int(row["timestamp"]), place, item))
    folder = COMMITTED / ("archive" if recipe.archived else "") / recipe.version
    session = open_session(folder / "model.onnx")
    hits = 0
    for events in rows.values():
        history = [item for _, _, item in sorted(events) if counts[item] >= 10]
        hits += history[-1] in ask(session, history[:-1][-1000:])[0][0][:10].tolist()
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    assert hits / len(rows) == pytest.approx(metrics["recall@10"], abs=1e-6)


def test_the_baseline_is_the_archived_popularity_model() -> None:
    """What metrics.json calls the baseline is a model that is in the registry, with the same figures."""
    archived = json.loads((COMMITTED / "archive" / BASELINE.version / "metrics.json").read_text())
    served = json.loads((COMMITTED / "v1.2.3" / "metrics.json").read_text())
    assert served["baseline"] == {f"popularity.{name}": value for name, value in archived["metrics"].items()}


def test_synthetic_ratings_are_the_same_each_time(ratings: Path, tmp_path: Path) -> None:
    """The data behind the byte-for-byte tests do not change between runs."""
    again = write_ratings(tmp_path / "again")
    assert (again / "ratings.csv").read_bytes() == (ratings / "ratings.csv").read_bytes()
