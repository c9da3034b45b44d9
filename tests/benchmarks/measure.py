"""What is measured on one path: users found, CPU a call, throughput, latency, memory. Knows no product but its port."""

import math
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from abfleet_protos.recommender_pb2 import RecommendRequest, RecommendResponse

from tests.benchmarks import load
from tests.benchmarks.files import VERSIONS, WEIGHTS, group_of
from tests.benchmarks.fleets import Fleet
from tests.benchmarks.load import METHOD_PATH, User
from tests.benchmarks.paths import Running
from tests.benchmarks.processes import Child, usage
from tests.benchmarks.sender import Outcome, Request, Sender, hold_connections, percentile, poisson_schedule

USERS = 30
PER_GROUP = tuple(USERS * weight // 100 for weight in WEIGHTS)
"""21, 6 and 3 users: exactly 70/20/10, so that every path gives the pools the same work."""
_CANDIDATES = 600
_HISTORY = range(1, 21)
_CONNECTIONS = 6
_SEED = 20_261_101
_LOG_PATIENCE_S, _POLL_S = 4.0, 0.1


class WrongAnswers(Exception):
    """The path does not answer as it must, so its figures would mean nothing."""


@dataclass(frozen=True, slots=True)
class Saturated:
    """One pass of saturating load."""

    in_flight: int
    calls: int
    calls_per_s: float
    router_us: float
    """CPU µs a call of the router's processes; 0 for direct calls."""
    workers_us: float
    batch_size: float | None
    """Calls a batch on the way to identity workers; None where the workers do not tell."""

    @property
    def total_us(self) -> float:
        return self.router_us + self.workers_us


@dataclass(frozen=True, slots=True)
class Latency:
    """One pass on a schedule; times in milliseconds from when each call was due."""

    label: str
    rate: float
    achieved: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    sender_late_p99_ms: float
    """How late the sender itself was: what of the above is not the path's."""
    router_us: float
    workers_us: float
    not_ok: int
    failures: str
    """How those failed; empty when none did."""

    @property
    def router_core_percent(self) -> float:
        return self.router_us * self.achieved / 1e4


@dataclass(slots=True)
class PathResult:
    """All that was measured on one path with one model. Changed only by the run that fills it."""

    path: str
    label: str
    saturated: list[Saturated] = field(default_factory=list)
    latencies: list[Latency] = field(default_factory=list)
    one_at_a_time_p50_us: float = math.nan
    one_at_a_time_mean_us: float = math.nan
    resident_mb: float = math.nan
    log_lines_a_call: float = math.nan
    notes: list[str] = field(default_factory=list)

    def at(self, in_flight: int) -> list[Saturated]:
        return [one for one in self.saturated if one.in_flight == in_flight]

    def median(self, in_flight: int, name: str) -> float:
        """Returns the median of a figure over the rounds; nan when there was none."""
        values = [getattr(one, name) for one in self.at(in_flight) if getattr(one, name) is not None]
        return statistics.median(values) if values else math.nan

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def request_of(user_id: str, port: int) -> User:
    return User(user_id, port, RecommendRequest(item_ids=_HISTORY, user_id=user_id).SerializeToString())


def find_users(running: Running, fleet: Fleet) -> list[User]:
    """Returns 30 users that this path sends 21/6/3 to the three versions, mixed; each path has its own hash.

    Raises WrongAnswers when a call fails or the path's split is far from 70/20/10.
    """
    candidates = [f"user-{number}" for number in range(_CANDIDATES)]
    if running.port is None:
        groups = [group_of(user) for user in candidates]
        ports = [fleet.ports[VERSIONS[group]][0] for group in groups]
    else:
        groups = _served_groups(running, candidates)
        ports = [running.port] * _CANDIDATES
    shares = Counter(groups)
    for group, weight in enumerate(WEIGHTS):
        # Five standard deviations of a binomial count: a right split fails once in a million runs.
        expected = _CANDIDATES * weight / 100
        if abs(shares[group] - expected) > 5 * math.sqrt(expected * (1 - weight / 100)):
            raise WrongAnswers(
                f"{running.name}: {shares[group]} of {_CANDIDATES} users in group {group}, not {weight} %"
            )
    chosen: list[list[User]] = [[], [], []]
    for user, group, port in zip(candidates, groups, ports, strict=True):
        if len(chosen[group]) < PER_GROUP[group]:
            chosen[group].append(request_of(user, port))
    return _mixed(chosen)


def check(running: Running, users: Sequence[User], *, calls: int, at_once: int) -> None:
    """Sends calls at full load and reads every grpc-status, which h2load does not. Raises WrongAnswers."""
    outcome = _closed_loop(users, calls=calls, at_once=at_once)
    if outcome.ok != calls:
        raise WrongAnswers(f"{running.name} with {at_once} in flight: {calls - outcome.ok} not OK: {_spelt(outcome)}")


def saturated(
    running: Running, fleet: Fleet, users: Sequence[User], *, calls: int, in_flight: int, directory: Path
) -> Saturated:
    """Loads the path and returns what the calls cost. Raises WrongAnswers when any call was not answered."""
    before_counts = fleet.counts()
    routers = [running.router] if running.router else []
    router_before, workers_before = usage(routers), usage(fleet.children)
    done = load.saturate(users, calls=calls, in_flight=in_flight, directory=directory, timeout_s=60)
    router_s = usage(routers).since(router_before)
    workers_s = usage(fleet.children).since(workers_before)
    if done.failed:
        raise WrongAnswers(f"{running.name}: {done.failed} of {done.calls + done.failed} calls without HTTP 200")
    batch_size = None
    if before_counts is not None and (after := fleet.counts()) is not None:
        counted = after.since(before_counts)
        batch_size = counted.batch_size
        if counted.calls < done.calls:
            raise WrongAnswers(f"{running.name}: workers saw {counted.calls} of {done.calls} calls")
    return Saturated(
        in_flight=in_flight,
        calls=done.calls,
        calls_per_s=done.calls / done.elapsed_s,
        router_us=router_s / done.calls * 1e6,
        workers_us=workers_s / done.calls * 1e6,
        batch_size=batch_size,
    )


def latency(
    running: Running, fleet: Fleet, users: Sequence[User], *, label: str, rate: float, seconds: float
) -> Latency:
    """Sends independent arrivals at `rate` for `seconds` and returns how long each took from when it was due."""
    due = poisson_schedule(rate, seconds, seed=_SEED)
    routers = [running.router] if running.router else []
    sender = Sender([user.request for user in users], connections=_CONNECTIONS)
    try:
        sender.in_flight(min(500, len(due)), at_once=20)  # connections and caches warm
        router_before, workers_before = usage(routers), usage(fleet.children)
        outcome = sender.on_schedule(due)
        router_s = usage(routers).since(router_before)
        workers_s = usage(fleet.children).since(workers_before)
    finally:
        sender.close()
    calls = max(1, len(due))
    return Latency(
        label=label,
        rate=rate,
        achieved=outcome.ok / outcome.elapsed_s,
        p50_ms=percentile(outcome.latencies_ms, 50),
        p99_ms=percentile(outcome.latencies_ms, 99),
        p999_ms=percentile(outcome.latencies_ms, 99.9),
        sender_late_p99_ms=percentile(outcome.late_ms, 99),
        router_us=router_s / calls * 1e6,
        workers_us=workers_s / calls * 1e6,
        not_ok=len(due) - outcome.ok,
        failures=_spelt(outcome),
    )


def one_at_a_time(users: Sequence[User], *, calls: int) -> tuple[float, float]:
    """Returns p50 and mean of the latency in µs with a single call under way."""
    _closed_loop(users, calls=min(calls, 100), at_once=1)
    outcome = _closed_loop(users, calls=calls, at_once=1)
    return percentile(outcome.latencies_ms, 50) * 1e3, statistics.fmean(outcome.latencies_ms) * 1e3


def log_lines_a_call(running: Running, users: Sequence[User], *, calls: int, at_once: int) -> float:
    """Returns how many log lines a call leaves, once the logs' buffers have had time: 1 is what all claim to do."""
    before = running.log_lines()
    _closed_loop(users, calls=calls, at_once=at_once)
    limit = time.monotonic() + _LOG_PATIENCE_S
    while (written := running.log_lines() - before) < calls and time.monotonic() < limit:
        time.sleep(_POLL_S)
    return written / calls


def resident_mb(router: Child, user: User, *, connections: int) -> float:
    """Returns the router's resident memory while `connections` more connections are open, each after one call."""
    with hold_connections(user.request, connections):
        return router.resident_mb()


def _closed_loop(users: Sequence[User], *, calls: int, at_once: int) -> Outcome:
    sender = Sender([user.request for user in users], connections=_CONNECTIONS)
    try:
        return sender.in_flight(calls, at_once=at_once)
    finally:
        sender.close()


def _served_groups(running: Running, candidates: Sequence[str]) -> list[int]:
    """Returns the group that served each candidate, read from the answers' version."""
    assert running.port is not None
    requests: list[Request] = [request_of(user, running.port).request for user in candidates]
    sender = Sender(requests, connections=2, keep_answers=True)
    try:
        outcome = sender.in_flight(len(requests), at_once=30)
    finally:
        sender.close()
    if outcome.ok != len(requests):
        raise WrongAnswers(f"{running.name}: {len(requests) - outcome.ok} probes not OK: {_spelt(outcome)}")
    served = [RecommendResponse.FromString(outcome.answers[at]).model_version for at in range(len(requests))]
    if unknown := set(served) - set(VERSIONS):
        raise WrongAnswers(f"{running.name}: {METHOD_PATH} answered with versions {sorted(unknown)}")
    return [VERSIONS.index(version) for version in served]


def _mixed(chosen: Sequence[Sequence[User]]) -> list[User]:
    """Returns the users spread evenly, so that a cycle of 30 calls has no runs of one group."""
    placed = [(position / len(group), user) for group in chosen for position, user in enumerate(group)]
    return [user for _, user in sorted(placed, key=lambda pair: pair[0])]


def _spelt(outcome: Outcome) -> str:
    names = {-1: "without grpc-status", -2: "reset", -3: "unanswered"}
    found = [
        f"{count} × {names.get(code, f'code {code}')}" for code, count in outcome.statuses.items() if code and count
    ]
    return ", ".join(found)
