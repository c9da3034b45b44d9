"""Items by their names: to the numbers that a model knows them by, and back. Pure."""

from collections.abc import Iterable, Sequence

import numpy as np
from abfleet_process.base128 import varint
from numpy.typing import NDArray

from abfleet_worker.batch import BAD_ANSWER, sendable, text_field
from abfleet_worker.catalogue import Catalogue
from abfleet_worker.request import Refusal

NAME_FIELD, SCORES_TAG = 7, b"\x32"
"""Of RecommendResponse: the number of `items`, and the tag of `scores`."""
UNKNOWN = -1
"""A number that no item has, which every model ignores."""


class ItemNames:
    """The names of a version's items. Frozen."""

    __slots__ = ("_fields", "_names", "_numbers")

    def __init__(self, names: Sequence[str], catalogue: Catalogue | None) -> None:
        """`names`: of items 1, 2, 3 and so on; `catalogue`: what the model knows, None where it does not say. A name of
        an item that it does not know is as unknown as any other."""
        numbers = range(1, len(names) + 1)
        known = numbers if catalogue is None else filter(catalogue.__contains__, numbers)
        self._names = np.array(["", *names], dtype=object)
        self._numbers = {names[number - 1]: number for number in known}
        self._fields = [b"", *(text_field(NAME_FIELD, name) for name in names)]

    def known(self, names: Iterable[str]) -> list[int]:
        """Numbers of those that the model knows, in their order."""
        numbers = self._numbers
        return [numbers[name] for name in names if name in numbers]

    def numbers(self, names: NDArray[np.object_]) -> NDArray[np.int64]:
        """Of texts of any shape; an empty one is padding, 0."""
        found = self._numbers
        flat = [found.get(name, UNKNOWN) if name else 0 for name in names.ravel().tolist()]
        return np.array(flat, dtype=np.int64).reshape(names.shape)

    def names(self, numbers: NDArray[np.int64]) -> NDArray[np.object_]:
        """Of numbers of any shape, "" for 0. Raises IndexError for one that has no name."""
        if numbers.size and int(numbers.min()) < 0:
            raise IndexError("an item number below 0")
        names: NDArray[np.object_] = self._names[numbers]
        return names

    def encode(
        self, item_ids: NDArray[np.int64], scores: NDArray[np.float32], limits: Sequence[int]
    ) -> list[bytes | Refusal]:
        """Serialised RecommendResponse messages with `items` and `scores` alone, one for each row, as `batch.encode`
        makes those with `item_ids`. A row with a number that has no name is refused."""
        item_ids, scores, counts = sendable(item_ids, scores, limits)
        field_of = self._fields.__getitem__
        answers: list[bytes | Refusal] = []
        for row, values, count in zip(item_ids.tolist(), scores.astype("<f4", copy=False), counts, strict=True):
            try:
                fields = b"".join(map(field_of, row[: max(count, 0)]))
            except IndexError:
                count = -1
            if count <= 0:
                answers.append(b"" if count == 0 else BAD_ANSWER)
                continue
            packed = values[:count].tobytes()
            answers.append(b"".join((SCORES_TAG, varint(len(packed)), packed, fields)))
        return answers
