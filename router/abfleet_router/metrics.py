"""The router's own counters: plain numbers on the hot path, made into Prometheus families at each scrape."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

from abfleet_experiments.assign import Arm
from abfleet_transport.call import Code
from abfleet_transport.histogram import Histogram
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

ADDED_BOUNDS_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128)


class ArmStats:
    """Counts of one (experiment, group, assigned version); kept over reloads. Changed on the event loop alone.

    Where two versions are interleaved, both are the version: `v1.2.3 + v1.3.0-beta`.
    """

    __slots__ = ("experiment", "fallbacks", "group", "latency", "ok", "others", "version")

    def __init__(self, experiment: str, group: str, version: str) -> None:
        self.experiment = experiment
        self.group = group
        self.version = version
        self.ok = 0
        """Served by the assigned version, status OK: nearly every call, so it has a number of its own."""
        self.others: dict[tuple[str, int], int] = {}
        """(served version or "", status) for all other calls."""
        self.fallbacks: dict[str, int] = {}
        """Calls that fell back to the default version, by the value of their FailureReason."""
        self.latency = Histogram()
        """Seconds from the arrival of a call to its answer."""

    def count(self, served: str, code: Code) -> None:
        """Counts a call that fell back or failed; `served` is "" where no version answered."""
        key = (served, int(code))
        self.others[key] = self.others.get(key, 0) + 1

    def by_status(self) -> Iterator[tuple[str, int, int]]:
        """The calls that have ended, as (served version or "", status code, number of calls)."""
        if self.ok:
            yield self.version, int(Code.OK), self.ok
        for (served, status), calls in list(self.others.items()):
            yield served, status, calls

    @property
    def calls(self) -> int:
        """All calls that have ended, whatever their status."""
        return self.ok + sum(self.others.values())

    @property
    def errors(self) -> int:
        """Calls that did not end with OK."""
        return sum(calls for (_, status), calls in list(self.others.items()) if status != Code.OK)


class ShadowStats:
    """Counts of one version in the shadow of others; kept over reloads. Changed on the event loop alone."""

    __slots__ = ("answers", "sent", "shed", "version")

    def __init__(self, version: str) -> None:
        self.version = version
        self.sent = 0
        self.answers: dict[int, int] = {}
        """By gRPC status; each has a line in the log."""
        self.shed: dict[str, int] = {}
        """Calls of the sample that have no line, by the value of their ShedReason."""


class RouterMetrics(Collector):
    """Numbers that routing counts, and gauges that others register; changed only on the event loop."""

    def __init__(self) -> None:
        self.arms: dict[tuple[str, str, str], ArmStats] = {}
        self.shadows: dict[str, ShadowStats] = {}
        self.added = Histogram(ADDED_BOUNDS_SECONDS)
        """Seconds of a call in the router and on the way to the worker: all but the worker's own time."""
        self.batch_sizes = Histogram(BATCH_BOUNDS)
        self.rejected = 0
        self.shed = 0
        self.rate_limited = 0
        self.retries = 0
        self.reload_failures = 0
        self.reloads = 0
        self._registered: list[Callable[[], Iterable[Metric]]] = []

    def arm(self, arm: Arm) -> ArmStats:
        """The counts of an arm, made when it is first asked for."""
        key = (arm.experiment or "", arm.group or "", arm.served_by)
        return self.arms.setdefault(key, ArmStats(*key))

    def shadow(self, version: str) -> ShadowStats:
        """The counts of a version in the shadow of others, made when they are first asked for."""
        return self.shadows.setdefault(version, ShadowStats(version))

    def observe_batch(self, size: int) -> None:
        """Counts a batch of this many calls that a worker answered."""
        histogram = self.batch_sizes
        histogram.counts[bisect_left(BATCH_BOUNDS, size)] += 1
        histogram.total += size

    def register(self, families: Callable[[], Iterable[Metric]]) -> None:
        """Adds families that another part computes at scrape."""
        self._registered.append(families)

    def collect(self) -> Iterable[Metric]:
        """The families, made new at each scrape."""
        arm = ["experiment", "group", "assigned_version"]
        requests = CounterMetricFamily(
            "abfleet_requests",
            "Calls that have ended, by assignment, by the version that served and by gRPC status.",
            labels=[*arm, "served_version", "status"],
        )
        fallbacks = CounterMetricFamily(
            "abfleet_fallbacks",
            "Calls that fell back to the default version, by assignment and reason.",
            labels=[*arm, "reason"],
        )
        latency = HistogramMetricFamily(
            "abfleet_request_duration_seconds",
            "Seconds from a call's arrival to its answer, by assignment.",
            labels=arm,
        )
        for stats in list(self.arms.values()):
            labels = [stats.experiment, stats.group, stats.version]
            for served, status, calls in stats.by_status():
                requests.add_metric([*labels, served, Code(status).name], calls)
            for reason, calls in list(stats.fallbacks.items()):
                fallbacks.add_metric([*labels, reason], calls)
            latency.add_metric(labels, stats.latency.cumulative(), stats.latency.total)
        yield from (requests, fallbacks, latency)
        added = HistogramMetricFamily(
            "abfleet_added_latency_seconds",
            "Seconds that a call spent in the router and on the network, without the worker's own time.",
        )
        added.add_metric([], self.added.cumulative(), self.added.total)
        sizes = HistogramMetricFamily("abfleet_batch_size", "Calls in each batch that a worker answered.")
        sizes.add_metric([], self.batch_sizes.cumulative(), self.batch_sizes.total)
        yield from (added, sizes)
        for name, help_text, value in (
            ("abfleet_rejected", "Calls refused because of a mistake of the caller.", self.rejected),
            ("abfleet_shed", "Calls refused because the router was overloaded.", self.shed),
            ("abfleet_rate_limited", "Calls refused because the caller exceeded its rate limit.", self.rate_limited),
            ("abfleet_retries", "Retries on another replica, within the retry budget.", self.retries),
            (
                "abfleet_reload_failures",
                "Changes of the configuration files that were refused because of errors.",
                self.reload_failures,
            ),
            (
                "abfleet_reloads",
                "Configurations put into force: the first one, changed files and ramp rows.",
                self.reloads,
            ),
        ):
            yield CounterMetricFamily(name, help_text, value=value)
        yield from self._shadow_families()
        for families in self._registered:
            yield from families()

    def _shadow_families(self) -> Iterable[Metric]:
        sent = CounterMetricFamily(
            "abfleet_shadow_sent",
            "Shadow calls that were sent, by the version that was asked.",
            labels=["version"],
        )
        answers = CounterMetricFamily(
            "abfleet_shadow_answers",
            "Shadow calls that have ended, by version and gRPC status; each has a line in the decision log.",
            labels=["version", "status"],
        )
        shed = CounterMetricFamily(
            "abfleet_shadow_shed",
            "Shadow calls that were dropped so that users' calls lose nothing, by version and reason.",
            labels=["version", "reason"],
        )
        for stats in list(self.shadows.values()):
            sent.add_metric([stats.version], stats.sent)
            for status, calls in list(stats.answers.items()):
                answers.add_metric([stats.version, Code(status).name], calls)
            for reason, calls in list(stats.shed.items()):
                shed.add_metric([stats.version, reason], calls)
        yield from (sent, answers, shed)
