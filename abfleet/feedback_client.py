"""The name that `abfleet_client.AsyncRecommender` had for outcomes alone. Deprecated: it goes with the next version."""

import warnings
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from abfleet_client import (
    AsyncRecommender,
    ClientCredentials,
    Outcome,
    OutcomesLost,
    OutcomeTally,
    SendingPolicy,
)

__all__ = ["ClientCredentials", "FeedbackClient", "Outcome", "OutcomeTally", "OutcomesLost"]
FOR_EVER_SECONDS = 1e9


class FeedbackClient:
    """Outcomes by an AsyncRecommender, under their earlier names."""

    def __init__(
        self,
        address: str,
        *,
        batch: int = 1000,
        linger_seconds: float = 0.2,
        give_up_seconds: float = 60.0,
        timeout_seconds: float = 10.0,
        capacity: int = 100_000,
        synthetic: bool = False,
        access: ClientCredentials | None = None,
        on_rejected: Callable[[Outcome, str], None] | None = None,
        on_lost: Callable[[Sequence[Outcome], str], None] | None = None,
    ) -> None:
        warnings.warn(
            "abfleet.feedback_client.FeedbackClient goes with the next version: "
            "use abfleet_client.AsyncRecommender, and its `record`",
            DeprecationWarning,
            stacklevel=2,
        )
        self._recommender = AsyncRecommender(
            address,
            timeout=FOR_EVER_SECONDS,  # of `record`, which used to wait
            credentials=access or ClientCredentials(),
            synthetic=synthetic,
            sending=SendingPolicy(
                batch=batch,
                linger_seconds=linger_seconds,
                capacity=capacity,
                give_up_seconds=give_up_seconds,
                timeout_seconds=timeout_seconds,
            ),
            on_rejected=on_rejected,
            on_lost=on_lost,
        )

    @property
    def tally(self) -> OutcomeTally:
        """What has become of the outcomes so far."""
        return self._recommender.outcomes

    async def __aenter__(self) -> Self:
        await self._recommender.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._recommender.__aexit__(kind, error, trace)

    async def record(self, outcome: Outcome) -> None:
        """Takes an outcome to send; waits while there is no room for it."""
        await self._recommender.record_outcome(outcome)

    async def close(self) -> None:
        """Sends what waits, with its retries. Raises OutcomesLost."""
        await self._recommender.close()
