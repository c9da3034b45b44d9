"""Asks a version its golden questions and compares the answers. Opens ONNX Runtime, and only when called."""

import numpy as np
from numpy.typing import NDArray

from abfleet_models.errors import IntegrityError
from abfleet_models.golden.answers import Golden, GoldenCases
from abfleet_models.golden.arrays import feeds, first_difference
from abfleet_models.registry import ModelVersion
from abfleet_models.runs import OpenedModel


def verify_golden(version: ModelVersion) -> None:
    """Checks that the model still answers its golden questions as it did when it was exported: the same items, numbers
    within the manifest's tolerance.

    Raises IntegrityError for another answer, RegistryError when the model does not load or ONNX Runtime is missing.
    """
    compare_golden(OpenedModel(version))


def compare_golden(model: OpenedModel) -> None:
    """Compares a model's answers to the golden ones; raises IntegrityError."""
    version = model.model_version
    golden = version.manifest.golden
    if isinstance(golden, GoldenCases):
        _compare_cases(model, golden)
    else:
        _compare_rankings(version.version, golden, *model.answer(np.array(golden.history, dtype=np.int64)))


def _compare_cases(model: OpenedModel, golden: GoldenCases) -> None:
    signature = model.model_version.manifest.signature
    types = {spec.name: spec.dtype for spec in signature.outputs}
    for number, case in enumerate(golden.cases):
        found = model.run(feeds(dict(case.inputs), signature.inputs))
        for name, wanted in case.outputs:
            difference = first_difference(found[name], wanted, types[name], golden.tolerance)
            if difference is not None:
                raise IntegrityError(
                    f"{model.model_version.version}: golden case {number}: output {name}: {difference}"
                )


def _compare_rankings(version: str, golden: Golden, item_ids: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
    """`item_ids`, `scores`: int64 and float32[batch, k]."""
    expected_ids = np.array(golden.item_ids, dtype=np.int64)
    expected = np.array(golden.scores, dtype=np.float64)
    if item_ids.shape != expected_ids.shape or scores.shape != expected.shape:
        raise IntegrityError(f"{version}: the golden answer has shape {item_ids.shape}, not {expected.shape}")
    for row, (found, wanted) in enumerate(zip(item_ids, expected_ids, strict=True)):
        if not np.array_equal(found, wanted):
            place = int(np.argmax(found != wanted))
            raise IntegrityError(
                f"{version}: golden history {row}: item {place + 1} is {found[place]}, not {wanted[place]}"
            )
    allowed = golden.tolerance * np.maximum(np.abs(expected).max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    wrong = ~(np.abs(scores - expected) <= allowed)  # written so that NaN is wrong
    if wrong.any():
        row, place = (int(at) for at in np.argwhere(wrong)[0])
        raise IntegrityError(
            f"{version}: golden history {row}: score {place + 1} is {scores[row, place]:g}, "
            f"not {expected[row, place]:g}"
        )
