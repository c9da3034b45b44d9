"""The fleet, the decision log and the configuration as Prometheus families, read at each scrape."""

from collections.abc import Iterable

from abfleet_log.writer.decision_log import DecisionLog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from abfleet_router.calls.router import Router
from abfleet_router.fleet.fleet import Fleet


def families(fleet: Fleet, decision_log: DecisionLog, router: Router) -> Iterable[Metric]:
    """Replica states, ejections, what waits, log lines, and the configuration in force."""
    state = GaugeMetricFamily(
        "abfleet_replica_in", "1 if the replica may receive calls, else 0.", labels=["version", "address"]
    )
    load = GaugeMetricFamily(
        "abfleet_replica_load", "Calls waiting for the replica or in flight to it.", labels=["version", "address"]
    )
    available = GaugeMetricFamily(
        "abfleet_pool_available", "Replicas of the version that may receive calls.", labels=["version"]
    )
    detected = CounterMetricFamily(
        "abfleet_ejections_detected", "Ejections that were detected, whether enforced or not.", labels=["version"]
    )
    enforced = CounterMetricFamily("abfleet_ejections_enforced", "Ejections that were enforced.", labels=["version"])
    for version, pool in list(fleet.pools.items()):
        available.add_metric([version], len(pool.available))
        detected.add_metric([version], pool.outliers.counters.detected)
        enforced.add_metric([version], pool.outliers.counters.enforced)
        for replica in pool.replicas:
            labels = [version, replica.address]
            state.add_metric(labels, replica in pool.available)
            load.add_metric(labels, replica.queue.load)
    yield from (state, load, available, detected, enforced)
    yield GaugeMetricFamily("abfleet_waiting_calls", "Calls waiting in all batch queues.", value=fleet.backlog.calls)
    yield GaugeMetricFamily(
        "abfleet_waiting_bytes", "Bytes of requests waiting in all batch queues.", value=fleet.backlog.bytes
    )
    counters = decision_log.counters
    yield CounterMetricFamily("abfleet_decision_log_lines", "Decision log lines written.", value=counters.written)
    yield CounterMetricFamily(
        "abfleet_decision_log_dropped", "Decision log lines that were lost and are in no file.", value=counters.lost
    )
    yield GaugeMetricFamily(
        "abfleet_decision_log_buffered", "Decision log lines that are not written yet.", value=decision_log.buffered
    )
    yield GaugeMetricFamily(
        "abfleet_decision_log_failing",
        "1 while the decision log cannot be written, else 0.",
        value=decision_log.failing,
    )
    if (snapshot := router.snapshot) is not None:
        info = InfoMetricFamily("abfleet_config", "Revision of the configuration in force; always 1.")
        info.add_metric([], {"revision": snapshot.revision})
        yield info
        yield GaugeMetricFamily(
            "abfleet_config_generation",
            "Configurations put into force since the router started.",
            value=snapshot.generation,
        )
