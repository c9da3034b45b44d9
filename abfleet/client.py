"""Calls a router as any client would: one call, or one for each of many users. Knows the contract, prints nothing.

SERVICE_CONFIG is the retry policy that every client of a router should have: a server that is being replaced may close
a connection under a call, and a call that is sent again under its own `request_id` counts once.
"""

import asyncio
import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import grpc
from abfleet_protos import recommender_pb2, recommender_pb2_grpc
from abfleet_transport.client.channel import PLAIN, ClientCredentials
from abfleet_transport.client.channel import open_channel as access_channel

SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": "Recommender"}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)
"""gRPC service config (https://grpc.io/docs/guides/service-config/): UNAVAILABLE alone is sent again."""
CHANNEL_OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.service_config", SERVICE_CONFIG),
    ("grpc.enable_retries", 1),
)
SYNTHETIC = (("x-synthetic", "1"),)
"""Marks a call that analysis leaves out."""
CONCURRENT_CALLS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendationQuery:
    """One user's request: history, number of items, attributes."""

    user_id: str = ""
    items: tuple[int, ...] = ()
    """Items that the user has seen, oldest first."""
    item_names: tuple[str, ...] = ()
    """The same for versions whose items have names."""
    limit: int = 0
    """0: the router's default of 10."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    synthetic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """What came back. `experiment` and `group` are empty where no experiment takes the user."""

    user_id: str
    item_ids: tuple[int, ...]
    item_names: tuple[str, ...]
    """Instead of ids, where items have names."""
    scores: tuple[float, ...]
    """One for each item."""
    experiment: str
    group: str
    model_version: str
    request_id: str
    latency_ms: float


class CallFailed(Exception):
    """A call did not end with OK, after the retries that the policy allows."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        """Name of the gRPC status code."""


def make_request_id() -> str:
    """A new unique request id."""
    return uuid.uuid4().hex


def open_channel(address: str, access: ClientCredentials = PLAIN) -> grpc.aio.Channel:
    """A channel with the retry policy; close it, or use it in `async with`. Raises CredentialError."""
    return access_channel(address, access, CHANNEL_OPTIONS)


async def ask(
    channel: grpc.aio.Channel, question: RecommendationQuery, *, timeout_seconds: float, request_id: str | None = None
) -> Recommendation:
    """Sends one Recommend call, with the retries of SERVICE_CONFIG. Raises CallFailed."""
    stub = recommender_pb2_grpc.RecommenderStub(channel)  # type: ignore[no-untyped-call]
    request = recommender_pb2.RecommendRequest(
        item_ids=question.items,
        items=question.item_names,
        user_id=question.user_id,
        limit=question.limit,
        request_id=request_id or make_request_id(),
        attributes=dict(question.attributes),
    )
    began = time.perf_counter()
    try:
        answer = await stub.Recommend(
            request, timeout=timeout_seconds, metadata=SYNTHETIC if question.synthetic else None
        )
    except grpc.aio.AioRpcError as error:
        raise CallFailed(error.code().name, error.details() or "") from error
    return Recommendation(
        user_id=question.user_id,
        item_ids=tuple(answer.item_ids),
        item_names=tuple(answer.items),
        scores=tuple(answer.scores),
        experiment=answer.experiment,
        group=answer.group,
        model_version=answer.model_version,
        request_id=answer.request_id,
        latency_ms=(time.perf_counter() - began) * 1000,
    )


@dataclass(slots=True)
class ObservedSplit:
    """The groups that many users were assigned to, and the failures; changed only by `ask_all`."""

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


async def ask_all(
    channel: grpc.aio.Channel,
    questions: Iterable[RecommendationQuery],
    *,
    timeout_seconds: float,
    on_answer: Callable[[], None] = lambda: None,
    concurrent: int = CONCURRENT_CALLS,
) -> ObservedSplit:
    """One call for each question, at most `concurrent` at a time; `on_answer` is called after each."""
    split = ObservedSplit()
    waiting = iter(questions)

    async def work() -> None:
        for question in waiting:  # shared by all workers: each question is taken once
            try:
                answer = await ask(channel, question, timeout_seconds=timeout_seconds)
            except CallFailed as error:
                split.failed[error.status] += 1
                split.first_failure = split.first_failure or error
            else:
                split.answered[answer.experiment, answer.group, answer.model_version] += 1
                split.latencies_ms.append(answer.latency_ms)
            on_answer()

    await asyncio.gather(*(work() for _ in range(concurrent)))
    return split


def quantile(values: Sequence[float], part: float) -> float | None:
    """The smallest value that at least `part` of the values do not exceed; None without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-part * len(ordered) // 1) - 1))] if ordered else None
