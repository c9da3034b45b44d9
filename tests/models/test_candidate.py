"""What `add` looks at before a model may enter a registry: completed, checked as users would notice it, measured."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from abfleet_models.adding.candidate import examine
from abfleet_models.comparison import compare
from abfleet_models.errors import RegistryError
from abfleet_models.manifest import parse_manifest
from abfleet_models.registry import Registry
from onnx import TensorProto, helper, numpy_helper

from tests.models.forge import edit_json, edit_model, replace_model
from tests.support.tiny_model import add_version

HISTORIES = [[0, 0, 0], [1, 2, 3]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A candidate that is right: tiny, version v9."""
    return add_version(tmp_path / "given", "v9", k=10)


def looked_at(folder: Path, tmp_path: Path) -> dict[str, Any]:
    """The completed metadata of a candidate."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    found = examine(folder, scratch, HISTORIES)
    assert set(found.latency_us) == {"1x20", "32x20"}
    assert all(time > 0 for time in found.latency_us.values())
    metadata: dict[str, Any] = json.loads(found.files["metadata.json"])
    parse_manifest(metadata)
    return metadata


def test_what_is_given_is_kept(folder: Path, tmp_path: Path) -> None:
    """A complete candidate's metadata is what it was."""
    assert looked_at(folder, tmp_path) == json.loads((folder / "metadata.json").read_text())


def test_what_can_be_computed_need_not_be_given(folder: Path, tmp_path: Path) -> None:
    """Without schema, sha256, size and golden answers, they come out as they would have been written."""
    complete = json.loads((folder / "metadata.json").read_text())
    edit_json(
        folder / "metadata.json", lambda data: [data.pop(k) for k in ("schema", "sha256", "size_bytes", "golden")]
    )
    metadata = looked_at(folder, tmp_path)
    assert {key: metadata[key] for key in ("schema", "sha256", "size_bytes")} == {
        key: complete[key] for key in ("schema", "sha256", "size_bytes")
    }
    assert metadata["golden"]["history"] == HISTORIES
    assert metadata["golden"]["item_ids"][1] == list(range(7, 17))


def leaks_between_rows(model: onnx.ModelProto) -> None:
    """Sums over the whole batch instead of each history."""
    node = next(node for node in model.graph.node if node.op_type == "ReduceSum")
    axes = next(item for item in model.graph.initializer if item.name == "one")
    del node.input[1:], axes
    whole, rows = node.output[0], "all_rows"
    node.output[0] = rows
    place = list(model.graph.node).index(node) + 1
    zeros = helper.make_node("Mul", ["row", "nought"], ["zeros"])
    row = helper.make_node("ReduceSum", ["whole", "one"], ["row"], keepdims=1)
    add = helper.make_node("Add", ["zeros", rows], [whole])
    for extra in (add, zeros, row):
        model.graph.node.insert(place, extra)
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), "nought"))


def counts_padding(model: onnx.ModelProto) -> None:
    """Adds the length of the padded history to its sum."""
    node = next(node for node in model.graph.node if node.op_type == "Cast")
    ones = helper.make_node("Add", ["cast", "one"], [node.output[0]])
    node.output[0] = "cast"
    model.graph.node.insert(1, ones)


def rises(model: onnx.ModelProto) -> None:
    """Turns the scores round."""
    falling = next(item for item in model.graph.initializer if item.name == "falling")
    falling.CopyFrom(numpy_helper.from_array(np.arange(1, 11, dtype=np.float32), "falling"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (leaks_between_rows, "changes the answer to golden history"),
        (counts_padding, "more padding changes the answer"),
        (rises, "scores of an answer must be in descending order"),
    ],
)
def test_a_model_that_would_surprise_users_is_refused(
    folder: Path, tmp_path: Path, change: Callable[[onnx.ModelProto], None], words: str
) -> None:
    """A model whose answer depends on its neighbours or on padding, or whose best item is the last, is not added, even
    where its golden answers are its own."""
    edit_model(folder, change)
    edit_json(folder / "metadata.json", lambda data: data.pop("golden"))
    with pytest.raises(RegistryError, match=words):
        looked_at(folder, tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.update(sha256="0" * 64), "has sha256"),
        (lambda data: data.update(version="../v9"), "version: '../v9' is not a version"),
        (lambda data: data.update(external_data={"../../secret": "0" * 64}), "is not a plain file name"),
        (lambda data: data["signature"].pop("k"), "signature.k: is missing"),
        (lambda data: data.update(extra=1), "extra: is not a known key"),
        (lambda data: data["golden"]["item_ids"][0].reverse(), "golden history 0: item 1"),
    ],
)
def test_metadata_that_is_wrong_is_refused(
    folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    """One line that names the field."""
    edit_json(folder / "metadata.json", change)
    with pytest.raises(RegistryError, match=words):
        looked_at(folder, tmp_path)


def test_a_graph_that_is_none_is_refused(folder: Path, tmp_path: Path) -> None:
    """Bytes that are no model, and a path that leads nowhere."""
    replace_model(folder, b"not a model")
    with pytest.raises(RegistryError, match=r"v9: model\.onnx"):
        looked_at(folder, tmp_path)
    with pytest.raises(RegistryError, match="does not exist"):
        examine(tmp_path / "nowhere", tmp_path, HISTORIES)


def test_a_version_differs_from_itself_in_nothing(registry: Registry) -> None:
    """No metadata, no metric, all answers the same; only the times are measured twice."""
    found = compare(registry.resolve("production"), registry.resolve("v1.2.3"))
    assert found.metadata == ()
    assert {one.difference for one in found.metrics} == {0.0}
    assert (found.overlap, found.same_first, found.same_list) == (1.0, 1.0, 1.0)


def test_a_comparison_counts_what_users_would_see(tmp_path: Path) -> None:
    """Of two tiny models, one of which shifts its items by one, nine of ten items are common and no first one is."""
    a, b = add_version(tmp_path, "v1", k=10), add_version(tmp_path, "v2", k=10)
    edit_model(b, lambda model: _shift(model))
    found = compare(Registry(tmp_path).resolve("v1"), Registry(tmp_path).resolve("v2"))
    assert found.overlap == pytest.approx(0.9)
    assert (found.same_first, found.same_list) == (0.0, 0.0)
    assert {change.field for change in found.metadata} == {"version", "sha256"}
    assert found.size_bytes == (a.joinpath("model.onnx").stat().st_size, b.joinpath("model.onnx").stat().st_size)
    assert {one.history for one in found.answers} == {(1, 2), (3, 4, 5)}


def _shift(model: onnx.ModelProto) -> None:
    ranks = next(item for item in model.graph.initializer if item.name == "ranks")
    assert ranks.data_type == TensorProto.INT64
    ranks.CopyFrom(numpy_helper.from_array(np.arange(2, 12, dtype=np.int64), "ranks"))
