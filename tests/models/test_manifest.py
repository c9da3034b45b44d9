"""metadata.json, metrics.json, registry.json: every mistake is reported with its field, and nothing else is raised."""

import contextlib
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from abfleet_models.errors import ManifestError
from abfleet_models.json_files import MAX_JSON_BYTES, read_json
from abfleet_models.manifest import parse_index, parse_manifest, parse_metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.conftest import COMMITTED

GOOD: dict[str, Any] = json.loads((COMMITTED / "v1.2.3" / "metadata.json").read_text())
METRICS: dict[str, Any] = json.loads((COMMITTED / "v1.2.3" / "metrics.json").read_text())
INDEX: dict[str, Any] = json.loads((COMMITTED / "registry.json").read_text())


def test_a_good_manifest_gives_its_values() -> None:
    """Parsing loses nothing that callers rely on."""
    manifest = parse_manifest(GOOD)
    assert (manifest.version, manifest.sha256, manifest.k) == ("v1.2.3", GOOD["sha256"], 100)
    assert manifest.max_history == GOOD["signature"]["max_history"]
    assert manifest.golden_history == GOOD["golden"]["history"]
    assert [list(row) for row in manifest.golden.item_ids] == GOOD["golden"]["item_ids"]
    assert [list(row) for row in manifest.golden.scores] == GOOD["golden"]["scores"]
    assert dict(manifest.training.counts)["users"] == 610
    assert hash(manifest) == hash(parse_manifest(copy.deepcopy(GOOD)))


TENSORS: dict[str, Any] = {
    **{key: GOOD[key] for key in ("schema", "version", "sha256", "size_bytes", "model", "training", "code", "seed")},
    "signature": {
        "kind": "tensors",
        "inputs": [
            {"name": "features", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "words", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [{"name": "score", "datatype": "FP64", "shape": [-1]}],
        "batch": True,
    },
    "golden": {
        "cases": [
            {
                "inputs": {
                    "features": {"shape": [1, 2], "data": [0.5, "nan"]},
                    "words": {"shape": [1], "data": ["a"]},
                },
                "outputs": {"score": {"shape": [1], "data": ["-inf"]}},
            }
        ]
    },
    "items_sha256": "0" * 64,
}


def test_a_good_manifest_of_tensors_gives_its_values() -> None:
    """Names, types, shapes, whether requests are joined, and the golden cases."""
    manifest = parse_manifest(TENSORS)
    signature = manifest.signature
    assert (signature.kind, signature.batch, manifest.golden_history) == ("tensors", True, [])
    assert [(one.name, one.datatype, one.sizes) for one in (*signature.inputs, *signature.outputs)] == [
        ("features", "FP32", (-1, 2)),
        ("words", "BYTES", (-1,)),
        ("score", "FP64", (-1,)),
    ]
    assert len(manifest.golden) == 1
    assert hash(manifest) == hash(parse_manifest(copy.deepcopy(TENSORS)))


CASE = ("golden", "cases", 0)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("signature", "kind"), "ranker", r"signature\.kind: `ranker` is not allowed; allowed: recommender, tensors"),
        (("signature", "batch"), 1, r"signature\.batch: must be true or false, not `1`"),
        (("signature", "inputs"), [], r"signature\.inputs: has 0 tensors; allowed: 1 to 256"),
        (("signature", "inputs", 0, "datatype"), "float32", r"\[0\]\.datatype: `float32` is not allowed; allowed: B"),
        (
            ("signature", "inputs", 0, "shape"),
            [-1, -2],
            r"shape\[1\]: must be a whole number from -1 to .*, not `-2`",
        ),
        (("signature", "inputs", 0, "name"), "words", r"signature\.inputs: `words` is given twice"),
        (
            ("signature", "inputs", 0, "dtype"),
            "x",
            r"inputs\[0\]\.dtype: is not a known key; did you mean `datatype`\?",
        ),
        (
            (*CASE, "inputs", "features", "shape"),
            [1, 3],
            r"features\.shape: `\[1, 3\]` is not of the signature's",
        ),
        ((*CASE, "inputs", "features", "data"), [], r"features\.data: `\[\]` is not a list of 1 to 2 elements"),
        ((*CASE, "inputs", "features", "data"), [1, "x"], r"features\.data\[1\]: `x` is not an element of FP32"),
        ((*CASE, "inputs", "words", "data"), [1], r"words\.data\[0\]: `1` is not an element of BYTES"),
        ((*CASE, "inputs", "more"), {}, r"inputs\.more: is not a known key; allowed: features, words"),
        ((*CASE, "inputs"), {"words": {"shape": [0], "data": []}}, r"inputs\.features: is missing"),
        (("golden", "cases"), [], r"golden\.cases: has no case"),
        (("items_sha256",), "x", r"items_sha256: `x` must be a sha256"),
    ],
)
def test_each_mistake_of_tensors_names_its_field(path: tuple[Any, ...], value: Any, message: str) -> None:
    """As for a recommender: the key that differs, its value and what is allowed."""
    data = copy.deepcopy(TENSORS)
    put(value, *path)(data)
    with pytest.raises(ManifestError, match=message) as raised:
        parse_manifest(data)
    assert len(raised.value.problems) == 1


