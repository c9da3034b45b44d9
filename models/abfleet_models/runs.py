"""Opens a version in ONNX Runtime to measure its answers and its latency before a release.

ONNX Runtime is imported only when a model is opened, because most of what is done with a registry needs no model.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abfleet_models.errors import IntegrityError, RegistryError
from abfleet_models.golden.answers import cases_of
from abfleet_models.golden.arrays import feeds
from abfleet_models.golden.joining import join, rows_of
from abfleet_models.graph.tensors import FREE
from abfleet_models.registry import ModelVersion
from abfleet_models.signature import TENSORS

AnswerArrays = tuple[NDArray[np.int64], NDArray[np.float32]]
TIMED_RUNS = 15
"""The cheapest of so many runs counts: a busy machine makes a run slower, and nothing makes it faster."""
TIMED_LENGTH = 20
TIMED_BATCHES = (1, 32)


class OpenedGraph:
    """A graph in ONNX Runtime, on one thread. Frozen."""

    def __init__(self, version: str, content: bytes, folder: Path) -> None:
        """`folder` has the weights that are not in the file. Raises IntegrityError where the graph cannot be opened,
        and RegistryError where ONNX Runtime is missing."""
        try:
            from abfleet_models.runtime import onnxruntime
        except ImportError as error:
            raise RegistryError("golden answers need onnxruntime; run pip install 'abfleet[worker]'") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        # Opened from the bytes that were checked; ONNX Runtime then searches the folder for external weights.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        self._version = version
        self._session: Any = self._or_raise(
            lambda: onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        )

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """The outputs in this order, for all inputs by name. Raises IntegrityError."""
        found: list[NDArray[Any]] = self._or_raise(lambda: self._session.run(list(outputs), dict(inputs)))
        return found

    def _or_raise(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except Exception as error:
            # ONNX Runtime raises its own exceptions, which share no base but Exception.
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise IntegrityError(f"{self._version}: ONNX Runtime cannot run the model: {reason}") from error


class OpenedModel:
    """A version with a session of its own, on one thread. Frozen."""

    def __init__(self, version: ModelVersion) -> None:
        """Verifies the file and opens it. Raises IntegrityError, and RegistryError where ONNX Runtime is missing."""
        content = version.read_verified()
        self.model_version = version
        self._session = OpenedGraph(version.version, content, version.path)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """All outputs by name, for all inputs by name. Raises IntegrityError when the model does not run, or when an
        output is not what the signature says."""
        outputs = self.model_version.manifest.signature.outputs
        names = [spec.name for spec in outputs]
        found = dict(zip(names, self._session.run(inputs, names), strict=True))
        for spec in outputs:
            shape = found[spec.name].shape
            if len(shape) != len(spec.sizes) or any(
                wanted not in (FREE, size) for size, wanted in zip(shape, spec.sizes, strict=True)
            ):
                raise IntegrityError(
                    f"{self.model_version.version}: output {spec.name} has shape {list(shape)}, not {list(spec.sizes)}"
                )
        return found

    def answer(self, history: NDArray[np.int64]) -> AnswerArrays:
        """history: int64[batch, length], 0 pads on the left, to item_ids int64[batch, k] and scores float32[batch, k].

        Raises IntegrityError when the model does not run, or gives something else.
        """
        found = self.run({"history": history})
        item_ids, scores = found["item_ids"], found["scores"]
        if len(item_ids) != len(history) or len(scores) != len(history):
            raise IntegrityError(
                f"{self.model_version.version}: {len(history)} histories got {len(item_ids)} rows of item_ids and "
                f"{len(scores)} of scores"
            )
        return item_ids, scores


def latency_us(model: OpenedModel, clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """Microseconds a request, by the shape of the run.

    Of a recommender: one history of 20 items, and 32 of them together. Of a model of tensors: its first golden case
    alone, and 32 of it together where requests are joined.
    """
    manifest = model.model_version.manifest
    if manifest.signature.kind == TENSORS:
        asked = feeds(next(cases_of(manifest.golden)), manifest.signature.inputs)
        times = {"alone": _best(lambda: model.run(asked), clock)}
        if manifest.signature.batch and rows_of(list(asked.values())):
            together = join([asked] * max(TIMED_BATCHES))
            times[f"{max(TIMED_BATCHES)} together"] = _best(lambda: model.run(together), clock) / max(TIMED_BATCHES)
        return {shape: round(seconds * 1e6, 1) for shape, seconds in times.items()}
    known = [item for row in manifest.golden_history for item in row if item > 0] or [1]
    row = np.resize(np.array(known, dtype=np.int64), TIMED_LENGTH)
    times = {}
    for batch in TIMED_BATCHES:
        history = np.tile(row, (batch, 1))
        times[f"{batch}x{TIMED_LENGTH}"] = round(_best(partial(model.answer, history), clock) * 1e6 / batch, 1)
    return times


def _best(run: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds of the cheapest of a few runs."""
    run()  # the first run of a shape allocates
    best = float("inf")
    for _ in range(TIMED_RUNS):
        begun = clock()
        run()
        best = min(best, clock() - begun)
    return best
