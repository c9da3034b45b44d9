"""Runs a version's golden histories and compares the answers. Opens ONNX Runtime, and only when called."""

import numpy as np
from numpy.typing import NDArray

from abfleet_models.errors import IntegrityError
from abfleet_models.registry import ModelVersion
from abfleet_models.runs import OpenedModel


def verify_golden(version: ModelVersion) -> None:
    """Checks that the model still answers its golden histories as it did when it was exported: the same items, scores
    within the manifest's tolerance.

    Raises IntegrityError for another answer, RegistryError when the model does not load or ONNX Runtime is missing.
    """
    model = OpenedModel(version)
    compare_golden(version, *model.answer(np.array(version.manifest.golden.history, dtype=np.int64)))


def compare_golden(version: ModelVersion, item_ids: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
    """Compares an answer to the golden histories, int64 and float32[batch, k]; raises IntegrityError."""
    golden = version.manifest.golden
    expected_ids = np.array(golden.item_ids, dtype=np.int64)
    expected = np.array(golden.scores, dtype=np.float64)
    if item_ids.shape != expected_ids.shape or scores.shape != expected.shape:
        raise IntegrityError(f"{version.version}: the golden answer has shape {item_ids.shape}, not {expected.shape}")
    for row, (found, wanted) in enumerate(zip(item_ids, expected_ids, strict=True)):
        if not np.array_equal(found, wanted):
            place = int(np.argmax(found != wanted))
            raise IntegrityError(
                f"{version.version}: golden history {row}: item {place + 1} is {found[place]}, not {wanted[place]}"
            )
    allowed = golden.tolerance * np.maximum(np.abs(expected).max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    wrong = ~(np.abs(scores - expected) <= allowed)  # written so that NaN is wrong
    if wrong.any():
        row, place = (int(at) for at in np.argwhere(wrong)[0])
        raise IntegrityError(
            f"{version.version}: golden history {row}: score {place + 1} is {scores[row, place]:g}, "
            f"not {expected[row, place]:g}"
        )
