"""Groups as Prometheus families: the share that each was given, and the outcomes of its users. Decides nothing.

They are for pictures and early hints. A conclusion is `abfleet analyze`'s: it counts users, knows what each was really
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
        """For /metrics."""
        outcomes = CounterMetricFamily(
            "abfleet_group_outcomes",
            "Accepted outcomes by the group that the file in force gives their user, without attributes: both empty "
            "where there is no user or no group. A hint, not a result: abfleet analyze is the truth.",
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
    """What the configuration in force gives each group."""
    share = GaugeMetricFamily(
        "abfleet_group_share",
        "Share of the experiment's users that the group has by the configuration in force, 0 to 1.",
        labels=["experiment", "group"],
    )
    for event in () if snapshot is None else snapshot.assigner.allocations:
        for group, weight_percent in event.weights.items():
            share.add_metric([event.experiment, group], weight_percent / PERCENT)
    yield share
