"""Several requests as one run of a model: put together by their first dimension, and taken apart again.

Whether that changes an answer is asked of the model itself: kernels of ONNX Runtime may add in another order where
there are more rows, and a model may look across rows. Then requests are not joined.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from abfleet_models.graph.tensors import FREE, TensorSpec

Array = NDArray[Any]
Feeds = Mapping[str, Array]
"""The inputs of one request by name."""
Run = Callable[[Feeds], Sequence[Array]]
"""Gives the outputs in the order of the signature."""
CROWDS = (2, 3, 5, 8, 17, 32, 64, 128)
"""Requests in one run. Kernels take rows in blocks of 2 to 16, so that each of these ends in another way."""


def rows_of(arrays: Sequence[Array]) -> int:
    """The first dimension that all of these have in common; 0 where they have none, or no rows."""
    first = {array.shape[0] if array.ndim else 0 for array in arrays}
    return first.pop() if len(first) == 1 else 0


def join(requests: Sequence[Feeds]) -> dict[str, Array]:
    """All rows of requests that agree in every other dimension."""
    return {name: np.concatenate([one[name] for one in requests]) for name in requests[0]}


def split(outputs: Sequence[Array], rows: Sequence[int]) -> list[list[Array]] | None:
    """Each request's share of the outputs, as views; None where an output has not a row for each row that went in."""
    total = sum(rows)
    if any(output.ndim == 0 or output.shape[0] != total for output in outputs):
        return None
    ends = np.cumsum(rows).tolist()
    return [[output[end - count : end] for output in outputs] for end, count in zip(ends, rows, strict=True)]


def unjoinable(specs: Sequence[TensorSpec]) -> str | None:
    """Why requests cannot be put together whatever they are; None where they can."""
    for spec in specs:
        if not spec.sizes or spec.sizes[0] != FREE:
            return f"the first dimension of {spec.name} is not free"
    return None


def crowd_difference(run: Run, cases: Sequence[Feeds]) -> str | None:
    """Asks the model in batches of many sizes; why its answers are not, bit for bit, those alone. None where they are.

    Raises what `run` raises.
    """
    groups: dict[object, list[tuple[Feeds, int, Sequence[Array]]]] = {}
    for case in cases:
        rows = rows_of(list(case.values()))
        if rows:
            key = tuple(array.shape[1:] for array in case.values())
            groups.setdefault(key, []).append((case, rows, run(case)))
    if not groups:
        return "no golden case has inputs with equal numbers of rows"
    for group in groups.values():
        for crowd in _crowds(len(group)):
            members = [group[place] for place in crowd]
            parts = split(run(join([case for case, _, _ in members])), [rows for _, rows, _ in members])
            if parts is None:
                return "an output does not have one row for each row of the inputs"
            for (_, _, alone), part in zip(members, parts, strict=True):
                if not all(map(_same, alone, part)):
                    return f"an answer in a batch of {len(crowd)} differs from the single answer"
    return None


def _crowds(cases: int) -> Iterator[list[int]]:
    """Every pair in both orders, and crowds of each size that begin anywhere."""
    yield from ([a, b] for a in range(cases) for b in range(cases))
    for place, size in enumerate(CROWDS):
        yield [(place + step) % cases for step in range(size)]


def _same(a: Array, b: Array) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool((a == b).all()) if a.dtype == object else a.tobytes() == b.tobytes()
