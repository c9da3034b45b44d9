"""One ONNX model: loaded from the registry, checked, warmed up, asked. Knows ONNX Runtime, nothing of requests."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from abfleet_models import signing
from abfleet_models.golden.answers import cases_of
from abfleet_models.golden.arrays import feeds
from abfleet_models.golden.joining import crowd_difference
from abfleet_models.graph.reading import CATALOGUE, read_int64
from abfleet_models.graph.tensors import TensorSpec
from abfleet_models.registry import ModelVersion, Registry, RegistryError
from abfleet_models.runtime import onnxruntime
from abfleet_models.signature import RECOMMENDER, Signature
from numpy.typing import NDArray

from abfleet_worker.catalogue import Catalogue
from abfleet_worker.errors import ModelAnswerError, ModelLoadError
from abfleet_worker.item_names import ItemNames

INPUT = "history"
ITEM_IDS = "item_ids"
OUTPUTS = (ITEM_IDS, "scores")
RUNTIME_TYPES = {"float32": "float", "float64": "double"}
"""ONNX Runtime's names of element types that differ from numpy's."""
LONE, WIDE, LONG = (1, 1), (32, 1), (32, 33)
"""[batch, length] of the first runs: no caller pays for what they allocate, and their times show what a run costs."""
MEASURED_TIMES = 5
LEAST_RUN_CELLS, MOST_RUN_CELLS = 64.0, 16_384.0
"""Bounds of `run_cells`, because times of a few runs on a busy machine are no more than a hint."""


class OnnxModel:
    """A loaded version, ready to answer. Frozen after `load`; a worker changes models by holding another one."""

    def __init__(
        self,
        registered: ModelVersion,
        session: onnxruntime.InferenceSession,
        catalogue: Catalogue | None,
        load_seconds: float,
        names: ItemNames | None = None,
    ) -> None:
        """`names`: of its items, where they have names: then tensors of items are texts to callers."""
        self.version = registered.version
        self.sha256 = registered.manifest.sha256
        self.signature = registered.manifest.signature if names is None else named(registered.manifest.signature)
        self.max_history = registered.manifest.max_history
        self.k = registered.manifest.k
        self.load_seconds = load_seconds
        self.catalogue = catalogue
        self.names = names
        self.run_cells = LEAST_RUN_CELLS  # changed only by `load`, which measures it
        """What one more run costs, in padded places of a history: see batch.plan_runs."""
        self.joins = self.signature.batch  # changed only by `load`, which tries it
        """Whether requests of tensors may share a run."""
        self.dimensions: Mapping[str, Sequence[int | str | None]] = {
            node.name: node.shape for node in session.get_inputs()
        }
        """Each input's shape as the graph has it, with names of free dimensions."""
        self._session = session

    def run(self, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """These outputs, for all inputs by name. Raises what ONNX Runtime raises."""
        if self.names is not None:
            inputs = {name: self.names.numbers(array) for name, array in inputs.items()}
        found: list[NDArray[Any]] = self._session.run(outputs, inputs)
        if self.names is not None:
            found = [
                self.names.names(array) if name == ITEM_IDS else array
                for name, array in zip(outputs, found, strict=True)
            ]
        return found

    def infer(self, history: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Of a recommender: history int64[batch, length], 0 pads on the left; gives item_ids int64[batch, k], scores
        float32[batch, k].

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
    signing_key: bytes | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> OnnxModel:
    """Resolves a version or alias, verifies the file, opens a session and runs it once. Raises ModelLoadError.

    With `signing_key` a version that was not signed with it is not opened.
    """
    begun = clock()
    try:
        registered = Registry(root).resolve(name)
        if signing_key is not None:
            signing.check(registered, signing_key)
        content = registered.read_verified()
    except RegistryError as error:
        raise ModelLoadError(str(error)) from error
    try:
        session = onnxruntime.InferenceSession(
            content, _options(registered, intra_op_threads, spinning=spinning), providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        # ONNX Runtime raises its own exceptions, which share no base but Exception.
        raise ModelLoadError(
            f"{registered.version}: ONNX Runtime cannot load model.onnx: {_one_line(error)}"
        ) from error
    _check_signature(registered, session)
    is_recommender = registered.manifest.signature.kind == RECOMMENDER
    catalogue = _catalogue(content) if is_recommender else None
    names = _names(registered, catalogue) if is_recommender else None
    model = OnnxModel(registered, session, catalogue, clock() - begun, names)
    if is_recommender:
        _check_golden(model, registered)
        seconds = {shape: _time(model, shape) for shape in (LONE, WIDE, LONG)}
        model.run_cells = run_cells(seconds[LONE], seconds[WIDE], seconds[LONG])
    else:
        _check_cases(model, registered)
    return model


def run_cells(lone_seconds: float, wide_seconds: float, long_seconds: float) -> float:
    """How many padded places cost as much as one more run, from the times of runs of the shapes LONE, WIDE and LONG.

    A scorer that sums short vectors hardly notices padding; one that gathers a row of all items for each place does.
    """
    cells = LONG[0] * (LONG[1] - WIDE[1])
    cell_seconds = max(long_seconds - wide_seconds, 0.0) / cells
    if lone_seconds >= MOST_RUN_CELLS * cell_seconds:
        return MOST_RUN_CELLS
    return max(LEAST_RUN_CELLS, lone_seconds / cell_seconds)


def _options(registered: ModelVersion, intra_op_threads: int, *, spinning: bool) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # fatal: its errors come as exceptions, and the service logs those once
    # Waiting threads that spin take the cores from the neighbours: other workers and the router.
    for pool in ("intra_op", "inter_op"):
        options.add_session_config_entry(f"session.{pool}.allow_spinning", "1" if spinning else "0")
    if registered.manifest.external_data:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(registered.path))
    return options


def _catalogue(content: bytes) -> Catalogue | None:
    """The items that the graph can answer with, which are those that it knows; None where it has no such table."""
    raw = read_int64(content, CATALOGUE)
    return None if raw is None else Catalogue(np.frombuffer(raw, dtype="<i8").astype(np.int64))


def _names(registered: ModelVersion, catalogue: Catalogue | None) -> ItemNames | None:
    try:
        names = registered.item_names()
    except RegistryError as error:
        raise ModelLoadError(str(error)) from error
    return None if names is None else ItemNames(names, catalogue)


def named(signature: Signature) -> Signature:
    """A recommender's signature to callers who give and get names: items are texts."""
    inputs, outputs = (
        tuple(replace(spec, dtype="string") if spec.name in (INPUT, ITEM_IDS) else spec for spec in specs)
        for specs in (signature.inputs, signature.outputs)
    )
    return replace(signature, inputs=inputs, outputs=outputs)


def _check_signature(registered: ModelVersion, session: onnxruntime.InferenceSession) -> None:
    """The graph itself must have what metadata.json promises: names and element types."""
    signature = registered.manifest.signature
    for kind, nodes, wanted in (
        ("inputs", session.get_inputs(), signature.inputs),
        ("outputs", session.get_outputs(), signature.outputs),
    ):
        actual = {node.name: node.type for node in nodes}
        expected = _runtime_types(wanted)
        if actual != expected:
            raise ModelLoadError(
                f"{registered.version}: the graph has {kind} {_shown(actual)}; it must have {_shown(expected)}"
            )


def _runtime_types(specs: Iterable[TensorSpec]) -> dict[str, str]:
    return {spec.name: f"tensor({RUNTIME_TYPES.get(spec.dtype, spec.dtype)})" for spec in specs}


def _check_cases(model: OnnxModel, registered: ModelVersion) -> None:
    """The model must answer its golden cases. Requests are joined only if answers are the same on this machine too."""
    manifest = registered.manifest
    names = [spec.name for spec in manifest.signature.outputs]
    cases = [feeds(case, manifest.signature.inputs) for case in cases_of(manifest.golden)]
    try:
        for case in cases:
            model.run(names, case)
        if model.joins:
            difference = crowd_difference(lambda inputs: model.run(names, inputs), cases)
    except Exception as error:
        raise ModelLoadError(f"{model.version}: the first inference failed: {_one_line(error)}") from error
    if model.joins and difference is not None:
        model.joins = False
        structlog.get_logger("abfleet.worker").warning(
            "requests are not joined", version=model.version, reason=difference
        )


def _check_golden(model: OnnxModel, registered: ModelVersion) -> None:
    """The model must answer, with k numbers for each history of its metadata; what it answers is checked at release."""
    try:
        _, scores = model.infer(np.array(registered.manifest.golden_history, dtype=np.int64))
    except Exception as error:
        raise ModelLoadError(f"{model.version}: the first inference failed: {_one_line(error)}") from error
    if scores.shape[1] != model.k:
        raise ModelLoadError(
            f"{model.version}: the graph answers {scores.shape[1]} items; metadata.json has signature.k {model.k}"
        )
    if np.isnan(scores).any():
        raise ModelLoadError(f"{model.version}: the first inference gave scores that are not numbers")


def _time(model: OnnxModel, shape: tuple[int, int]) -> float:
    """CPU seconds of the cheapest of a few runs on empty histories; elapsed time would measure the neighbours too."""
    history, times = np.zeros(shape, dtype=np.int64), []
    for _ in range(MEASURED_TIMES + 1):  # the first allocates
        begun = time.process_time()
        try:
            model.infer(history)
        except Exception as error:
            raise ModelLoadError(f"{model.version}: the first inference failed: {_one_line(error)}") from error
        times.append(time.process_time() - begun)
    return min(times)


def _shown(names: dict[str, Any]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in sorted(names.items()))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
