"""Sends the workload: calls at a rate, outcomes when they are due, some twice and some never. Knows the router's API.

The seed decides who calls when and what they would do; what they do depends on the lists that they get as well.
"""

import asyncio
import heapq
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from abfleet_client import (
    AsyncRecommender,
    CallFailed,
    ClientCredentials,
    Outcome,
    OutcomesLost,
    OutcomeTally,
    SendingPolicy,
)

from abfleet.observed_split import quantile
from abfleet.traffic.behaviour import Act, acts
from abfleet.traffic.population import Person

MOST_AT_ONCE = 1000
"""Calls under way; a router that is slower than the rate gets no more than that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficPlan:
    """What is sent.

    Attributes:
        rate: Calls a second.
        run: Prefix of every request id, so that two runs differ.
        effects: Group to the relative change of its click probability.
        duplicates, loss: Shares of outcomes that are sent twice, and never.
        as_real: Not marked as synthetic: analysis counts it.
    """

    address: str
    rate: float
    duration_seconds: float
    seed: int
    run: str
    effects: Mapping[str, float] = field(default_factory=dict)
    duplicates: float = 0.02
    loss: float = 0.01
    mean_delay_seconds: float = 2.0
    as_real: bool = False
    limit: int = 10
    access: ClientCredentials = field(default_factory=ClientCredentials)

    @property
    def calls(self) -> int:
        """Calls of the whole run: rate times duration, rounded."""
        return round(self.rate * self.duration_seconds)


@dataclass(slots=True)
class GroupTally:
    """What one group's users were shown and did, whether or not it was sent; changed only by Workload."""

    users: set[str] = field(default_factory=set)
    lists: int = 0
    items: int = 0
    clicks: int = 0
    conversions: int = 0
    purchases: int = 0
    revenue: float = 0.0


