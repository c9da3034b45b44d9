"""Groups as Prometheus families: the configured share of each, and the outcomes of its users. Decides nothing.

They are for dashboards and early hints. Conclusions come from `abfleet analyze`: it counts users, knows what each was
assigned when, counts an outcome once over all routers and restarts, and waits until its window is over.
"""

from collections import Counter
from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from abfleet_router.configuration.snapshot import Snapshot

PERCENT = 100


class GroupOutcomes:
    """Accepted outcomes by (experiment, group, type). Changed only by Feedback."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str, str]] = Counter()

    def families(self) -> Iterable[Metric]:
        """The counts as a Prometheus family, read at each scrape."""
        outcomes = CounterMetricFamily(
            "abfleet_group_outcomes",
            "Accepted outcomes by type and by the group that the configuration in force gives the user id; both labels "
            "are empty without a group. For results use abfleet analyze, which counts users.",
            labels=["experiment", "group", "type"],
        )
        for labels, count in sorted(self.counts.items()):
            outcomes.add_metric(list(labels), count)
        yield outcomes


def group_of(snapshot: Snapshot, user_id: str) -> tuple[str, str]:
    """(experiment, group) of a user of whom no more than the id is known; ("", "") where no experiment takes it.

    An outcome does not have the attributes of its request, so users of experiments with an audience are in none.
    """
    arm, _ = snapshot.assigner.assign(user_id, {})
    return arm.experiment or "", arm.group or ""


def shares(snapshot: Snapshot | None) -> Iterable[Metric]:
    """The share that the configuration in force gives each group, as a Prometheus family."""
    share = GaugeMetricFamily(
        "abfleet_group_share",
        "Configured share of the experiment's users that the group gets, 0 to 1.",
        labels=["experiment", "group"],
    )
    for allocation in () if snapshot is None else snapshot.assigner.allocations:
        for group, weight_percent in allocation.weights.items():
            share.add_metric([allocation.experiment, group], weight_percent / PERCENT)
    yield share