def put(value: Any, *keys: Any) -> Callable[[dict[str, Any]], None]:
    """A change that sets a nested key."""

    def change(data: dict[str, Any]) -> None:
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(2, "schema"), "schema: must be 1, not `2`"),
        (put(True, "schema"), "schema: must be 1, not `true`"),
        (put("../v1", "version"), r"version: `\.\./v1` must be a version: 1 to 64 of"),
        (put(7, "version"), "version: `7` is a number, and text is needed"),
        (put("ABC", "sha256"), "sha256: `ABC` must be a sha256 of 64 lower-case hex digits"),
        (put(0, "size_bytes"), r"size_bytes: must be a whole number from 1 to .*, not `0`"),
        (put(1.5, "seed"), r"seed: must be a whole number from 0 to .*, not `1\.5`"),
        (put("", "model", "algorithm"), r"model\.algorithm: `` must be 1 to 64 characters"),
        (put([], "model"), r"model: must be a mapping of keys to values, not a list"),
        (put(1, "model", "colour"), r"model\.colour: is not a known key; allowed: algorithm, description, parameters"),
        (put(101, "signature", "k"), r"signature\.k: must be a whole number from 1 to 100, not `101`"),
        (put(0, "signature", "max_history"), r"signature\.max_history: must be a whole number from 1 to 10,000,"),
        (put("x", "signature", "inputs", 0, "name"), r"signature\.inputs\[0\]\.name: must be `history`, not `x`"),
        (
            put(7, "signature", "outputs", 1, "shape", 1),
            r"signature\.outputs\[1\]\.shape: must be `\['batch', 100\]`, not `\['batch', 7\]`",
        ),
        (put([[1], [1, 2]], "golden", "history"), r"golden\.history\[1\]: has 2 numbers, the first row has 1"),
        (put([[2**63]], "golden", "history"), r"golden\.history\[0\]\[0\]: `9223372036854775808` is not an int64"),
        (put([], "golden", "history"), r"golden\.history: `\[\]` is not"),
        (put([[1] * 100], "golden", "item_ids"), r"golden\.item_ids: has 1 rows, the history has 6"),
        (put([[1.0]] * 6, "golden", "scores"), r"golden\.scores: has rows of 1, signature\.k is 100"),
        (put([[float("nan")] * 100] * 6, "golden", "scores"), r"scores\[0\]\[0\]: `nan` is not a finite number"),
        (put([[10**400] * 100] * 6, "golden", "scores"), r"golden\.scores\[0\]\[0\]: `10+…` is not a finite number"),
        (put(-1, "golden", "tolerance"), r"golden\.tolerance: must be a number from 0 to 0\.1, not `-1`"),
        (put(-3, "training", "counts", "users"), r"counts\.users: must be a whole number from 0 to .*, not `-3`"),
        (put("no", "training", "files", "ratings.csv"), r'training\.files\["ratings\.csv"\]: `no` must be a sha256'),
        (put("0" * 64, "training", "files", "a/b"), r'training\.files\["a/b"\]: `a/b` must be a plain file name'),
        (lambda data: data.pop("code"), "code: is missing: the code that trained it"),
        (lambda data: data["golden"].pop("scores"), r"golden\.scores: is missing"),
        (put("x" * 5_000, "model", "description"), r"model\.description: `x{64}…` must be 0 to 2000 characters"),
    ],
)
def test_each_mistake_names_its_field(change: Callable[[dict[str, Any]], object], message: str) -> None:
    """The message has the key path, the value cut to 64 characters and what is allowed, and is one line."""
    data = copy.deepcopy(GOOD)
    change(data)
    with pytest.raises(ManifestError, match=message) as raised:
        parse_manifest(data)
    assert len(raised.value.problems) == 1
    assert "\n" not in str(raised.value)


