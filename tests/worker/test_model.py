"""Models: loaded only when the files are what the registry says, and believed only in the right shape."""

import json
from pathlib import Path

import numpy as np
import pytest
from abfleet_models.runtime import onnxruntime
from abfleet_worker.errors import ModelAnswerError, ModelLoadError
from abfleet_worker.model import LEAST_RUN_CELLS, MOST_RUN_CELLS, load, run_cells
from onnx import TensorProto

from tests.support.tiny_model import add_version, expected, model_bytes, tiny_registry


def test_a_version_and_its_alias_are_the_same_model(tmp_path: Path) -> None:
    """`production` loads the version it leads to, and says which."""
    root = tiny_registry(tmp_path)
    model = load(root, "production")
    assert model.version == "v1.2.3"
    assert model.sha256 == load(root, "v1.2.3").sha256
    item_ids, scores = model.infer(np.array([[0, 1, 2], [7, 8, 9]], np.int64))
    assert item_ids[:, :10].tolist() == [expected([1, 2], 10)[0], expected([7, 8, 9], 10)[0]]
    assert scores[0, :10].tolist() == expected([1, 2], 10)[1]


def test_the_session_has_one_thread_that_does_not_spin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults and settings of threads and spinning reach ONNX Runtime."""
    seen: list[onnxruntime.SessionOptions] = []
    real = onnxruntime.InferenceSession

    def session(content: bytes, options: onnxruntime.SessionOptions, **more: object) -> object:
        seen.append(options)
        return real(content, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    root = tiny_registry(tmp_path)
    load(root, "v1.2.3")
    load(root, "v1.2.3", intra_op_threads=2, spinning=True)
    assert [options.intra_op_num_threads for options in seen] == [1, 2]
    for pool in ("intra_op", "inter_op"):
        key = f"session.{pool}.allow_spinning"
        assert [options.get_session_config_entry(key) for options in seen] == ["0", "1"]


def test_an_unknown_version_is_named(tmp_path: Path) -> None:
    """The message has the name that was asked for and what there is."""
    with pytest.raises(ModelLoadError, match=r"v7.*v1\.2\.3"):
        load(tiny_registry(tmp_path), "v7")


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    """One flipped byte and nothing is loaded."""
    path = tiny_registry(tmp_path) / "v1.2.3" / "model.onnx"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelLoadError, match="sha256"):
        load(tmp_path, "v1.2.3")


def test_bytes_that_are_no_model_are_refused_in_one_line(tmp_path: Path) -> None:
    """A file with the right sha256 that is no ONNX graph is a load error of one line."""
    add_version(tmp_path, "v1", b"this is no model")
    with pytest.raises(ModelLoadError) as raised:
        load(tmp_path, "v1")
    assert "v1" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_graph_of_other_types_is_refused(tmp_path: Path) -> None:
    """A history of int32 is not the contract."""
    add_version(tmp_path, "v1", model_bytes(input_type=TensorProto.INT32))
    with pytest.raises(ModelLoadError, match="history"):
        load(tmp_path, "v1")


def test_a_graph_that_answers_another_number_of_items_is_refused(tmp_path: Path) -> None:
    """What the graph declares is not believed: the first inference must have k columns."""
    add_version(tmp_path, "v1", model_bytes(100, broken_k=40))
    with pytest.raises(ModelLoadError, match=r"v1"):
        load(tmp_path, "v1")


def test_a_model_that_does_not_answer_its_golden_history_is_refused(tmp_path: Path) -> None:
    """The golden history is part of the warm-up: an error or nan there means the model does not serve."""
    folder = add_version(tmp_path, "v1")
    metadata = json.loads((folder / "metadata.json").read_text())
    for total in (777, 666):
        metadata["golden"]["history"] = [[0, 0, total], [1, 2, 3]]
        (folder / "metadata.json").write_text(json.dumps(metadata))
        with pytest.raises(ModelLoadError, match="first inference"):
            load(tmp_path, "v1")


def test_an_answer_of_the_wrong_shape_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows or columns that do not fit the batch are an error, not an answer."""
    model = load(tiny_registry(tmp_path), "v1.2.3")

    class Wrong:
        def run(self, names: object, feed: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
            rows = len(feed["history"])
            return np.ones((rows, 3), np.int64), np.ones((rows, 2), np.float32)

    monkeypatch.setattr(model, "_session", Wrong())
    with pytest.raises(ModelAnswerError, match=r"\(2, 3\).*\(2, 2\)"):
        model.infer(np.ones((2, 5), np.int64))


def test_the_cost_of_a_run_is_told_in_padded_places() -> None:
    """Times of the three first shapes give the places of padding that cost as much as a run, within bounds."""
    cells = 32 * 32
    assert run_cells(0.5, 2.0, 2.0 + cells * 0.005) == pytest.approx(100)
    assert run_cells(0.001, 2.0, 2.0 + cells * 0.005) == LEAST_RUN_CELLS
    assert run_cells(0.5, 2.0, 2.0) == MOST_RUN_CELLS
    assert run_cells(0.5, 2.0, 1.9) == MOST_RUN_CELLS
    assert run_cells(0.0, 2.0, 2.0) == MOST_RUN_CELLS
