"""What a worker counts beside its RPCs: plain numbers, made into Prometheus families at each scrape.

One thread alone changes them: the one that infers. What `FollowerCounters` counts is changed by the event loop.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from abfleet_transport.call import Code
from abfleet_transport.histogram import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Items in one run of the model; the default maximum is 128."""
INFERENCE_BOUNDS_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
CODES = tuple(code.name for code in Code)


@dataclass(slots=True)
class FollowerCounters:
    """Changes to the version of the alias, and attempts that failed. Changed only by Follower."""

    changes: int = 0
    failures: int = 0
    behind: bool = False
    """Whether the alias points to another version than the one that serves."""


class WorkerMetrics(Collector):
    """Requests, runs of the model and the version that serves."""

    def __init__(self, serving: Callable[[], tuple[str, str]], following: FollowerCounters | None = None) -> None:
        """`serving` gives version and sha256 of the model that answers; `following`: None where that never changes."""
        self._serving = serving
        self._following = following
        self._registered: list[Callable[[], Iterable[Metric]]] = []
        self.batch_sizes = Histogram(BATCH_BOUNDS)
        self.inference_seconds = Histogram(INFERENCE_BOUNDS_SECONDS)
        self.items = [0] * len(CODES)
        """Finished items by the number of their status code."""
        self.failed_runs = 0
        self.history_items = 0
        """Items of the histories that the model was given, where its catalogue is known."""
        self.unknown_items = 0

    def register(self, families: Callable[[], Iterable[Metric]]) -> None:
        """Adds families that another part computes at scrape."""
        self._registered.append(families)

    def asked(self, history_items: int, unknown_items: int) -> None:
        """The model was asked with so many items, of which it knows some."""
        self.history_items += history_items
        self.unknown_items += unknown_items

    def ran(self, size: int, seconds: float) -> None:
        """The model was run once for `size` items."""
        self.batch_sizes.observe(size)
        self.inference_seconds.observe(seconds)

    def collect(self) -> Iterable[Metric]:
        """The families, made new at each scrape."""
        version, sha256 = self._serving()
        model = GaugeMetricFamily(
            "abfleet_worker_model_info",
            "Version and SHA-256 of the model being served; always 1.",
            labels=["version", "sha256"],
        )
        model.add_metric([version, sha256], 1)
        items = CounterMetricFamily(
            "abfleet_worker_items", "Requests finished by the worker, by gRPC status.", labels=["status"]
        )
        for code, count in enumerate(self.items):
            if count or code == Code.OK:
                items.add_metric([CODES[code]], count)
        expired = CounterMetricFamily(
            "abfleet_worker_expired_items",
            "Requests dropped before inference because their deadline had passed.",
            value=self.items[Code.DEADLINE_EXCEEDED],
        )
        failed = CounterMetricFamily(
            "abfleet_worker_failed_runs", "Runs of the model that failed with an error.", value=self.failed_runs
        )
        return (
            model,
            items,
            expired,
            failed,
            *self._asked(),
            *_following(self._following),
            *(family for families in self._registered for family in families()),
            _histogram("abfleet_worker_batch_size", "Requests in each run of the model.", self.batch_sizes),
            _histogram(
                "abfleet_worker_inference_seconds", "Duration of a run of the model in seconds.", self.inference_seconds
            ),
        )

    def _asked(self) -> Iterable[Metric]:
        for name, text, value in (
            ("history_items", "Items in the histories given to the model.", self.history_items),
            (
                "unknown_items",
                "Items in the histories that the model does not know and therefore ignores.",
                self.unknown_items,
            ),
        ):
            yield CounterMetricFamily(f"abfleet_worker_{name}", text, value=value)


def _following(following: FollowerCounters | None) -> Iterable[Metric]:
    if following is None:
        return
    changes = CounterMetricFamily(
        "abfleet_worker_model_changes",
        "Attempts to change to the version of the alias, by result: ok or failed.",
        labels=["result"],
    )
    changes.add_metric(["ok"], following.changes)
    changes.add_metric(["failed"], following.failures)
    yield changes
    yield GaugeMetricFamily(
        "abfleet_worker_behind_alias",
        "1 while the alias points to another version than the one that serves, else 0.",
        value=int(following.behind),
    )


def _histogram(name: str, text: str, values: Histogram) -> HistogramMetricFamily:
    return HistogramMetricFamily(name, text, buckets=values.cumulative(), sum_value=values.total)
