"""What the file says of an experiment that is watched, as far as its evidence goes by it."""

from dataclasses import dataclass, field
from typing import Final

from abfleet_analysis.decision.excluded_time import NOTHING_EXCLUDED, ExcludedTime
from abfleet_analysis.decision.metrics import MetricRule, metric_rules
from abfleet_analysis.periods.deployment import Deployment, deployment_of
from abfleet_experiments.config import Config, ExcludedWindow, Experiment
from abfleet_statistics.outages import SECOND

BLOCK_SECONDS: Final = 120
"""Of blocks.py. A halt can be taken back, so that it may come sooner than the verdict of a report, which stays."""
BLOCK_US: Final = BLOCK_SECONDS * SECOND


@dataclass(frozen=True, slots=True)
class Watched:
    """An experiment that the autopilot watches.

    Attributes:
        groups: Names, control first. rules: Of guardrails that count bad events.
        horizon: Blocks that the second half of each stake is paid in over.
        absent_us: 0: no version is called absent.
        windows: Calls in these do not count; `exclude` is the same time.
    """

    name: str
    groups: tuple[str, ...]
    rules: tuple[MetricRule, ...]
    deployment: Deployment
    horizon: int
    absent_us: int
    windows: tuple[ExcludedWindow, ...] = ()
    exclude: ExcludedTime = field(compare=False, default=NOTHING_EXCLUDED)


def watched(config: Config, experiment: Experiment) -> Watched:
    """The experiment as it is watched; its autopilot must be there."""
    assert experiment.autopilot is not None
    names = [group.name for group in experiment.groups if group.name != experiment.control]
    groups = (experiment.control, *names)
    rules = metric_rules(experiment.metrics, experiment.plan, config.metrics, config.money)
    return Watched(
        name=experiment.name,
        groups=groups,
        rules=tuple(rule for rule in rules if rule.bad_event is not None),
        deployment=deployment_of(config, experiment, groups),
        horizon=max(int(experiment.plan.horizon.total_seconds()) // BLOCK_SECONDS, 1),
        absent_us=int(experiment.autopilot.absent.total_seconds()) * SECOND,
        windows=experiment.exclude,
        exclude=ExcludedTime.of(experiment.exclude),
    )
