"""/metrics: what is shown parses, is named as documented, and adds up to the calls that were made."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import cast

import pytest
from abfleet_experiments.assign import Arm
from abfleet_log.writer.decision_log import DecisionLog, LogCounters
from abfleet_router.admin import fleet_metrics
from abfleet_router.fleet.health_watch import ReplicaHealth
from abfleet_router.metrics import ArmStats, RouterMetrics
from abfleet_router.settings import RoutingSettings
from abfleet_transport.call import Code
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.router.bench import Bench
from tests.router.fakes import broken


class CountingLog:
    """A decision log that has counters and no file."""

    counters = LogCounters(lines=12, dropped=1, written=9, failed=1)
    buffered = 4
    failing = True


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """An open bench that sheds past 40 calls."""
    one = Bench(settings=RoutingSettings(name="router-1", max_waiting_calls=40))
    await one.open()
    yield one
    await one.close()


def scrape(bench: Bench) -> dict[str, Metric]:
    """What Prometheus would read, by family."""
    registry = CollectorRegistry()
    registry.register(bench.rpc)
    if bench.fleet.pools:
        log = cast(DecisionLog, CountingLog())
        bench.metrics.register(lambda: fleet_metrics.families(bench.fleet, log, bench.router))
    registry.register(bench.metrics)
    text = generate_latest(registry).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def total(family: Metric, name: str | None = None) -> float:
    """The sum over all labels of the samples of this name."""
    return sum(sample.value for sample in family.samples if sample.name == (name or f"{family.name}_total"))


async def busy(bench: Bench) -> int:
    """Calls of every kind; gives their number."""
    calls = [bench.call(user, [n], request_id=f"{user}{n}") for n in range(7) for user in ("on-v1", "on-v2", "on-v3")]
    await bench.arrive(*calls)
    await bench.fail("v3", broken())
    await bench.answer("v2", {0: (Code.INTERNAL, "a fault")})
    bench.router.on_cancelled(calls[0])
    bench.clock.advance(0.1)
    await bench.run_dry()
    late = [bench.call("on-v1", seconds=0.0), bench.call("wrong\x00"), bench.call("", limit=-1)]
    await bench.arrive(*late)
    crowd = [bench.call(f"user-{n}") for n in range(50)]
    await bench.arrive(*crowd)
    await bench.run_dry()
    return len(calls) + len(late) + len(crowd)


async def test_sums_agree(bench: Bench) -> None:
    """Every call is in each family once: by RPC status, by assignment, in the durations, and in the log."""
    count = await busy(bench)
    got = scrape(bench)
    lines = Counter(line["status"] for line in bench.log.exposures())
    rejected = sum(line["event"] == "rejected" for line in bench.log.lines)
    assert rejected == total(got["abfleet_rejected"]) == 2
    by_status: Counter[str] = Counter()
    for sample in got["abfleet_requests"].samples:
        by_status[sample.labels["status"]] += int(sample.value)
    assert by_status == lines
    assert {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"} <= set(by_status)
    assert total(got["abfleet_requests"]) == count - rejected
    assert total(got["abfleet_request_duration_seconds"], "abfleet_request_duration_seconds_count") == count - rejected
    assert total(got["abfleet_added_latency_seconds"], "abfleet_added_latency_seconds_count") == lines["OK"]
    assert total(got["grpc_requests"]) == count
    assert total(got["grpc_request_duration_seconds"], "grpc_request_duration_seconds_count") == count
    assert total(got["grpc_requests_in_progress"], "grpc_requests_in_progress") == 0
    assert total(got["abfleet_shed"]) == lines["RESOURCE_EXHAUSTED"] == 10
    assert total(got["abfleet_retries"]) == bench.metrics.retries


async def test_fallbacks_are_told_by_group_and_reason(bench: Bench) -> None:
    """The counter agrees with the lines of the log, by group and reason."""
    await busy(bench)
    lines = Counter((line["group"], line["fallback"]) for line in bench.log.exposures() if line["fallback"] is not None)
    shown = {
        (sample.labels["group"], sample.labels["reason"]): sample.value
        for sample in scrape(bench)["abfleet_fallbacks"].samples
    }
    assert shown == lines
    assert lines[("canary", "unavailable")] >= 6


async def test_the_state_of_the_fleet(bench: Bench) -> None:
    """Each replica with its state; ejections that were due and that were made; the log's counters; the revision."""
    await busy(bench)
    bench.replica("v2", 0).becomes(ReplicaHealth.NOT_SERVING)
    got = scrape(bench)
    replicas = {
        (sample.labels["version"], sample.labels["address"]): sample.value
        for sample in got["abfleet_replica_in"].samples
    }
    assert len(replicas) == 5
    assert replicas[("v2", "10.0.1.1:1")] == 0
    assert replicas[("v2", "10.0.1.2:1")] == 1
    assert replicas[("v3", "10.0.2.1:1")] == 0, "its connection broke"
    for family in ("abfleet_ejections_detected", "abfleet_ejections_enforced"):
        assert {sample.labels["version"]: sample.value for sample in got[family].samples} == {"v1": 0, "v2": 0, "v3": 1}
    assert total(got["abfleet_waiting_calls"], "abfleet_waiting_calls") == 0
    assert total(got["abfleet_decision_log_lines"]) == 9
    assert total(got["abfleet_decision_log_dropped"]) == 2, "dropped or failed, a line is in no file"
    assert total(got["abfleet_decision_log_buffered"], "abfleet_decision_log_buffered") == 4
    assert total(got["abfleet_decision_log_failing"], "abfleet_decision_log_failing") == 1
    (info,) = got["abfleet_config_info"].samples
    assert info.labels == {"revision": bench.config.revision}


