"""A router over a fleet without a network: router, pools and queues are real; links, clock and log are fakes."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import orjson
from abfleet_experiments.config import Config
from abfleet_experiments.file.load import load_text
from abfleet_log import schema
from abfleet_log.writer.decision_log import DecisionLog
from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_router.balancing.ejection import EjectionPolicy
from abfleet_router.calls.router import Router
from abfleet_router.calls.spans import CallTracer
from abfleet_router.configuration.snapshot import make_snapshot
from abfleet_router.fleet.batching import BatchingSettings
from abfleet_router.fleet.failure import BatchFailed
from abfleet_router.fleet.fleet import Fleet
from abfleet_router.fleet.replica import Replica
from abfleet_router.fleet.waiting_calls import Backlog
from abfleet_router.metrics import RouterMetrics
from abfleet_router.parts import METHODS
from abfleet_router.security.rate_limit import RateLimit
from abfleet_router.settings import RoutingSettings
from abfleet_transport.call import Call, Code, Metadata
from abfleet_transport.rpc_metrics import RpcMetrics

from tests.router.fakes import FakeCall, FakeClock, FakeLink, Sent, turns, worker_answer

WALL = 1_790_000_000.0
"""What the wall clock says when the fake clock says 0."""
CONFIG = """
version: 1
default: v1
models:
  v1: {target: ["10.0.0.1:1", "10.0.0.2:1"]}
  v2: {target: ["10.0.1.1:1", "10.0.1.2:1"]}
  v3: {target: "10.0.2.1:1"}
log_attributes: [country]
experiments:
  - name: ranking
    salt: recommender-2026-11
    overrides: {on-v1: control, on-v2: experiment, on-v3: canary}
    groups:
      - {name: control, model: v1, weight: 70}
      - {name: experiment, model: v2, weight: 20}
      - {name: canary, model: v3, weight: 10}
