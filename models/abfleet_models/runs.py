"""Opens a version in ONNX Runtime to measure its answers and its latency before a release.

ONNX Runtime is imported only when a model is opened, because most of what is done with a registry needs no model.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abfleet_models.errors import IntegrityError, RegistryError
from abfleet_models.registry import ModelVersion

AnswerArrays = tuple[NDArray[np.int64], NDArray[np.float32]]
TIMED_RUNS = 15
"""The cheapest of so many runs counts: a busy machine makes a run slower, and nothing makes it faster."""
TIMED_LENGTH = 20
TIMED_BATCHES = (1, 32)


class OpenedModel:
    """A version with a session of its own, on one thread. Frozen."""

    def __init__(self, version: ModelVersion) -> None:
        """Verifies the file and opens it. Raises IntegrityError, and RegistryError where ONNX Runtime is missing."""
        content = version.read_verified()
        try:
            from abfleet_models.runtime import onnxruntime
        except ImportError as error:
            raise RegistryError("golden answers need onnxruntime; run pip install 'abfleet[worker]'") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        # Opened from the bytes that were checked; ONNX Runtime then searches the folder for external weights.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(version.path))
        self.model_version = version
        self._session: Any = self._or_raise(
            lambda: onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        )

    def answer(self, history: NDArray[np.int64]) -> AnswerArrays:
        """history: int64[batch, length], 0 pads on the left, to item_ids int64[batch, k] and scores float32[batch, k].

        Raises IntegrityError when the model does not run, or gives something else.
        """
        item_ids, scores = self._or_raise(lambda: self._session.run(["item_ids", "scores"], {"history": history}))
        expected = (len(history), self.model_version.manifest.k)
        if item_ids.shape != expected or scores.shape != expected:
            raise IntegrityError(
                f"{self.model_version.version}: {len(history)} histories got item_ids {item_ids.shape} and scores "
                f"{scores.shape}, not {expected}"
            )
        return item_ids, scores

    def _or_raise(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except Exception as error:
            # ONNX Runtime raises its own exceptions, which share no base but Exception.
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise IntegrityError(
                f"{self.model_version.version}: ONNX Runtime cannot run the model: {reason}"
            ) from error


def latency_us(model: OpenedModel, clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """Microseconds a history, by the shape of the run: one history of 20 items, and 32 of them together."""
    known = [item for row in model.model_version.manifest.golden_history for item in row if item > 0] or [1]
    row = np.resize(np.array(known, dtype=np.int64), TIMED_LENGTH)
    times = {}
    for batch in TIMED_BATCHES:
        history = np.tile(row, (batch, 1))
        model.answer(history)  # the first run of a shape allocates
        best = min(_seconds(model, history, clock) for _ in range(TIMED_RUNS))
        times[f"{batch}x{TIMED_LENGTH}"] = round(best * 1e6 / batch, 1)
    return times


def _seconds(model: OpenedModel, history: NDArray[np.int64], clock: Callable[[], float]) -> float:
    begun = clock()
    model.answer(history)
    return clock() - begun
