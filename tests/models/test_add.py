"""Adding a model file: what is read from its graph, what is made for it, and what is refused with the way out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from abfleet_models.adding.candidate import Candidate, examine
from abfleet_models.adding.drafting import AddOptions
from abfleet_models.errors import RegistryError
from abfleet_models.golden.verification import verify_golden
from abfleet_models.manifest import parse_manifest
from abfleet_models.registry import Registry
from abfleet_models.runs import OpenedModel
from onnx import TensorProto, helper

from tests.support import small_graphs
from tests.support.small_graphs import HISTORIES, add_model, value


def added(tmp_path: Path, model: bytes, **options: Any) -> Candidate:
    """What is found in a model file."""
    file, scratch = tmp_path / "model.onnx", tmp_path / "scratch"
    file.write_bytes(model)
    scratch.mkdir()
    return examine(file, scratch, HISTORIES, AddOptions(version="v2", **options))


def metadata(candidate: Candidate) -> dict[str, Any]:
    """The metadata.json of a candidate, which is right."""
    found: dict[str, Any] = json.loads(candidate.files["metadata.json"])
    parse_manifest(found)
    return found


def test_everything_is_read_from_the_graph(tmp_path: Path) -> None:
    """Names, types, shapes and several inputs and outputs, texts among them; golden cases are made and hold."""
    found = added(tmp_path, small_graphs.user_and_items())
    assert metadata(found)["signature"] == {
        "kind": "tensors",
        "inputs": [
            {"name": "user", "datatype": "INT64", "shape": [-1, 1]},
            {"name": "items", "datatype": "INT64", "shape": [-1, -1]},
            {"name": "context", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": "score", "datatype": "FP32", "shape": [-1, -1]},
            {"name": "best", "datatype": "INT64", "shape": [-1, 1]},
            {"name": "echoed", "datatype": "BYTES", "shape": [-1]},
        ],
        "batch": True,
    }
    assert len(metadata(found)["golden"]["cases"]) == 6
    assert found.found[0] == (
        "v2 is a model of tensors: it takes user INT64[-1, 1], items INT64[-1, -1], context BYTES[-1] "
        "and gives score FP32[-1, -1], best INT64[-1, 1], echoed BYTES[-1]"
    )
    assert set(found.latency_us) == {"alone", "32 together"}


def test_an_added_model_verifies_and_a_changed_answer_does_not(tmp_path: Path) -> None:
    """Golden cases are asked again by `verify`, numbers within the tolerance, everything else exactly."""
    folder = add_model(tmp_path / "models", "v2", small_graphs.user_and_items())
    registry = Registry(tmp_path / "models")
    verify_golden(registry.resolve("v2"))
    data = json.loads((folder / "metadata.json").read_text())
    for output, change, words in (
        ("score", lambda number: number + 1.0, "output score: element 1 is"),
        ("best", lambda number: number + 1, "output best: element 1 is"),
        ("echoed", lambda text: text + "x", "output echoed: element 1 is"),
    ):
        broken = json.loads(json.dumps(data))
        elements = broken["golden"]["cases"][0]["outputs"][output]["data"]
        elements[0] = change(elements[0])
        (folder / "metadata.json").write_text(json.dumps(broken))
        with pytest.raises(RegistryError, match=words):
            verify_golden(registry.resolve("v2"))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (small_graphs.ranker(), None),
        (small_graphs.softmax_over_rows(), "differs from the single answer"),
        (small_graphs.listwise(), "differs from the single answer"),
        (small_graphs.ranker(first=2), "the first dimension of features is not free"),
        (small_graphs.echo(["FP32", "INT64"], ["a"]), None),
    ],
    ids=["ranker", "softmax over rows", "listwise", "fixed", "echo"],
)
def test_requests_are_joined_only_where_that_changes_no_bit(tmp_path: Path, model: bytes, reason: str | None) -> None:
    """A model that looks across rows is not joined, and add says why; `--no-batch` turns joining off for any."""
    found = added(tmp_path, model)
    assert metadata(found)["signature"]["batch"] is (reason is None)
    (line,) = (line for line in found.found if "joined" in line)
    assert (reason or "bit for bit") in line


def test_joining_can_be_turned_off(tmp_path: Path) -> None:
    """Where somebody knows better than the check."""
    found = added(tmp_path, small_graphs.ranker(), batch=False)
    assert metadata(found)["signature"]["batch"] is False
    assert "requests are not joined into one run: --no-batch" in found.found


def test_a_recommender_is_known_by_its_names(tmp_path: Path) -> None:
    """history in, item_ids and scores out: k is that of the graph, or where it is free that of an answer."""
    for place, k in enumerate((5, "k")):
        folder = tmp_path / str(place)
        folder.mkdir()
        found = added(folder, small_graphs.recommender(k=k), max_history=77)
        signature = metadata(found)["signature"]
        assert (signature["k"], signature["max_history"]) == (5, 77)
        assert metadata(found)["golden"]["history"] == HISTORIES
        assert found.found[0].startswith("v2 is a recommender: it takes history INT64[-1, -1]")


def test_dimensions_of_a_recommender_may_have_any_name(tmp_path: Path) -> None:
    """Exporters call them as they like, or not at all."""
    for place, shape in enumerate((("N", "L"), (None, None))):
        folder = tmp_path / str(place)
        folder.mkdir()
        metadata(added(folder, small_graphs.recommender(shape=shape)))


def custom_operator() -> bytes:
    """Of a domain that ONNX Runtime does not know."""
    nodes = [helper.make_node("Mine", ["a"], ["b"], domain="mine")]
    return small_graphs.graph(nodes, *([value(name, TensorProto.FLOAT, ["n"])] for name in "ab"))


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (small_graphs.recommender(gives_seen=True), {}, r"item \d+ of the history is in the answer"),
        (small_graphs.recommender(history_type=TensorProto.INT32), {}, r"history is int32, .*Add it with --cast$"),
        (
            small_graphs.recommender(score_type=TensorProto.DOUBLE, ids_type=TensorProto.INT32),
            {},
            r"item_ids is int32, a recommender's is int64; scores is float64, .*Add it with --cast$",
        ),
        (small_graphs.recommender(history_type=TensorProto.FLOAT), {}, r"history is float32.*Add it as --kind tensors"),
        (small_graphs.recommender(shape=(1, "length")), {}, r"history has the shape \[1, -1\].*with dynamic axes"),
        (
            small_graphs.recommender(history="items", item_ids="ids"),
            {"kind": "recommender"},
            r"Add it with --rename items=history --rename ids=item_ids$",
        ),
        (small_graphs.ranker(), {"kind": "recommender"}, r"this model takes features FP32\[-1, 4\].*--kind tensors"),
        (small_graphs.ranker(), {"cast": True}, r"--cast: only tensors of a recommender can be cast"),
        (
            small_graphs.ranker(),
            {"renames": {"x": "y"}},
            r"--rename: 'x' is neither .*allowed: features, score",
        ),
        (small_graphs.ranker(), {"renames": {"score": "parts"}}, r"--rename: 'parts' already exists in the graph"),
        (small_graphs.recommender(history_type=TensorProto.INT32, opset=11), {"cast": True}, r"has opset 11; allowed"),
        (small_graphs.sequence_output(), {}, r"output parts is a sequence; only tensors are served"),
        (small_graphs.zipmap_output(), {}, r"output_probability is a sequence; .*'zipmap': False"),
        (
            small_graphs.echo(["FP32"], shape=None),
            {},
            r"input in_FP32 has no shape in the graph; export the model",
        ),
        (custom_operator(), {}, r"operators of domain 'mine' are custom; allowed: standard operators"),
        (b"not a model", {}, r"v2: model\.onnx is not an ONNX model"),
    ],
)
def test_what_is_refused_says_the_way_out(tmp_path: Path, model: bytes, options: dict[str, Any], words: str) -> None:
    """One line that names the tensor, what it is and what would be right; an option where that is all it takes."""
    with pytest.raises(RegistryError, match=words) as raised:
        added(tmp_path, model, **options)
    assert "\n" not in str(raised.value)
    assert "..." not in str(raised.value), "a cut repr tells nothing"


def test_a_type_that_is_not_served_is_named(tmp_path: Path) -> None:
    """bfloat16 has no place in the protocol's contents or in numpy."""
    nodes = [helper.make_node("Identity", ["a"], ["b"])]
    faces = [[value(name, TensorProto.BFLOAT16, ["n"])] for name in "ab"]
    with pytest.raises(RegistryError, match=r"input a is a onnx type 16; allowed: float32"):
        added(tmp_path, small_graphs.graph(nodes, *faces))


