"""How often each verdict is reached, over many made-up experiments."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from abfleet_experiments.config import AnalysisPlan
from scipy.stats import binom

from abfleet_analysis.decision.decide import decide
from abfleet_analysis.decision.evidence import Evidence
from abfleet_analysis.decision.preference import PreferenceEvidence, judge_preference
from abfleet_analysis.decision.verdicts import Decision, GroupDecision, Verdict
from abfleet_analysis.simulation.interleaving_scenario import VERSIONS
from abfleet_analysis.simulation.scenarios import PLAN, Promise, Scenario

INTERVAL: str = "interval excludes 0"
PREFERS_BETTER: str = "prefer the better one"


@dataclass(frozen=True, slots=True)
class Characteristic:
    """One outcome of one scenario: how often it came, and what is promised.

    Attributes:
        kept: Whether the count is what the promise allows, or off by no more than chance would have it (99.9 %).
    """

    scenario: str
    promise: Promise
    runs: int
    count: int

    @property
    def share(self) -> float:
        """The share of runs with this outcome, 0 to 1."""
        return self.count / self.runs

    @property
    def standard_error(self) -> float:
        """The share's binomial standard error, sqrt(p (1 - p) / runs)."""
        return math.sqrt(self.share * (1 - self.share) / self.runs)

    @property
    def kept(self) -> bool:
        """Whether the count is within the promise, allowing for chance at 0.1 %."""
        if self.promise.most is not None and self.count > binom.ppf(0.999, self.runs, self.promise.most):
            return False
        return self.promise.least is None or self.count >= binom.ppf(0.001, self.runs, self.promise.least)


def runs_of(
    draw: Callable[[np.random.Generator], Evidence | PreferenceEvidence],
    *,
    runs: int,
    seed: int,
    plan: AnalysisPlan = PLAN,
) -> Iterator[Decision]:
    """The decisions of so many experiments; run number i depends on the seed and i alone."""
    for run in range(runs):
        drawn = draw(np.random.default_rng([seed, run]))
        if isinstance(drawn, PreferenceEvidence):
            yield judge_preference(drawn, plan, shown=False)[0]
        else:
            yield decide(drawn, plan, measured=False)


def outcomes(decision: Decision, *, any_group: bool) -> set[str]:
    """What came of an experiment: the first verdict other than keep running, on which its owner would have acted."""
    groups = [group for group in decision.groups if any_group or group.group == "experiment"]
    found = {str(first_verdict(group)) for group in groups} or {_first_preference(decision)}
    if not decision.groups and decision.version == VERSIONS[-1]:
        found.add(PREFERS_BETTER)
    if found & {Verdict.REFUSE, Verdict.CHECK_FIRST}:
        found.add("refuse or check_first")
    if any(np.nansum(group.always_excludes_zero) > 0 for group in groups):
        found.add(INTERVAL)
    return found


def first_verdict(group: GroupDecision) -> Verdict:
    """The first verdict of a treatment other than `keep_running`; its present verdict if there is none."""
    return next((verdict for verdict in group.history if verdict is not Verdict.KEEP_RUNNING), group.verdict)


def _first_preference(decision: Decision) -> str:
    """The same of an interleaving, which has no treatment."""
    return str(next((said for said, _ in decision.history if said is not Verdict.KEEP_RUNNING), decision.verdict))


def characteristics(scenario: Scenario, decisions: Sequence[Decision]) -> list[Characteristic]:
    """How often each promised outcome came, and all other verdicts of the treatment."""
    counted: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for decision in decisions:
        for any_group in counted:
            counted[any_group].update(outcomes(decision, any_group=any_group))
    promised = list(scenario.promises)
    named = {promise.outcome for promise in promised}
    promised += [Promise(str(verdict)) for verdict in Verdict if verdict not in named and counted[False][verdict]]
    return [
        Characteristic(scenario.name, promise, len(decisions), counted[promise.any_group][promise.outcome])
        for promise in promised
    ]
