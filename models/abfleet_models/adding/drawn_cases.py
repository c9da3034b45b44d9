"""Golden cases for a model of tensors that brings none: drawn so that the model runs, and the same at each time."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from abfleet_models.errors import IntegrityError
from abfleet_models.golden.arrays import KEPT_ELEMENTS, numpy_type
from abfleet_models.golden.joining import Array, Feeds
from abfleet_models.graph.tensors import FREE, TensorSpec
from abfleet_models.runs import OpenedGraph

SEED = 7
SIZES = ((1, 3), (2, 3), (3, 3), (5, 3), (1, 1), (4, 2))
"""Of each case, what free dimensions are: the first one of a tensor, and any other."""
LARGEST_INTEGERS = (9, 1, 0)
"""Tried one after the other, because an integer may be a place in a table of any size."""
TEXTS = ("", "a", "b", "é")


class AnsweredCase(NamedTuple):
    """A request and the model's answer, by the tensors' names."""

    inputs: Feeds
    outputs: dict[str, Array]


def draw_cases(graph: OpenedGraph, inputs: Sequence[TensorSpec], outputs: Sequence[str]) -> list[AnsweredCase]:
    """Cases that the model answers; the same model gets the same ones. Raises IntegrityError where it answers none."""
    best: list[AnsweredCase] = []
    failure: IntegrityError | None = None
    for largest in LARGEST_INTEGERS:
        found = []
        drawn = list(_drawn(inputs, largest))
        for case in drawn:
            try:
                found.append(AnsweredCase(case, dict(zip(outputs, graph.run(case, outputs), strict=True))))
            except IntegrityError as error:
                failure = failure or error
        if len(found) > len(best):
            best = found
        if len(best) == len(drawn):
            break
    if not best:
        raise IntegrityError(
            f"{failure}; it answers none of the golden cases that were drawn for it: give inputs that it takes as "
            "golden.cases of a metadata.json beside it"
        )
    return best


def _drawn(inputs: Sequence[TensorSpec], largest: int) -> Iterator[dict[str, Array]]:
    draw = np.random.default_rng(SEED)
    # Dimensions of one name have one size. One that is the first of any tensor counts rows.
    rows = {spec.shape[0] for spec in inputs if spec.shape}
    seen: set[tuple[tuple[int, ...], ...]] = set()
    for row, other in SIZES:
        shapes = tuple(
            tuple(
                size if size != FREE else row if place == 0 or (name != "?" and name in rows) else other
                for place, (size, name) in enumerate(zip(spec.sizes, spec.shape, strict=True))
            )
            for spec in inputs
        )
        if shapes in seen and len(seen) > 1:
            continue  # where nothing is free, three cases differ in their numbers alone
        seen.add(shapes)
        yield {spec.name: _tensor(draw, spec.dtype, shape, largest) for spec, shape in zip(inputs, shapes, strict=True)}


def _tensor(draw: np.random.Generator, dtype: str, shape: tuple[int, ...], largest: int) -> NDArray[Any]:
    count = min(math.prod(shape), KEPT_ELEMENTS)  # metadata keep no more, and repeat them
    flat = np.empty(count, dtype=numpy_type(dtype))
    if dtype == "string":
        flat[:] = [TEXTS[place] for place in draw.integers(len(TEXTS), size=count)]
    elif dtype.startswith("float"):
        flat[:] = np.round(draw.standard_normal(count), 2)
    else:
        flat[:] = draw.integers(2 if dtype == "bool" else largest + 1, size=count)
    return np.resize(flat, shape) if count else flat.reshape(shape)
