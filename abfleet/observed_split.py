"""The split that many users get from a router, one call for each. Prints nothing."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from abfleet_client import AsyncRecommender, CallFailed

CONCURRENT_CALLS = 64


@dataclass(slots=True)
class ObservedSplit:
    """The groups that many users were assigned to, and the failures; changed only by `observe_split`."""

    answered: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """(experiment, group, version that served): calls."""
    failed: Counter[str] = field(default_factory=Counter)
    """Name of the status: calls."""
    first_failure: CallFailed | None = None
    latencies_ms: list[float] = field(default_factory=list)

    @property
    def calls(self) -> int:
        """Calls that were made, answered or failed."""
        return sum(self.answered.values()) + sum(self.failed.values())


async def observe_split(
    recommender: AsyncRecommender,
    user_ids: Iterable[str],
    question: Mapping[str, Any],
    *,
    on_answer: Callable[[], None] = lambda: None,
    concurrent: int = CONCURRENT_CALLS,
) -> ObservedSplit:
    """One call for each user, at most `concurrent` at a time. `question`: what else is asked; `on_answer` is called
    after each call."""
    split = ObservedSplit()
    waiting = iter(user_ids)

    async def work() -> None:
        for user_id in waiting:  # shared by all workers: each user is taken once
            begun = time.perf_counter()
            try:
                answer = await recommender.recommend(user_id=user_id, **question)
            except CallFailed as error:
                split.failed[error.status] += 1
                split.first_failure = split.first_failure or error
            else:
                split.answered[answer.experiment, answer.group, answer.model_version] += 1
                split.latencies_ms.append((time.perf_counter() - begun) * 1000)
            on_answer()

    await asyncio.gather(*(work() for _ in range(concurrent)))
    return split


def quantile(values: Sequence[float], part: float) -> float | None:
    """The smallest value that at least `part` of the values do not exceed; None without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-part * len(ordered) // 1) - 1))] if ordered else None
