"""One ONNX model: loaded from the registry, checked, warmed up, asked. Knows ONNX Runtime, nothing of requests."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from abfleet_models.registry import ModelVersion, Registry, RegistryError
from numpy.typing import NDArray

from abfleet_worker.errors import ModelAnswerError, ModelLoadError
from abfleet_worker.runtime import onnxruntime

INPUT = "history"
OUTPUTS = ("item_ids", "scores")
TYPES = {INPUT: "tensor(int64)", "item_ids": "tensor(int64)", "scores": "tensor(float)"}
WARM_UP_SHAPES = ((1, 1), (1, 20), (32, 20))
"""[batch, length] of the first runs, so that no caller pays for the first allocations."""


class OnnxModel:
    """A loaded version, ready to answer. Frozen after `load`; a worker changes models by holding another one."""

    def __init__(self, found: ModelVersion, session: onnxruntime.InferenceSession, load_seconds: float) -> None:
        self.version = found.version
        self.sha256 = found.manifest.sha256
        self.max_history = found.manifest.max_history
        self.k = found.manifest.k
        self.load_seconds = load_seconds
        self._session = session

    def infer(self, history: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """history: int64[batch, length], 0 pads on the left; gives item_ids int64[batch, k], scores float32[batch, k].

        Raises ModelAnswerError when the shapes or types are not those, and what ONNX Runtime raises.
        """
        item_ids, scores = self._session.run(OUTPUTS, {INPUT: history})
        batch = len(history)
        if item_ids.ndim != 2 or item_ids.shape != scores.shape or len(item_ids) != batch or item_ids.shape[1] == 0:
            raise ModelAnswerError(
                f"model {self.version}: a batch of {batch} got item_ids {item_ids.shape} and scores {scores.shape}"
            )
        return item_ids, scores


def load(
    root: Path,
    name: str,
    *,
    intra_op_threads: int = 1,
    spinning: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> OnnxModel:
    """Resolves a version or alias, verifies the file, opens a session and runs it once. Raises ModelLoadError."""
    begun = clock()
    try:
        found = Registry(root).resolve(name)
        content = found.read_verified()
    except RegistryError as error:
        raise ModelLoadError(str(error)) from error
    try:
        session = onnxruntime.InferenceSession(
            content, _options(found, intra_op_threads, spinning=spinning), providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        # ONNX Runtime raises its own exceptions, which share no base but Exception.
        raise ModelLoadError(f"{found.version}: ONNX Runtime does not load model.onnx: {_one_line(error)}") from error
    _check_signature(found.version, session)
    model = OnnxModel(found, session, load_seconds=clock() - begun)
    _warm_up(model, found)
    return model


def _options(found: ModelVersion, intra_op_threads: int, *, spinning: bool) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # fatal: its errors come as exceptions, and the service logs those once
    # Waiting threads that spin take the cores from the neighbours: other workers and the router.
    for pool in ("intra_op", "inter_op"):
        options.add_session_config_entry(f"session.{pool}.allow_spinning", "1" if spinning else "0")
    if found.manifest.external_data:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(found.path))
    return options


def _check_signature(version: str, session: onnxruntime.InferenceSession) -> None:
    """The graph itself must have what metadata.json promises: names and element types."""
    for kind, nodes, wanted in (
        ("inputs", session.get_inputs(), (INPUT,)),
        ("outputs", session.get_outputs(), OUTPUTS),
    ):
        found = {node.name: node.type for node in nodes}
        expected = {name: TYPES[name] for name in wanted}
        if found != expected:
            raise ModelLoadError(f"{version}: the graph has {kind} {_shown(found)}; it must have {_shown(expected)}")


def _warm_up(model: OnnxModel, found: ModelVersion) -> None:
    golden = np.array(found.manifest.golden_history, dtype=np.int64)
    histories = [np.zeros(shape, dtype=np.int64) for shape in WARM_UP_SHAPES]
    if golden.ndim == 2 and golden.size:
        histories.append(golden)
    for history in histories:
        try:
            _, scores = model.infer(history)
        except Exception as error:
            raise ModelLoadError(f"{model.version}: the first inference failed: {_one_line(error)}") from error
        if scores.shape[1] != model.k:
            raise ModelLoadError(
                f"{model.version}: the graph answers {scores.shape[1]} items; metadata.json has signature.k {model.k}"
            )
        if np.isnan(scores).any():
            raise ModelLoadError(f"{model.version}: the first inference gave scores that are not numbers")


def _shown(names: dict[str, Any]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in sorted(names.items()))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