async def test_batch_sizes(bench: Bench) -> None:
    """How many calls shared a batch: the sum is what workers were sent, the buckets count batches."""
    await bench.arrive(*(bench.call("on-v3") for _ in range(5)))
    await bench.run_dry()
    await bench.arrive(bench.call("on-v3"))
    await bench.run_dry()
    family = scrape(bench)["abfleet_batch_size"]
    assert total(family, "abfleet_batch_size_sum") == 6
    buckets = {sample.labels["le"]: sample.value for sample in family.samples if sample.name.endswith("_bucket")}
    assert (buckets["1"], buckets["4"], buckets["8"], buckets["+Inf"]) == (1, 1, 2, 2)


async def test_reading_changes_nothing(bench: Bench) -> None:
    """Two scrapes show the same."""
    await busy(bench)
    registry = CollectorRegistry()
    registry.register(bench.metrics)
    assert generate_latest(registry) == generate_latest(registry)


def test_nothing_has_happened_yet() -> None:
    """Before the first call and the first configuration everything is there that has no label, at zero."""
    got = scrape(Bench())
    for name in ("abfleet_rejected", "abfleet_shed", "abfleet_retries", "abfleet_reload_failures", "abfleet_reloads"):
        assert total(got[name]) == 0


def test_counts_of_an_arm_live_on() -> None:
    """The same group under another configuration goes on counting; another version of it counts apart."""
    metrics = RouterMetrics()
    arm = Arm(3, "default", "ranking", "canary", "allocated", "a1", 0.1, "v3")
    stats = metrics.arm(arm)
    assert metrics.arm(Arm(0, "default", "ranking", "canary", "override", "a2", 0.2, "v3")) is stats
    assert metrics.arm(Arm(3, "default", "ranking", "canary", "allocated", "a1", 0.1, "v4")) is not stats


def test_errors_of_an_arm_are_what_did_not_end_well() -> None:
    """A fallback that answered is no error."""
    stats = ArmStats("ranking", "canary", "v3")
    stats.ok = 5
    stats.others = {("v1", int(Code.OK)): 2, ("", int(Code.UNAVAILABLE)): 3, ("", int(Code.CANCELLED)): 1}
    assert (stats.calls, stats.errors) == (11, 4)