def test_all_mistakes_come_at_once() -> None:
    """Three mistakes in three places are three problems of one error."""
    data = copy.deepcopy(GOOD)
    data["sha256"], data["signature"]["k"], data["extra"] = "x", 0, 1
    with pytest.raises(ManifestError) as raised:
        parse_manifest(data, "v1.2.3/metadata.json")
    assert {problem.split(":")[0] for problem in raised.value.problems} == {"signature.k", "sha256", "extra"}
    assert str(raised.value).startswith("v1.2.3/metadata.json: ")


def test_what_is_nested_too_deeply_is_refused() -> None:
    """Also where the JSON itself could be read."""
    data = copy.deepcopy(GOOD)
    inner = data["model"]["parameters"] = {}
    for _ in range(600):
        inner["a"] = inner = {}
    with pytest.raises(ManifestError, match="is nested too deeply"):
        parse_manifest(data)


def test_numbers_of_any_size_are_read() -> None:
    """A metric may be tiny, and JSON may have it as an integer."""
    metrics = parse_metrics({**METRICS, "metrics": {"p": 1.5e-300, "n": 10**17, "half": 0.5}})
    assert dict(metrics.values) == {"p": 1.5e-300, "n": 1e17, "half": 0.5}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def paths(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Key paths of a JSON value, not deeper than five."""
    found = [path] if path else []
    if len(path) < 5:
        items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
        for key, value in list(items)[:20]:
            found += paths(value, (*path, key))
    return found


@pytest.mark.parametrize(
    ("parse", "good"),
    [(parse_manifest, GOOD), (parse_manifest, TENSORS), (parse_metrics, METRICS), (parse_index, INDEX)],
)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_value_anywhere_is_accepted_or_refused(
    parse: Callable[[Any], object], good: Any, data: st.DataObject
) -> None:
    """Whatever stands at whatever key, parsing gives a value or a ManifestError, never another exception."""
    value = copy.deepcopy(good)
    put(data.draw(anything), *data.draw(st.sampled_from(paths(good))))(value)
    with contextlib.suppress(ManifestError):
        parse(value)


def test_metrics_and_index_mistakes() -> None:
    """metrics.json and registry.json are checked like metadata.json."""
    with pytest.raises(ManifestError, match=r'metrics\["recall@10"\]: must be a number from .*, not `high`'):
        parse_metrics({**METRICS, "metrics": {"recall@10": "high"}})
    with pytest.raises(ManifestError, match="notes: is not a known key"):
        parse_metrics({**METRICS, "notes": 1})
    with pytest.raises(ManifestError, match=r"models: `v1\.2\.2` is given twice"):
        parse_index({**INDEX, "models": [INDEX["models"][0]] * 2})
    with pytest.raises(ManifestError, match=r"models\[0\]\.sha256: is missing"):
        parse_index({**INDEX, "models": [{"version": "v1", "algorithm": "x"}]})
    with pytest.raises(ManifestError, match="models: must be a list, not `3`"):
        parse_index({**INDEX, "models": 3})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1]", r"\[1\] is not an object"),
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "is not JSON"),
        (b" " * (MAX_JSON_BYTES + 1), "is larger than"),
    ],
)
def test_files_that_are_no_object(tmp_path: Path, content: bytes, message: str) -> None:
    """A file that is no JSON object, or too large or deep to be one, is refused with the reason."""
    path = tmp_path / "metadata.json"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        read_json(path, "metadata.json")
