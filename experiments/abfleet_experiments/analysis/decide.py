"""The conclusion: a pure function of sums over users and the plan, replayed look by look. Knows no log and no clock.

For each treatment against control, the first that applies:

1. roll back: a guardrail's e-process has reached 1/0.005;
2. refuse: the data is broken;
3. roll back: the primary metric has crossed the boundary for harm;
4. ship: after the plan's minimum, if the primary metric has crossed its boundary, every guardrail is better than its
   margin, and no metric has crossed its boundary for harm; or check first, if that is too good to be true;
5. stop without effect at the planned users, unless the primary metric is ahead by so much that it may still cross;
   inconclusive at the horizon; else keep running.

The rule for shipping is Spotify's (Schultzberg, Ankargren & Frånberg, arXiv 2402.11609).
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from abfleet_experiments.analysis import guardrails, srm
from abfleet_experiments.analysis.confidence_sequence import enough, half_width
from abfleet_experiments.analysis.effects import Comparison, compare, contrast_z
from abfleet_experiments.analysis.evidence import BadEvents, Evidence, MetricEvidence
from abfleet_experiments.analysis.faults import (
    SampleRatioPath,
    before_fault,
    log_faults,
    sample_ratio_path,
    sample_ratio_reason,
)
from abfleet_experiments.analysis.lookwise import LookwiseTest
from abfleet_experiments.analysis.metrics import MetricRule, Source
from abfleet_experiments.analysis.moments import Floats
from abfleet_experiments.analysis.planning import GUARDRAIL_ALPHA, days_left, margin, margin_z, planned_users
from abfleet_experiments.analysis.reasons import Reasons
from abfleet_experiments.analysis.sequential import quantile, two_sided_p, upper
from abfleet_experiments.analysis.verdicts import PRECEDENCE, Decision, GroupDecision, MetricResult, Verdict
from abfleet_experiments.config import AnalysisPlan

ALPHA: Final = 0.025
"""One-sided, for the primary metric; divided by the number of treatments, for shipping and for harm alike."""
HARM_ALPHA: Final = 0.01
"""One-sided, for any metric to be worse; then nothing is shipped."""
TWYMAN_FACTOR: Final = 5.0
"""A lift above this many times the planned effect is more often a mistake than a success (Twyman's law)."""


def decide(evidence: Evidence, plan: AnalysisPlan, *, measured: bool = True) -> Decision:
    """What to do, why, and what would have been said at each look.

    Without `measured` the groups' tables of metrics stay empty, which saves the boundaries that no verdict needs.
    """
    ratio = sample_ratio_path(evidence)
    # A group that was ramped down to nothing is still judged by the users it had.
    present = (evidence.weights > 0) | (evidence.users[-1] > 0)
    treatments = [index for index in range(1, len(evidence.groups)) if present[index]]
    alpha = ALPHA / max(len(treatments), 1)
    groups = tuple(_Judge(evidence, plan, index, alpha, ratio).decision(measured=measured) for index in treatments)
    looks = evidence.calendar.done
    history = tuple(_experiment_verdict([(g, g.history[look]) for g in groups], look) for look in range(looks))
    verdict, name = _experiment_verdict([(g, g.verdict) for g in groups], -1)
    reasons = next((g.reasons for g in groups if g.group == name), groups[0].reasons if groups else ())
    if not groups:
        reasons = ("no group besides control has a share of the users, so there is nothing to compare",)
    elif name is None:
        reasons = next(g.reasons for g in groups if g.verdict is verdict)
    planned = max((g.users_planned for g in groups), default=math.nan)
    return Decision(
        verdict=verdict,
        group=name,
        reasons=reasons,
        history=history,
        groups=groups,
        sample_ratio=ratio.last,
        users_planned=planned,
        days_left=days_left(evidence, planned),
    )


def _experiment_verdict(found: list[tuple[GroupDecision, Verdict]], time: int) -> tuple[Verdict, str | None]:
    if not found:
        return Verdict.KEEP_RUNNING, None
    verdict = min((verdict for _, verdict in found), key=PRECEDENCE.index)
    groups = [group for group, its in found if its is verdict]
    if verdict in (Verdict.ROLL_BACK, Verdict.CHECK_FIRST):
        return verdict, groups[0].group
    if verdict is Verdict.SHIP:
        return verdict, max(groups, key=lambda group: group.lifts[time]).group
    return verdict, groups[0].group if len(groups) < len(found) or len(found) == 1 else None


@dataclass(frozen=True, slots=True)
class _Measured:
    """One metric of one treatment, at each time."""

    rule: MetricRule
    comparison: Comparison
    test: LookwiseTest | None  # the primary metric's for shipping, a guardrail's for being better than its margin
    harm: LookwiseTest | None


class _Judge:
    """Judges one treatment. Made, asked once, dropped."""

    def __init__(
        self, evidence: Evidence, plan: AnalysisPlan, group: int, alpha: float, ratio: SampleRatioPath
    ) -> None:
        self._evidence = evidence
        self._plan = plan
        self._group = group
        self._ratio = ratio
        self._alpha = alpha
        calendar = evidence.calendar
        self._looks = calendar.done
        self._fractions = tuple(look / calendar.planned for look in range(1, calendar.done + 1))
        self._measured = [self._measure(metric) for metric in evidence.metrics]
        self._primary = next(m for m in self._measured if m.rule.role == "primary")
        self._guardrails = [m for m in self._measured if m.rule.role == "guardrail"]
        self._losing = LookwiseTest(alpha, self._fractions, self._primary.comparison, -self._z(self._primary))
        self._log_e = {name: self._log_e_path(events) for name, events in evidence.bad_events.items()}
        self._planned = planned_users(evidence, plan, alpha, self._primary.comparison, self._held())

    def decision(self, *, measured: bool) -> GroupDecision:
        """The treatment's verdict, with every look's."""
        history: list[Verdict] = []
        crossed: Verdict | None = None
        before = before_fault(self._evidence, self._primary.rule, self._group)
        for look in range(self._looks):
            verdict, crossed = self._at(look, crossed, before)
            history.append(verdict)
        reasons = Reasons(self._evidence, self._plan, self._group)
        verdict = self._now(history, crossed, before, reasons)
        return GroupDecision(
            group=self._evidence.groups[self._group],
            verdict=verdict,
            reasons=reasons.sentences(),
            history=tuple(history),
            users_planned=float(self._planned[-1]),
            metrics=tuple(self._result(metric) for metric in self._measured) if measured else (),
            lifts=self._primary.rule.sign * self._primary.comparison.difference,
            always_excludes_zero=self._always_excludes_zero(),
        )

    def _held(self) -> list[tuple[MetricRule, Comparison]]:
        return [(guardrail.rule, guardrail.comparison) for guardrail in self._guardrails]

    # --- what is measured ---------------------------------------------------------------------------------------------

    def _measure(self, metric: MetricEvidence) -> _Measured:
        rule = metric.rule
        comparison = compare(
            metric.moments,
            self._evidence.membership,
            self._group,
            estimator=rule.estimator,
            quantile=metric.quantile,
        )
        better = contrast_z(comparison, sign=rule.sign)
        test = None
        if rule.role == "primary":
            test = LookwiseTest(self._alpha, self._fractions, comparison, better)
        elif rule.role == "guardrail":
            test = LookwiseTest(GUARDRAIL_ALPHA, self._fractions, comparison, margin_z(rule, comparison))
        descriptive = rule.source is Source.FALLBACKS  # control cannot fall back
        harm = None if descriptive else LookwiseTest(HARM_ALPHA, self._fractions, comparison, -better)
        return _Measured(rule, comparison, test, harm)

    @staticmethod
    def _z(measured: _Measured) -> Floats:
        return contrast_z(measured.comparison, sign=measured.rule.sign)

    def _log_e_path(self, events: BadEvents) -> Floats:
        """ln E of a guardrail at each time, as the highest that it has been: float64[times]."""
        pair = events.shares[:, [0, self._group]]
        usable = (pair > 0).all(axis=1)
        share = pair[usable, 1] / pair[usable].sum(axis=1)
        counts = events.counts[usable]
        path = np.maximum.accumulate(
            np.concatenate([[0.0], guardrails.log_e_process(counts[:, self._group], counts[:, 0], share)])
        )
        steps = np.searchsorted(events.time[usable], np.arange(self._looks + 1), side="right")
        return np.asarray(path[steps])

    # --- the verdict at a look ----------------------------------------------------------------------------------------

    def _at(self, look: int, crossed: Verdict | None, before: str | None) -> tuple[Verdict, Verdict | None]:
        """The verdict at a look, and which boundary has been crossed by then."""
        if self._acting(look):
            return Verdict.ROLL_BACK, crossed
        if self._ratio.broken[look]:
            return Verdict.REFUSE, crossed
        if crossed is None:
            crossed = self._crossing(look)
        if crossed is Verdict.ROLL_BACK:
            return crossed, crossed
        if crossed is Verdict.SHIP:
            return self._qualified(look, before), crossed
        if self._evidence.users[look].sum() >= self._planned[look] > 0 and not self._promising(look):
            return Verdict.STOP_NO_EFFECT, crossed
        last = look + 1 == self._evidence.calendar.planned
        return Verdict.INCONCLUSIVE if last else Verdict.KEEP_RUNNING, crossed

    def _acting(self, time: int) -> list[str]:
        threshold = -math.log(guardrails.ALPHA)
        return [name for name, log_e in self._log_e.items() if log_e[time] >= threshold]

    def _crossing(self, look: int) -> Verdict | None:
        if self._losing.crosses(look):
            return Verdict.ROLL_BACK
        ships = (
            look + 1 >= self._evidence.calendar.first_shipping
            and self._primary_crosses(look)
            and all(m.test is not None and m.test.crosses(look) for m in self._guardrails)
            and not self._harmed(look)
        )
        return Verdict.SHIP if ships else None

    def _primary_crosses(self, look: int) -> bool:
        return self._primary.test is not None and self._primary.test.crosses(look)

    def _promising(self, look: int) -> bool:
        """Whether the primary metric would pass if the horizon were here, where the boundary is lowest.

        Alpha is spent by calendar, so users who come faster than planned meet a boundary that is still high.
        """
        return self._primary.test is not None and bool(self._primary.test.z[look] >= upper(self._alpha))

    def _harmed(self, look: int) -> list[str]:
        return [m.rule.name for m in self._measured if m.harm is not None and m.harm.crosses(look)]

    def _qualified(self, time: int, before: str | None) -> Verdict:
        """Ship, unless that is too good to be true, or the groups were different before."""
        if before is not None:
            return Verdict.REFUSE
        return Verdict.CHECK_FIRST if self._too_good(time) or self._suspicious(time) else Verdict.SHIP

    def _too_good(self, time: int) -> bool:
        lift = self._primary.rule.sign * self._primary.comparison.relative_difference[time]
        return bool(lift > TWYMAN_FACTOR * self._plan.effect)

    def _suspicious(self, time: int) -> bool:
        return bool(self._ratio.p[time] < srm.ALPHA_AT_SHIPPING)

    # --- the verdict now ----------------------------------------------------------------------------------------------

    def _now(self, history: list[Verdict], crossed: Verdict | None, before: str | None, reasons: Reasons) -> Verdict:
        """The verdict of the last look, unless the data since then, or the log as a whole, says otherwise."""
        faults = log_faults(self._evidence)
        if self._ratio.broken[-1]:
            faults.insert(0, sample_ratio_reason(self._evidence.groups, self._ratio.last))
        if acting := self._acting(-1):
            for name in acting:
                reasons.guardrail_acts(name, self._log_e[name][-1], self._evidence.bad_events[name])
            reasons.faults_beside(faults)
            return Verdict.ROLL_BACK
        if faults:
            reasons.faults(faults)
            return Verdict.REFUSE
        primary = self._primary
        if crossed is Verdict.ROLL_BACK:
            reasons.harm(primary.rule, primary.comparison)
            return crossed
        if crossed is Verdict.SHIP:
            return self._shipping(before, reasons)
        verdict = history[-1] if history else Verdict.KEEP_RUNNING
        if verdict is Verdict.KEEP_RUNNING:
            reasons.keep_running(primary.rule, primary.comparison, float(self._planned[-1]))
            reasons.held_back(self._held_back())
        elif verdict is Verdict.STOP_NO_EFFECT:
            reasons.no_effect(primary.rule, primary.comparison, float(self._planned[-1]))
            reasons.held_back(self._held_back())
        else:
            reasons.inconclusive(primary.rule, primary.comparison, float(self._planned[-1]))
            reasons.held_back(self._held_back())
        return verdict

    def _shipping(self, before: str | None, reasons: Reasons) -> Verdict:
        primary = self._primary
        verdict = self._qualified(-1, before)
        if before is not None:
            reasons.faults([before])
            return verdict
        if self._too_good(-1):
            reasons.too_good(primary.rule, primary.comparison)
        if self._suspicious(-1):
            reasons.suspicious(self._ratio.last)
        reasons.better(primary.rule, primary.comparison, [m.rule.name for m in self._guardrails])
        return verdict

    def _held_back(self) -> list[str]:
        """Why a primary metric that has crossed is not shipped at the last look."""
        look = self._looks - 1
        if look < 0 or not self._primary_crosses(look):
            return []
        if look + 1 < self._evidence.calendar.first_shipping:
            return [f"{self._primary.rule.name} is ahead, and the plan's minimum has not passed"]
        waiting = [m.rule.name for m in self._guardrails if m.test is not None and not m.test.crosses(look)]
        worse = [f"{name} is worse" for name in self._harmed(look)]
        return [f"{name} is not yet shown to be within its margin" for name in waiting] + worse

    # --- the report ---------------------------------------------------------------------------------------------------

    def _result(self, measured: _Measured) -> MetricResult:
        comparison, rule = measured.comparison, measured.rule
        difference, error = float(comparison.difference[-1]), float(comparison.standard_error[-1])
        z = float(measured.test.z[-1] if measured.test is not None else self._z(measured)[-1])
        shown = measured.test or measured.harm
        boundary = shown.boundary(self._looks - 1) if shown is not None and self._looks else math.nan
        plain = float(contrast_z(comparison)[-1])
        half = error * quantile(0.975)
        wide = float(self._sequential_half_width(comparison)[-1])
        log_e = self._log_e.get(rule.name)
        _, points = margin(rule, comparison)
        baseline = float(comparison.baseline[-1])
        offset = abs(float(points[-1]))
        return MetricResult(
            rule=rule,
            group=self._evidence.groups[self._group],
            users=float(comparison.users[-1]),
            baseline_users=float(comparison.baseline_users[-1]),
            value=float(comparison.value[-1]),
            baseline_value=baseline,
            difference=difference,
            relative_difference=float(comparison.relative_difference[-1]),
            standard_error=error,
            interval=(difference - half, difference + half),
            p_value=float(two_sided_p(plain)) if error > 0 else math.nan,
            margin=rule.margin if not offset else offset / abs(baseline) if baseline else math.nan,
            z=z,
            boundary=boundary,
            e_value=math.nan if log_e is None else float(np.exp(min(log_e[-1], 700.0))),
            sequential_interval=(difference - wide, difference + wide),
        )

    def _sequential_half_width(self, comparison: Comparison) -> Floats:
        """Half the always-valid interval: float64[times]; nan before the normal limit can be trusted."""
        users = comparison.users + comparison.baseline_users
        everyone = self._evidence.users[-1].sum()
        part = users[-1] / everyone if everyone else math.nan
        width = half_width(comparison.standard_error, users, float(self._planned[-1] * part))
        return np.where(enough(comparison.nonzero, comparison.baseline_nonzero), width, np.nan)

    def _always_excludes_zero(self) -> Floats:
        comparison = self._primary.comparison
        with np.errstate(invalid="ignore"):
            return np.asarray(np.abs(comparison.difference) > self._sequential_half_width(comparison), np.float64)
