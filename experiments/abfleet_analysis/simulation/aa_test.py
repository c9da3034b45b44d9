"""A/A tests: a real log's users, dealt at random to groups that do not differ, many times over.

What users did stays, whom they are compared with is drawn anew. Any effect that is found is a false one, so this tests
the whole of the statistics on data as it really is: heavy users, ties, days of the week.

Limits: users of the experiment's largest allocation; quantiles are left out, as they need every call again in each run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from abfleet_experiments.config import Config, Experiment
from abfleet_process.counting import counted
from abfleet_statistics.moments import Floats, from_sums
from abfleet_statistics.sequential import two_sided_p
from numpy.typing import NDArray
from scipy.stats import binom, kstest

from abfleet_analysis.decision.decide import decide
from abfleet_analysis.decision.evidence import BadEvents, DataQuality, Evidence, MetricEvidence
from abfleet_analysis.decision.metrics import BadEvent, MetricSource, metric_rules, uneven
from abfleet_analysis.decision.verdicts import Verdict
from abfleet_analysis.evidence.log_lines import read_lines
from abfleet_analysis.evidence.metric_sums import UserChanges, user_changes
from abfleet_analysis.evidence.sums import PRODUCTS, third_moments
from abfleet_analysis.periods.allocation_periods import moment
from abfleet_analysis.reading.clocks import with_right_clocks
from abfleet_analysis.reading.open_log import open_log
from abfleet_analysis.reading.survey import survey_of
from abfleet_analysis.simulation.simulate import INTERVAL, first_verdict

FEWEST_USERS: Final = 100
PROMISES: Final = {str(Verdict.SHIP): 0.025, str(Verdict.ROLL_BACK): 0.055, INTERVAL: 0.05}
"""The largest share of runs in which any treatment may have the outcome; rolling back has two ways to go wrong."""


class AaError(Exception):
    """The log has too few users for an A/A test, or the primary metric is a quantile."""


@dataclass(frozen=True, slots=True)
class AaResult:
    """How often each outcome came in all runs.

    Attributes:
        counts: Runs with an outcome, in any treatment.
        uniform_p: Of the Kolmogorov-Smirnov test that the fixed-sample p-values are uniform, as they must be.
        metric: The primary one.
    """

    runs: int
    users: int
    looks: int
    metric: str
    counts: dict[str, int]
    uniform_p: float

    @property
    def kept(self) -> bool:
        """Whether each count is as promised, allowing for chance at 0.1 %."""
        within = all(self.counts[name] <= binom.ppf(0.999, self.runs, most) for name, most in PROMISES.items())
        return bool(within and self.uniform_p >= 0.001)

    def as_dict(self) -> dict[str, object]:
        """The result as the JSON document of `abfleet simulate --aa --json`."""
        shares = {name: count / self.runs for name, count in self.counts.items()}
        return {
            "runs": self.runs,
            "users": self.users,
            "looks": self.looks,
            "metric": self.metric,
            "shares": shares,
            "uniform_p": self.uniform_p,
            "kept": self.kept,
        }

    def sentences(self) -> list[str]:
        """The result as lines for people, each count beside its promise."""
        lines = [
            (
                f"{counted(self.runs, 'random assignment')} of {counted(self.users, 'user')} over "
                f"{counted(self.looks, 'look')}, with no difference:"
            )
        ]
        for name, count in self.counts.items():
            promise = f"promised: at most {PROMISES[name]:.1%}" if name in PROMISES else ""
            lines.append(f"  {name:<22}{count / self.runs:>8.2%}  {promise}".rstrip())
        lines.append(
            f"  p-values of {self.metric} are {'' if self.uniform_p >= 0.001 else 'NOT '}uniform "
            f"(Kolmogorov-Smirnov p = {self.uniform_p:.2g})"
        )
        return [*lines, "kept" if self.kept else "NOT KEPT"]


def aa_test(
    paths: Sequence[Path],
    config: Config,
    experiment: Experiment,
    *,
    runs: int,
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> AaResult:
    """Deals the users of an experiment's log so many times. Raises LogError and AaError."""
    rules = [
        rule
        for rule in metric_rules(
            experiment.metrics, experiment.plan, config.metrics, config.money, uneven_groups=uneven(experiment)
        )
        if rule.source is not MetricSource.TIME_QUANTILE
    ]
    if not any(rule.role == "primary" for rule in rules):
        raise AaError(f"{experiment.metrics.primary} is a quantile; an A/A test needs another primary metric")
    with open_log(paths) as log:
        log, clocks = with_right_clocks(log, until_newest=True)
        survey = survey_of(log)
        last = survey.newest
        if last is None:
            raise AaError("the log has no readable lines")
        changes = user_changes(
            read_lines(log, last, survey, clocks), experiment.name, experiment, rules, experiment.plan, moment(last)
        )
    if changes is None or changes.users < FEWEST_USERS:
        found = 0 if changes is None else changes.users
        raise AaError(f"the log has {counted(found, 'user')} of {experiment.name}; at least {FEWEST_USERS} are needed")
    weights = np.array([experiment.group(name).weight_bp for name in changes.groups if _filed(experiment, name)]) / 1e4
    groups = tuple(name for name in changes.groups if _filed(experiment, name))
    counts = dict.fromkeys((*PROMISES, str(Verdict.REFUSE), str(Verdict.CHECK_FIRST)), 0)
    p_values: list[float] = []
    for run in range(runs):
        dealt = np.random.default_rng([seed, run]).choice(len(weights), size=changes.users, p=weights / weights.sum())
        evidence = _evidence(changes, dealt, groups, weights)
        decision = decide(evidence, experiment.plan)
        found_here = {str(first_verdict(group)) for group in decision.groups}
        first = decision.groups[0]
        if np.nansum(first.always_excludes_zero) > 0:
            found_here.add(INTERVAL)
        for name in found_here & set(counts):
            counts[name] += 1
        primary = first.metrics[0]
        if primary.standard_error > 0:
            p_values.append(float(two_sided_p(primary.difference / primary.standard_error)))
        advance()
    uniform = float(kstest(p_values, "uniform").pvalue) if p_values else 1.0
    looks = changes.looks.calendar.done
    return AaResult(runs, changes.users, looks, experiment.metrics.primary, counts, uniform)


