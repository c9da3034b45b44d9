"""Windows of time that count for nothing, and what is left of a span of time without them. Knows no log."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

import numpy as np
from abfleet_experiments.config import ExcludedWindow
from abfleet_statistics.outages import Times
from numpy.typing import NDArray

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ExcludedTime:
    """Windows that do not overlap, ascending: int64[windows] microseconds since 1970 each, [begin, end)."""

    begin: Times
    end: Times

    @classmethod
    def of(cls, windows: Iterable[ExcludedWindow]) -> Self:
        """These windows, in any order; what overlaps is one."""
        spans: list[tuple[int, int]] = []
        for begin, end in sorted((_microseconds(one.begin), _microseconds(one.end)) for one in windows):
            if spans and begin < spans[-1][1]:
                begin, end = spans[-1][0], max(end, spans.pop()[1])
            spans.append((begin, end))
        both = np.array(spans, dtype=np.int64).reshape(-1, 2)
        return cls(both[:, 0], both[:, 1])

    def __bool__(self) -> bool:
        return bool(len(self.begin))

    def inside(self, at: Times) -> NDArray[np.bool_]:
        """Of each moment whether it is in a window: bool[moments]."""
        return np.searchsorted(self.begin, at, side="right") > np.searchsorted(self.end, at, side="right")

    def before(self, at: Times) -> Times:
        """How much excluded time there is before each moment, in microseconds: int64[moments]."""
        at = np.asarray(at, dtype=np.int64)[..., None]
        return np.asarray(np.clip(at - self.begin, 0, self.end - self.begin).sum(axis=-1))

    def between(self, begin: int, at: Times) -> Times:
        """The time from a moment to each of others that is not excluded; 0 for what is earlier: int64[moments]."""
        return np.maximum(at - begin - (self.before(at) - self.before(np.array(begin))), 0)

    def back(self, at: int, length: int) -> int:
        """The latest moment from which on to `at` so much time has passed that is not excluded."""
        for begin, end in zip(self.begin[::-1].tolist(), self.end[::-1].tolist(), strict=True):
            if begin >= at:
                continue
            after = max(at - end, 0)
            if after >= length:
                break
            at, length = begin, length - after
        return at - length


NOTHING_EXCLUDED = ExcludedTime.of(())


def _microseconds(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)
