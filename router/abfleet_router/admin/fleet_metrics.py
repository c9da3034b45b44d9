"""The fleet, the decision log and the configuration as Prometheus families, read at scrape. Changes nothing."""

from collections.abc import Iterable

from abfleet_log.writer.decision_log import DecisionLog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from abfleet_router.calls.router import Router
from abfleet_router.fleet.fleet import Fleet


def families(fleet: Fleet, decision_log: DecisionLog, router: Router) -> Iterable[Metric]:
    """Replica states, ejections, what waits, log lines, and the configuration in force."""
    state = GaugeMetricFamily("abfleet_replica_in", "1 where a replica may get calls.", labels=["version", "address"])
    load = GaugeMetricFamily("abfleet_replica_load", "Calls that wait or are in flight.", labels=["version", "address"])
    available = GaugeMetricFamily("abfleet_pool_available", "Replicas that may get calls.", labels=["version"])
    detected = CounterMetricFamily(
        "abfleet_ejections_detected", "Ejections that the rules called for.", labels=["version"]
    )
    enforced = CounterMetricFamily("abfleet_ejections_enforced", "Ejections that were made.", labels=["version"])
    for version, pool in list(fleet.pools.items()):
        available.add_metric([version], len(pool.available))
        detected.add_metric([version], pool.counters.ejections_detected)
        enforced.add_metric([version], pool.counters.ejections_enforced)
        for replica in pool.replicas:
            labels = [version, replica.address]
            state.add_metric(labels, replica in pool.available)
            load.add_metric(labels, replica.queue.load)
    yield from (state, load, available, detected, enforced)
    yield GaugeMetricFamily("abfleet_waiting_calls", "Calls that wait in all batch queues.", value=fleet.backlog.calls)
    yield GaugeMetricFamily("abfleet_waiting_bytes", "Bytes of requests that wait.", value=fleet.backlog.bytes)
    counters = decision_log.counters
    yield CounterMetricFamily("abfleet_decision_log_lines", "Lines written.", value=counters.written)
    yield CounterMetricFamily("abfleet_decision_log_dropped", "Lines that are in no file.", value=counters.lost)
    yield GaugeMetricFamily("abfleet_decision_log_buffered", "Lines not written yet.", value=decision_log.buffered)
    yield GaugeMetricFamily(
        "abfleet_decision_log_failing", "1 while lines cannot be written.", value=decision_log.failing
    )
    if (snapshot := router.snapshot) is not None:
        info = InfoMetricFamily("abfleet_config", "The configuration in force.")
        info.add_metric([], {"revision": snapshot.revision})
        yield info
        yield GaugeMetricFamily(
            "abfleet_config_generation", "Configurations since the start.", value=snapshot.generation
        )
