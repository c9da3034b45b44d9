"""What the autopilot shows of itself, computed at each scrape."""

import math
from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from abfleet_autopilot.acts import Action
from abfleet_autopilot.deciding import MOST_E, standing
from abfleet_autopilot.notifying import ActNotifier
from abfleet_autopilot.pilot import Pilot


class AutopilotMetrics(Collector):
    """Lines, evidence and acts of one autopilot."""

    def __init__(self, pilot: Pilot, notifier: ActNotifier | None = None) -> None:
        self._pilot = pilot
        self._notifier = notifier

    def collect(self) -> Iterable[Metric]:
        """The families of this moment."""
        pilot, feed, core = self._pilot, self._pilot.feed, self._pilot.core
        lines = CounterMetricFamily("abfleet_autopilot_lines", "Log lines read, by result.", labels=["result"])
        wrong = sum(feed.counts.wrong_clock.values())
        for result, number in (
            ("taken", core.lines),
            ("late", feed.late),
            ("wrong_clock", wrong),
            ("unreadable", feed.counts.unreadable),
        ):
            lines.add_metric([result], number)
        yield lines
        labels = ["experiment", "action", "outcome"]
        acts = CounterMetricFamily("abfleet_autopilot_actions", "Acts on the experiments file.", labels=labels)
        # From 0 on, so that the first one is an increase.
        none = {(name, str(action), "edited"): 0 for name in core.evidence for action in Action}
        for key, number in (none | pilot.made.copy()).items():
            acts.add_metric([str(part) for part in key], number)
        yield acts
        yield CounterMetricFamily(
            "abfleet_autopilot_failures", "Tries to act that failed, and are made again.", pilot.failures
        )
        labels = ["experiment", "group", "guardrail"]
        evidence = GaugeMetricFamily("abfleet_autopilot_evidence", "E of a guardrail; it acts at 200.", labels=labels)
        holding = GaugeMetricFamily(
            "abfleet_autopilot_holding", "1 while something keeps traffic from climbing.", labels=["experiment"]
        )
        for name, one in list(core.evidence.items()):
            for kind, group, counts in standing(one):
                evidence.add_metric([name, group, kind], min(math.exp(min(counts.ln_e, 690.0)), MOST_E))
            decided = pilot.decided.get(name)
            holding.add_metric([name], float(decided is not None and bool(decided.holds)))
        yield evidence
        yield holding
        yield GaugeMetricFamily(
            "abfleet_autopilot_newest_line_timestamp_seconds", "Time of the newest line taken.", core.newest / 1e6
        )
        yield GaugeMetricFamily(
            "abfleet_autopilot_routers",
            "Routers with a line among the newest ten minutes.",
            core.routers.writing(core.newest),
        )
        if self._notifier is not None:
            yield GaugeMetricFamily(
                "abfleet_autopilot_notifications_pending",
                "Notifications that a receiver has not accepted yet.",
                self._notifier.pending,
            )