class Workload:
    """One run. Changed only on the event loop."""

    def __init__(
        self, plan: TrafficPlan, people: Sequence[Person], *, on_call: Callable[[], None] = lambda: None
    ) -> None:
        self._plan = plan
        self._people = people
        self._on_call = on_call
        self.groups: dict[tuple[str, str, str], GroupTally] = {}
        """By (experiment, group, version)."""
        self.errors: dict[str, int] = {}
        self.latencies_ms: list[float] = []
        self.withheld = 0
        """Outcomes that were never sent, on purpose."""
        self.repeated = 0
        self.feedback = OutcomeTally()
        self.seconds = 0.0
        self._due: list[tuple[float, int, Outcome]] = []
        self._order = count()
        self._stopping = False

    def stop(self) -> None:
        """No more calls; outcomes that are due later are sent at once."""
        self._stopping = True

    async def run(self) -> None:
        """Sends the whole workload. Outcomes that could not be sent are counted in the tally, and raise nothing."""
        plan = self._plan
        recommender = AsyncRecommender(
            plan.address,
            credentials=plan.access,
            synthetic=not plan.as_real,
            sending=SendingPolicy(linger_seconds=0.1, give_up_seconds=30),
        )
        self.feedback = recommender.outcomes
        begun = time.monotonic()
        try:
            async with recommender:
                calls = asyncio.create_task(self._call_all(recommender, begun))
                outcomes = asyncio.create_task(self._record_outcomes(recommender, calls))
                await calls
                self.seconds = time.monotonic() - begun
                await outcomes
        except OutcomesLost:
            pass  # the tally has them, and the summary shows it

    async def _call_all(self, recommender: AsyncRecommender, begun: float) -> None:
        plan, gate = self._plan, asyncio.Semaphore(MOST_AT_ONCE)
        draw = random.Random(f"{plan.seed}/who")  # noqa: S311 - a simulation
        under_way: set[asyncio.Task[None]] = set()
        for number in range(plan.calls):
            person = self._people[draw.randrange(len(self._people))]
            if (early := begun + number / plan.rate - time.monotonic()) > 0:
                await asyncio.sleep(early)
            if self._stopping:
                break
            await gate.acquire()
            task = asyncio.create_task(self._call(recommender, person, number))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            task.add_done_callback(lambda _: gate.release())
        await asyncio.gather(*under_way)

    async def _call(self, recommender: AsyncRecommender, person: Person, number: int) -> None:
        plan = self._plan
        request_id = f"{plan.run}-{number}"
        begun = time.perf_counter()
        try:
            answer = await recommender.recommend(
                user_id=person.user_id, items=person.history, limit=plan.limit, request_id=request_id
            )
        except CallFailed as error:
            self.errors[error.status] = self.errors.get(error.status, 0) + 1
            return
        finally:
            self._on_call()
        self.latencies_ms.append((time.perf_counter() - begun) * 1000)
        draw = random.Random(f"{plan.seed}/call/{number}")  # noqa: S311
        done = acts(
            answer.items,
            person.likes,
            draw,
            effect=plan.effects.get(answer.group, 0.0),
            mean_delay_seconds=plan.mean_delay_seconds,
        )
        self._count(person, (answer.experiment, answer.group, answer.model_version), len(answer.items), done)
        now = time.time()
        for index, act in enumerate(done):
            self._schedule(act, now, person, request_id, f"{request_id}-{index}", draw)

    def _count(self, person: Person, assignment: tuple[str, str, str], items: int, done: Sequence[Act]) -> None:
        tally = self.groups.setdefault(assignment, GroupTally())
        tally.users.add(person.user_id)
        tally.lists += 1
        tally.items += items
        for act in done:
            tally.clicks += act.type == "click"
            tally.conversions += act.type == "conversion"
            tally.purchases += act.type == "purchase"
            tally.revenue += act.value

    def _schedule(
        self, act: Act, now: float, person: Person, request_id: str, outcome_id: str, draw: random.Random
    ) -> None:
        lost, twice, later = draw.random(), draw.random(), draw.random()
        if lost < self._plan.loss:
            self.withheld += 1
            return
        at = now + act.delay_seconds
        outcome = Outcome(
            outcome_id=outcome_id,
            request_id=request_id,
            user_id=person.user_id,
            type=act.type,
            item_id=act.item if isinstance(act.item, int) else 0,
            item=act.item if isinstance(act.item, str) else "",
            value=act.value,
            currency=act.currency,
            time=int(at * 1e6),
        )
        heapq.heappush(self._due, (at, next(self._order), outcome))
        if twice < self._plan.duplicates:
            self.repeated += 1
            heapq.heappush(self._due, (at + later, next(self._order), outcome))

    async def _record_outcomes(self, recommender: AsyncRecommender, calls: "asyncio.Task[None]") -> None:
        """Hands outcomes over when they are due, until no call can bring more."""
        while self._due or not calls.done():
            while self._due and (self._due[0][0] <= time.time() or self._stopping):
                await recommender.record_outcome(heapq.heappop(self._due)[2])
            await asyncio.sleep(0.02)


def summary(workload: Workload) -> dict[str, Any]:
    """What was sent and seen, as plain JSON values; rates of clicks are those that happened, sent or not."""
    answered = sum(tally.lists for tally in workload.groups.values())
    latencies = workload.latencies_ms
    feedback = workload.feedback
    return {
        "calls": answered + sum(workload.errors.values()),
        "answered": answered,
        "errors": dict(sorted(workload.errors.items())),
        "calls_per_s": round(answered / workload.seconds, 1) if workload.seconds else None,
        "latency_ms": {"p50": quantile(latencies, 0.5), "p99": quantile(latencies, 0.99)},
        "groups": [
            {
                "experiment": experiment or None,
                "group": group or None,
                "model_version": version,
                "users": len(tally.users),
                "lists": tally.lists,
                "clicks": tally.clicks,
                "clicks_per_list": round(tally.clicks / tally.lists, 6),
                "conversions": tally.conversions,
                "purchases": tally.purchases,
                "revenue": round(tally.revenue, 2),
            }
            for (experiment, group, version), tally in sorted(workload.groups.items())
        ],
        "outcomes": {
            "accepted": feedback.accepted,
            "duplicate": feedback.duplicate,
            "rejected": feedback.rejected,
            "lost": feedback.lost,
            "repeated": workload.repeated,
            "withheld": workload.withheld,
        },
    }
