"""Golden questions for a model that brings none, with its answers; and answers for questions that it brings without."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from abfleet_models.adding.drafting import settled
from abfleet_models.adding.drawn_cases import draw_cases
from abfleet_models.adding.recommender_checks import refuse_no_ranking
from abfleet_models.errors import IntegrityError
from abfleet_models.golden.answers import cases_of
from abfleet_models.golden.arrays import Array, feeds, to_json
from abfleet_models.manifest import parse_golden
from abfleet_models.runs import OpenedGraph
from abfleet_models.signature import Signature

HISTORY_LENGTH = 5
"""Of golden histories that are made up."""


def lacks_answers(golden: object) -> bool:
    """Whether golden questions are there and some have no answers yet."""
    cases = golden.get("cases") if isinstance(golden, dict) else None
    return isinstance(cases, list) and any(isinstance(case, dict) and "outputs" not in case for case in cases)


def golden_cases(
    given: Mapping[str, Any] | None, signature: Signature, opened: OpenedGraph
) -> tuple[dict[str, Any], Signature]:
    """`golden` of a model of tensors: with the cases that are given, or drawn ones; and the signature, in which outputs
    without a shape now have the number of dimensions that the answers show."""
    names = [spec.name for spec in signature.outputs]
    asked: list[Mapping[str, Array]]
    if given is None:
        drawn = draw_cases(opened, signature.inputs, names)
        asked, answers = [case.inputs for case in drawn], [case.outputs for case in drawn]
    else:
        golden = parse_golden(_without_answers(given), signature)
        asked = [feeds(case, signature.inputs) for case in cases_of(golden)]
        answers = [dict(zip(names, opened.run(case, names), strict=True)) for case in asked]
    cases = [
        {
            "inputs": {name: to_json(array) for name, array in inputs.items()},
            "outputs": {name: to_json(array) for name, array in outputs.items()},
        }
        for inputs, outputs in zip(asked, answers, strict=True)
    ]
    return {**(given or {}), "cases": cases}, settled(signature, answers[0])


def _without_answers(golden: Mapping[str, Any]) -> dict[str, Any]:
    """The same, so that the questions are checked before the model is asked."""
    cases = golden.get("cases")
    if not isinstance(cases, list):
        return dict(golden)
    return {**golden, "cases": [{**case, "outputs": {}} if isinstance(case, dict) else case for case in cases]}


def histories_of_named(names: int) -> list[list[int]]:
    """Golden histories for a recommender whose items are numbers 1 to `names`: int64[batch, length]."""
    length = min(HISTORY_LENGTH, names // 2)  # what is left can be recommended
    rows = [[], [1][:length], [*range(1, length + 1)], [*range(names - length + 1, names + 1)]]
    longest = max(1, *map(len, rows))
    return [[0] * (longest - len(row)) + row for row in rows]


def golden_rankings(
    version: str, histories: Sequence[Sequence[int]], signature: Signature, opened: OpenedGraph
) -> dict[str, Any]:
    """`golden` of a recommender: its answers to these histories, int64[batch, length]."""
    history = np.array([list(row) for row in histories], dtype=np.int64)
    item_ids, scores = opened.run({"history": history}, ["item_ids", "scores"])
    expected = (len(history), signature.k)
    if item_ids.shape != expected or scores.shape != expected:
        raise IntegrityError(
            f"{version}: {len(history)} histories got item_ids {list(item_ids.shape)} and scores {list(scores.shape)}, "
            f"not {list(expected)} of each"
        )
    refuse_no_ranking(version, item_ids, scores)
    return {
        "history": history.tolist(),
        "item_ids": item_ids.tolist(),
        # Nine digits are enough to give every float32 back.
        "scores": [[float(f"{score:.9g}") for score in row] for row in scores],
    }