def test_a_renamed_graph_answers_as_before(tmp_path: Path) -> None:
    """The options that add offers do what they say; nodes inside of subgraphs go on using the renamed value."""
    model = onnx.load_from_string(small_graphs.recommender(history="items", item_ids="ids"))
    inner = helper.make_graph(
        [helper.make_node("Identity", ["items"], ["same"])], "inner", [], [value("same", TensorProto.INT64, None)]
    )
    chosen = helper.make_node("If", ["yes"], ["chosen"], then_branch=inner, else_branch=inner)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node[0].input[0] = "chosen"
    model.graph.node.insert(0, chosen)
    found = added(tmp_path, model.SerializeToString(), renames={"items": "history", "ids": "item_ids"})
    assert "renamed items to history" in found.found
    assert metadata(found)["golden"]["item_ids"][1] == [4, 5, 6, 7, 8]
    hint = added(_folder(tmp_path), small_graphs.recommender(history="items", item_ids="ids")).found[-1]
    assert hint.endswith("add it with --rename items=history --rename ids=item_ids")


def test_a_cast_graph_takes_any_int64(tmp_path: Path) -> None:
    """An id that int32 cannot hold is no known item: cut to its low bits it would be item 3."""
    model = small_graphs.recommender(
        history_type=TensorProto.INT32, ids_type=TensorProto.INT32, score_type=TensorProto.DOUBLE
    )
    root = tmp_path / "models"
    add_model(root, "v2", model, cast=True)
    opened = OpenedModel(Registry(root).resolve("v2"))
    item_ids, scores = opened.answer(np.array([[2**32 + 3, 1], [-(2**32) + 3, 1], [3, 1]], np.int64))
    assert item_ids.tolist() == [[2, 3, 4, 5, 6], [2, 3, 4, 5, 6], [2, 4, 5, 6, 7]]
    assert (item_ids.dtype, scores.dtype) == (np.int64, np.float32)


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "again"
    folder.mkdir()
    return folder