def _filed(experiment: Experiment, name: str) -> bool:
    return any(group.name == name and group.weight_bp for group in experiment.groups)


def _evidence(changes: UserChanges, dealt: NDArray[np.int64], groups: tuple[str, ...], weights: Floats) -> Evidence:
    times, width = len(changes.looks.times), len(groups)
    cell = changes.look * width + dealt[changes.user]

    def summed(column: Floats) -> Floats:
        daily = np.bincount(cell, weights=column, minlength=times * width).reshape(times, 1, width)
        return np.asarray(daily.cumsum(axis=0))

    users = summed(changes.entered)
    metrics, bad_events = [], {}
    for rule in changes.rules:
        sums = {part: summed(column) for part, column in changes.parts[rule.name].items()}
        moments = from_sums([users, *(sums[part] for part in PRODUCTS)], third=third_moments(sums))
        metrics.append(MetricEvidence(rule, moments))
        if rule.bad_event is BadEvent.ERROR:
            firsts = np.diff(sums["nonzero"][:, 0], axis=0, prepend=0.0)
            bad_events[rule.name] = BadEvents(np.arange(times), firsts, np.broadcast_to(weights, firsts.shape))
    return Evidence(
        groups=groups,
        weights=weights,
        calendar=changes.looks.calendar,
        membership=np.ones((times, 1, 1)),
        shares=np.broadcast_to(weights, (times, 1, width)),
        new_users=users,
        users=users[:, 0],
        metrics=tuple(metrics),
        bad_events=bad_events,
        quality=DataQuality(users=changes.users),
    )