"""


class FakeLog:
    """Keeps the lines, and checks each against the schema."""

    crowded = False
    """Whether it is short of room; set by the test."""

    def __init__(self) -> None:
        self._lines: list[dict[str, Any]] = []
        self._late: Callable[[], Sequence[bytes]] = tuple
        self.problems: list[str] = []

    @property
    def lines(self) -> list[dict[str, Any]]:
        """All so far."""
        self.extend(self._late())
        return self._lines

    def make_late(self, lines: Callable[[], Sequence[bytes]], count: Callable[[], int]) -> None:
        self._late = lines

    def flush_soon(self) -> None:
        """Does nothing: `lines` has all."""

    def append(self, line: bytes) -> None:
        parsed = orjson.loads(line)
        self.problems += schema.problems(parsed)
        self.problems += ["line feed in a line"] if b"\n" in line else []
        self._lines.append(parsed)

    def extend(self, more: Sequence[bytes]) -> None:
        for line in more:
            self.append(line)

    def exposures(self) -> list[dict[str, Any]]:
        """The lines of calls that were served or not, in order."""
        return [line for line in self.lines if line["event"] == "exposure"]


def fake(replica: Replica) -> FakeLink:
    """The link of a replica on a bench."""
    return cast(FakeLink, replica.link)


class Bench:
    """Everything that a call meets. `await open()` first, `await close()` last."""

    def __init__(
        self,
        *,
        config: str = CONFIG,
        policy: EjectionPolicy | None = None,
        batching: BatchingSettings | None = None,
        settings: RoutingSettings | None = None,
        draw: Callable[[], float] = lambda: 0.0,
        tracer: CallTracer | None = None,
        client_of: Callable[[Call], str | None] | None = None,
        rate_limit: RateLimit | None = None,
        decision_log: DecisionLog | None = None,
        holds_answers: bool = False,
    ) -> None:
        """`decision_log`: one that writes files; None: lines are kept."""
        self.clock = FakeClock()
        self.draw = draw
        self.links: list[FakeLink] = []
        """All that were ever made, in their order."""
        self.down: set[str] = set()
        """Versions whose replicas do not serve until the test says so."""
        self.metrics, self.rpc, self.log = RouterMetrics(), RpcMetrics(METHODS), FakeLog()
        backlog = Backlog()
        self.router = Router(
            backlog,
            decision_log or cast(DecisionLog, self.log),
            self.metrics,
            self.rpc,
            settings or RoutingSettings(name="router-1"),
            clock=self.clock,
            wall=lambda: WALL + self.clock.now,
            tracer=tracer,
            client_of=client_of,
            rate_limit=rate_limit,
            holds_answers=holds_answers,
        )
        self.fleet = Fleet(
            self.router.batch_results,
            backlog,
            self._make_link,
            clock=self.clock,
            draw=lambda: self.draw(),
            policy=policy or EjectionPolicy(),
            batching=batching or BatchingSettings(),
        )
        self.config = load_text(config)
        self.calls: list[FakeCall] = []

    def _make_link(self, address: str, host_name: Callable[[], str]) -> FakeLink:
        self.links.append(FakeLink(lambda version: version not in self.down))
        return self.links[-1]

    @property
    def made(self) -> list[Replica]:
        """All replicas that were ever made, in their order."""
        return [link.listener for link in self.links if isinstance(link.listener, Replica)]

    async def open(self) -> None:
        """Brings the configuration into force, with every replica serving."""
        self.fleet.follow(self.config.models)
        await turns()
        self.use(self.config)

    def use(self, config: Config) -> None:
        """This configuration is in force from now on; its versions must be those of the fleet."""
        snapshot = make_snapshot(
            config,
            self.fleet.pools,
            self.metrics,
            router="router-1",
            generation=1,
            at=datetime(2026, 11, 1, tzinfo=UTC),
        )
        self.router.use(snapshot)

    async def close(self) -> None:
        """Closes the fleet, so that no task is left."""
        self.router.shadows.close()
        await self.fleet.close()

    # --- callers ------------------------------------------------------------------------------------------------------

    def call(
        self,
        user_id: str = "on-v1",
        history: Sequence[int] = (1, 2, 3),
        *,
        seconds: float | None = None,
        metadata: Metadata = (),
        payload: bytes | None = None,
        **fields: Any,
    ) -> FakeCall:
        """A call that has not been delivered yet; `seconds`: its deadline from now."""
        if payload is None:
            payload = RecommendRequest(item_ids=history, user_id=user_id, **fields).SerializeToString()
        deadline = None if seconds is None else self.clock.now + seconds
        call = FakeCall(payload, self.clock.now, deadline, metadata)
        self.calls.append(call)
        return call

    async def arrive(self, *calls: FakeCall) -> None:
        """Delivers calls as one burst, and lets their batches start."""
        self.router.on_calls(list(calls))
        await turns()

    # --- workers ------------------------------------------------------------------------------------------------------

    def replica(self, version: str, number: int = 0) -> Replica:
        """One of a version's replicas, in the order of the file."""
        return [one for one in self.made if one.version == version][number]

    def link(self, version: str, number: int = 0) -> FakeLink:
        """The fake link of that replica."""
        return fake(self.replica(version, number))

    def open_batches(self, version: str | None = None) -> list[tuple[Replica, Sent]]:
        """What workers have been sent and not answered."""
        return [(one, sent) for one in self.made if version in (None, one.version) for sent in fake(one).open]

    async def answer(
        self,
        version: str | None = None,
        failures: Mapping[int, tuple[Code, str]] | None = None,
        *,
        as_version: str | None = None,
    ) -> int:
        """Workers answer all that they have been sent; gives the number of batches."""
        batches = self.open_batches(version)
        for replica, sent in batches:
            sent.answer(worker_answer(as_version or replica.version, sent.requests, failures))
        await turns()
        return len(batches)

    async def fail(self, version: str, failure: BatchFailed) -> int:
        """Every batch of a version fails so; gives their number."""
        batches = self.open_batches(version)
        for _, sent in batches:
            sent.fail(failure)
        await turns()
        return len(batches)

    async def run_dry(self) -> None:
        """Workers answer until nothing is under way."""
        while await self.answer():
            pass

    # --- claims that hold for every story -----------------------------------------------------------------------------

    def nothing_is_left(self) -> None:
        """All counts are back at zero."""
        backlog = self.fleet.backlog
        assert (backlog.calls, backlog.bytes) == (0, 0)
        assert [one for one in self.made if one.queue.load or one.queue.in_flight] == []

    def books_balance(self, calls: Iterable[FakeCall], cancelled: Iterable[FakeCall] = ()) -> None:
        """Each call has one answer (or left), one line and one count, and the three agree."""
        gone = set(map(id, cancelled))
        calls = list(calls)
        codes: dict[str, int] = {}
        lines = {line["request_id"]: line for line in self.log.exposures()}
        assert self.log.problems == []
        assert len(lines) == len(self.log.exposures())
        for call in calls:
            request = RecommendRequest.FromString(call.payload)
            line = lines.pop(request.request_id)
            codes[line["status"]] = codes.get(line["status"], 0) + 1
            assert line["user_id"] == (request.user_id or None)
            assert line["history_length"] == len(request.item_ids)
            if id(call) in gone:
                assert call.answers == []
                assert line["status"] in ("CANCELLED", "DEADLINE_EXCEEDED")
            else:
                assert line["status"] == call.code.name
            if line["status"] == "OK":
                self._answer_agrees(call, request, line)
            else:
                assert (line["served_version"], line["items"]) == (None, [])
        assert lines == {}, "lines of no call"
        assert self.rpc.handled(0) == codes
        counted = Counter(
            {
                (stats.group, stats.version, served, Code(status).name): count
                for stats in self.metrics.arms.values()
                for served, status, count in stats.by_status()
            }
        )
        assert counted == Counter(
            (line["group"] or "", line["model_version"], line["served_version"] or "", line["status"])
            for line in self.log.exposures()
        )
        for stats in self.metrics.arms.values():
            assert sum(stats.latency.counts) == stats.calls

    def _answer_agrees(self, call: FakeCall, request: RecommendRequest, line: dict[str, Any]) -> None:
        response, total = call.response, sum(request.item_ids)
        assert list(response.item_ids) == [total + 1, total + 2], "somebody else's answer"
        assert list(response.scores) == [2.0, 1.0]
        assert response.request_id == request.request_id
        assert response.experiment == (line["experiment"] or "")
        assert response.group == (line["group"] or "")
        assert response.model_version == line["served_version"]
        assert line["items"] == list(response.item_ids)
        assert line["attempts"] >= 1
        if line["fallback"] is None:
            assert line["served_version"] == line["model_version"]
        else:
            assert line["served_version"] == self.config.default