def test_names_of_items_come_along_and_are_vouched_for(tmp_path: Path) -> None:
    """items.txt beside the model is copied and counted; a changed one is no part of the version any more."""
    (tmp_path / "items.txt").write_text("red\nblue\nзелёный\n")
    folder = add_model(tmp_path / "models", "v2", small_graphs.ranker())
    assert (folder / "items.txt").read_text() == "red\nblue\nзелёный\n"
    registry = Registry(tmp_path / "models")
    registry.resolve("v2").verify_file()
    (folder / "items.txt").write_text("blue\nred\n")
    with pytest.raises(RegistryError, match=r"items\.txt has a different sha256"):
        registry.resolve("v2").verify_file()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"red\n\nblue\n", "line 2 is empty"),
        (b"red\nblue\nred\n", "line 3 repeats 'red' of line 1"),
        (b"\xff\n", "is not UTF-8"),
    ],
)
def test_names_of_items_must_tell_them_apart(tmp_path: Path, content: bytes, words: str) -> None:
    """Line n is item n, so that each line is there once and says something."""
    (tmp_path / "items.txt").write_bytes(content)
    with pytest.raises(RegistryError, match=words):
        added(tmp_path, small_graphs.ranker())


def test_weights_beside_the_model_come_along(tmp_path: Path) -> None:
    """A graph that keeps its weights in another file is added with it, and its sha256 is in the metadata."""
    model = onnx.load_from_string(small_graphs.ranker(64))
    file = tmp_path / "big.onnx"
    onnx.save(model, file, save_as_external_data=True, location="big.weights", size_threshold=100)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    found = examine(file, scratch, HISTORIES, AddOptions(version="v2"))
    assert set(found.files) == {"model.onnx", "metadata.json", "big.weights"}
    assert set(metadata(found)["external_data"]) == {"big.weights"}


def test_a_model_that_no_drawn_case_fits_takes_its_own(tmp_path: Path) -> None:
    """Where a size that the graph leaves open must be a certain one, cases are given; their answers need not be."""
    model = small_graphs.graph(
        [helper.make_node("MatMul", ["a", "weights"], ["b"])],
        [value("a", TensorProto.FLOAT, ["n", "width"])],
        [value("b", TensorProto.FLOAT, ["n", 2])],
        {"weights": np.array([[1, 0]] * 6 + [[0, 1]], np.float32)},
    )
    with pytest.raises(RegistryError, match=r"golden\.cases of a metadata\.json beside it"):
        added(tmp_path, model)
    case = {"a": {"shape": [1, 7], "data": [1, 2, 3, 0, 0, 0.5, "inf"]}}
    (tmp_path / "metadata.json").write_text(json.dumps({"version": "v3", "golden": {"cases": [{"inputs": case}]}}))
    scratch = tmp_path / "again"
    scratch.mkdir()
    (answered,) = metadata(examine(tmp_path, scratch, HISTORIES))["golden"]["cases"]
    assert answered["outputs"]["b"] == {"shape": [1, 2], "data": ["nan", "inf"]}


def test_a_file_needs_a_name_and_a_path_something_there(tmp_path: Path) -> None:
    """Both are said in a line that names the option or the path."""
    file = tmp_path / "model.onnx"
    file.write_bytes(small_graphs.ranker())
    with pytest.raises(RegistryError, match="--version: is missing"):
        examine(file, tmp_path, HISTORIES)
    with pytest.raises(RegistryError, match=r"version: '\.\./x' is not a version"):
        examine(file, tmp_path, HISTORIES, AddOptions(version="../x"))
    with pytest.raises(RegistryError, match="does not exist"):
        examine(tmp_path / "nowhere", tmp_path, HISTORIES)


def test_the_kind_is_said_once(tmp_path: Path) -> None:
    """What metadata say of it is not overruled in passing."""
    add_model(tmp_path / "models", "v2", small_graphs.ranker())
    scratch = tmp_path / "again"
    scratch.mkdir()
    with pytest.raises(RegistryError, match=r"--kind: is recommender, and the signature of metadata\.json"):
        examine(tmp_path / "models" / "v2", scratch, HISTORIES, AddOptions(kind="recommender"))


def test_a_model_that_answers_by_chance_is_refused(tmp_path: Path) -> None:
    """What is not the same twice can neither be verified nor compared."""
    nodes = [
        helper.make_node("RandomNormalLike", ["a"], ["noise"]),
        helper.make_node("Add", ["a", "noise"], ["b"]),
    ]
    faces = [[value(name, TensorProto.FLOAT, ["n"])] for name in "ab"]
    with pytest.raises(RegistryError, match="the model gave another answer to the same request"):
        added(tmp_path, small_graphs.graph(nodes, *faces))


def test_large_tensors_keep_their_first_elements(tmp_path: Path) -> None:
    """Metadata stay small: an input's elements repeat, an output's are compared as far as they are kept."""
    found = added(tmp_path, small_graphs.ranker(5_000))
    case = metadata(found)["golden"]["cases"][1]
    assert case["inputs"]["features"]["shape"] == [2, 5_000]
    assert len(case["inputs"]["features"]["data"]) == 256
    assert len(found.files["metadata.json"]) < 100_000


@pytest.mark.parametrize("kind", sorted(small_graphs.KINDS))
def test_every_type_has_golden_cases(tmp_path: Path, kind: str) -> None:
    """Each type of the protocol goes through JSON and comes back, or `add` itself would refuse its answers."""
    found = added(tmp_path, small_graphs.echo([kind], ["n", 2]))
    assert metadata(found)["signature"]["inputs"][0]["datatype"] == kind
    assert metadata(found)["signature"]["batch"] is True
