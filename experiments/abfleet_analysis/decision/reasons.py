"""The sentences of a conclusion; judge.py decides which of them apply."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
from abfleet_experiments.config import AnalysisPlan
from abfleet_process.counting import counted, listed
from abfleet_statistics import guardrails
from abfleet_statistics.confidence_sequence import enough
from abfleet_statistics.effects import Comparison
from abfleet_statistics.lookwise import LookwiseTest
from abfleet_statistics.score_test import MOST_SKEWED, NullMoments

from abfleet_analysis.decision.evidence import ABSENT_MINUTES, Answers, Evidence, PairOutages
from abfleet_analysis.decision.guardrail_paths import GuardrailPath
from abfleet_analysis.decision.metrics import BadEvent, MetricRule, MetricSource
from abfleet_analysis.decision.verdicts import SampleRatio

MINUTE_US: Final = 60_000_000
MOST_LISTED: Final = 3
"""Outages that a sentence names with their times; the report has all of them."""


class Reasons:
    """Collects the sentences of one treatment. Changed only while its verdict is made."""

    def __init__(
        self,
        evidence: Evidence,
        plan: AnalysisPlan,
        group: int,
        always: tuple[float, float] = (math.nan, math.nan),
    ) -> None:
        """always: The ends of the primary metric's always-valid interval, relative to control."""
        self._evidence = evidence
        self._plan = plan
        self._group = group
        self._name = evidence.groups[group]
        self._always = always
        self._sentences: list[str] = []

    def sentences(self) -> tuple[str, ...]:
        """The sentences so far, the deciding one first."""
        return tuple(self._sentences)

    def guardrail_acts(self, metric: str, path: GuardrailPath) -> None:
        """A guardrail's e-process has reached its threshold."""
        events = self._evidence.bad_events[metric]
        acts = f"E = {_large(path.log_e[-1])}; the guardrail acts at 200"
        bad = {self._group: events.counts[:, self._group].sum(), 0: events.control_of(self._group).sum()}
        if path.absent is None:
            users = self._evidence.users[-1] if self._evidence.ever is None else self._evidence.ever
            mine, controls = (f"{bad[one]:,.0f} of {counted(users[one], 'user')}" for one in (self._group, 0))
            self._say(
                f"{metric} guardrail: {mine} in {self._name} had a bad event, against {controls} in "
                f"{self._evidence.groups[0]}; at most 1.25 times control's rate is tolerated ({acts}){_capped(path)}"
            )
            return
        pair = self._evidence.outages[self._group]
        self._say(
            f"{metric} guardrail: {self._name} {_which_half(path.wrong, path.absent)} more often than tolerated "
            f"({acts})"
        )
        weights = self._evidence.weights[[0, self._group]]
        share = weights[1] / weights.sum() if math.isnan(path.share) else path.share
        left_out = f"; {counted(pair.left_out, 'timeout')} near outages left out" if pair.left_out else ""
        self._say(
            f"wrong answers and timeouts affected {counted(bad[self._group], 'user')} of {self._name} and "
            f"{bad[0]:,.0f} of {self._evidence.groups[0]}; {share:.1%} of these users are expected "
            f"in {self._name} (E = {_large(path.wrong)}){left_out}{_capped(path)}"
        )
        self._say(_outages(pair, path.absent, self._name, self._evidence.groups[0]))

    def absent(self, answers: Answers) -> None:
        """The treatment answers nothing, and control does."""
        since, lost = answers.since_us.get(self._group), answers.lost.get(self._group, 0)
        when = "" if since is None else f" since {_time(since)}"
        self._say(
            f"{self._name} is absent{when}: it has answered none of {counted(lost, 'call')}, while "
            f"{self._evidence.groups[0]} answered {answers.answered[-1, 0]:,.0f} of "
            f"{counted(answers.calls[-1, 0], 'call')} in the last {ABSENT_MINUTES} minutes"
        )

    def service_out(self, answers: Answers) -> None:
        """Neither the treatment nor control answers, which is no verdict on the treatment."""
        self._say(
            f"service outage: neither {self._name} nor {self._evidence.groups[0]} has answered any of "
            f"{counted(answers.calls[-1, [0, self._group]].sum(), 'call')} in the last {ABSENT_MINUTES} minutes; "
            f"this is no evidence against {self._name}"
        )

    def faults(self, faults: Sequence[str]) -> None:
        """One sentence for each fault of the data, for the verdict `refuse`."""
        for fault in faults:
            self._say(fault)

    def faults_beside(self, faults: Sequence[str]) -> None:
        """The faults of the data under a verdict that stands in spite of them."""
        for fault in faults:
            self._say(f"the data also has a fault: {fault}")

    def harm(self, rule: MetricRule, comparison: Comparison) -> None:
        """The primary metric has crossed the boundary for harm."""
        self._say(
            f"{rule.name} of {self._name} is worse than control's: {self._lift(comparison)}; "
            "it crossed the boundary for harm"
        )
        self._interval_contains_zero()

    def better(self, rule: MetricRule, comparison: Comparison, guardrails: Sequence[str]) -> None:
        """The primary metric has crossed its boundary, and these guardrails held within their margins."""
        margins = "its margin" if len(guardrails) == 1 else "their margins"
        held = f", and {listed(guardrails)} stayed within {margins}" if guardrails else ""
        self._say(
            f"{rule.name} of {self._name} is better than control's: {self._lift(comparison)}; "
            f"it crossed its boundary{held}"
        )
        self._interval_contains_zero()

    def waited(
        self, rule: MetricRule, crossed: int, shipped: int, guardrails: Sequence[str], worse: Sequence[str]
    ) -> None:
        """The primary metric crossed at one look, and what has to hold beside it did so only at a later one."""
        are, margins = ("was", "its margin") if len(guardrails) == 1 else ("were", "their margins")
        held = [f"{listed(guardrails)} {are} shown to be within {margins}"] if guardrails else []
        held += [f"{listed(worse)} no longer crossed the boundary for harm"] if worse else []
        if held:
            self._say(
                f"{rule.name} crossed its boundary at look {crossed + 1}, and {listed(held)} at look {shipped + 1}"
            )

    def _interval_contains_zero(self) -> None:
        """Says why that is no contradiction to a boundary that was crossed."""
        low, high = self._always
        if low <= 0 <= high:
            self._say(
                "the always-valid interval still contains 0: it holds at every moment and so is wider than the "
                "boundary, which holds at the planned looks and decides"
            )

    def too_good(self, rule: MetricRule, comparison: Comparison) -> None:
        """The effect is more than 5 times the planned one, or control's value is 0 or unknown (Twyman's law)."""
        lift, baseline = comparison.relative_difference[-1], comparison.baseline[-1]
        if not math.isfinite(lift):
            control = "is 0" if baseline == 0 else "is not known"
            self._say(
                f"control's {rule.name} {control}, so the change has no baseline; such results are usually mistakes, "
                "for example outcomes that were recorded for one group only"
            )
            return
        self._say(
            f"a change of {lift:+.0%} in {rule.name} is more than 5 times the planned effect of "
            f"{self._plan.effect:.0%}; results this good are usually mistakes, so check the data first"
        )

    def suspicious(self, ratio: SampleRatio) -> None:
        """The chi-square of the groups' sizes is small, though the sequential test has not rejected."""
        self._say(f"the group sizes are suspicious (chi-square p = {ratio.p_value:.2g}); check for lost log lines")

    def held_back(self, rule: MetricRule, comparison: Comparison, why: Sequence[str], *, ended: bool) -> None:
        """The primary metric is better, and something else speaks against shipping. `ended`: there is no time left."""
        self._say(
            f"{rule.name} of {self._name} is better than control's: {self._lift(comparison)}; it crossed its boundary"
        )
        self._interval_contains_zero()
        when = f"the horizon has ended, and {self._name} cannot be shipped" if ended else "it cannot be shipped yet"
        self._say(f"{when}, because {listed(why)}")

    def keep_running(self, rule: MetricRule, comparison: Comparison, planned: float) -> None:
        """No boundary is crossed yet, or there are no users to compare."""
        if not self._nobody():
            users = _users(self._evidence.users[-1].sum(), planned)
            self._say(f"no boundary has been crossed after {users}: {self._change(rule, comparison)}")

    def _nobody(self) -> bool:
        """Says so if one of the two groups has no users."""
        occupied = self._evidence.occupied
        if not occupied.any():
            synthetic = self._evidence.quality.synthetic
            left = f"; {counted(synthetic, 'synthetic call')} left out" if synthetic else ""
            if excluded := self._evidence.quality.excluded:
                left = f"; {counted(excluded, 'call')} of its users in excluded windows left out"
            self._say(f"the log has no users of this experiment yet{left}")
        elif not (occupied[0] and occupied[self._group]):
            empty = self._evidence.groups[0] if occupied[self._group] else self._name
            self._say(f"the log has no users of group {empty} yet, so there is nothing to compare")
        return not (occupied[0] and occupied[self._group])

    def not_judged(self, rule: MetricRule, comparison: Comparison, null: NullMoments) -> None:
        """The primary metric has been seen too seldom, or too unevenly, for this look to count."""
        if not self._nobody():
            users = counted(self._evidence.users[-1].sum(), "user")
            self._say(
                f"no boundary has been crossed after {users}: {rule.name} of {self._name} cannot be judged yet, "
                f"because {self._missing(rule, comparison, null)}"
            )

    def nothing_arrived(self, rule: MetricRule, comparison: Comparison) -> None:
        """A guardrail counts outcomes of which the log has not one, so that it cannot hold whatever else comes."""
        everyone = comparison.users[-1] + comparison.baseline_users[-1]
        if _outcome(rule) is not None and everyone > 0 and not _acted(comparison):
            self._say(f"the guardrail {rule.name} cannot be shown to hold: {self._nothing(rule, comparison)}")

    def of_guardrail(self, rule: MetricRule, comparison: Comparison, test: LookwiseTest | None) -> str:
        """Why a guardrail does not hold, as part of a sentence."""
        if test is None or test.null is None or not comparison.users[-1] + comparison.baseline_users[-1] > 0:
            return f"{rule.name} cannot be judged yet, because the log has too little data for it"
        if _acted(comparison):
            if test.counts[-1]:
                return f"{rule.name} is not yet shown to be within its margin"
            return f"{rule.name} cannot be judged yet: {self._missing(rule, comparison, test.null)}"
        nothing = self._nothing(rule, comparison)
        if _outcome(rule) is not None or not rule.binary:
            return f"{rule.name} cannot be judged yet: {nothing}"
        if not rule.margin_points:
            return (
                f"{rule.name} cannot be judged: {nothing}, and a margin of {rule.margin:.0%} relative to 0 "
                "tolerates no "
                "rise; set `points` in the file to tolerate one"
            )
        return (
            f"{rule.name} is not yet shown to be within its margin: {nothing}, but with so few users a rise of "
            f"{rule.margin_points:.1%} of the users cannot be detected"
        )

    def _missing(self, rule: MetricRule, comparison: Comparison, null: NullMoments) -> str:
        """What a metric lacks to be judged, as part of a sentence."""
        sizes = [float(comparison.users[-1]), float(comparison.baseline_users[-1])]
        everyone, acted = sizes[0] + sizes[1], _acted(comparison)
        skewness = abs(float(null.skewness[-1]))
        if everyone > 0 and not acted:
            return self._nothing(rule, comparison)
        if not MOST_SKEWED < skewness < math.inf:
            return "there are too few users, or all of them behave alike"
        if rule.binary:
            smaller = self._name if sizes[0] < sizes[1] else self._evidence.groups[0]
            missing, part = acted * (skewness**2 - 1), min(sizes) / everyone
            return (
                f"too few users have an event: {acted:,.0f} of {everyone:,.0f}{self._each_time()}, of whom "
                f"{acted * part:.2g} are expected in {smaller}, where about 1 is needed; about {missing:,.2g} more are "
                f"needed, {missing * part:,.2g} of them in {smaller}; wait for about {skewness**2:,.2g} times as many "
                f"users, or give {smaller} a larger share"
            )
        return (
            f"a few large values dominate it (the skewness of the difference is {skewness:.1f}; at most 1 is allowed); "
            f"wait for about {skewness**2:,.2g} times as many users, winsorise the metric, or split users more evenly"
        )

    def _each_time(self) -> str:
        """What a number of users that are compared has to say of itself, where a user may be there twice."""
        return "" if self._evidence.membership.shape[1] < 2 else " (counted once in each allocation)"

    def _nothing(self, rule: MetricRule, comparison: Comparison) -> str:
        """That nobody has done what a metric counts, as part of a sentence."""
        everyone = comparison.users[-1] + comparison.baseline_users[-1]
        outcome = _outcome(rule)
        what = f"a `{outcome}`" if outcome else "a failed call" if rule.bad_event is BadEvent.ERROR else None
        users = f"{counted(everyone, 'user')} in both groups{self._each_time()}"
        return f"none of {users} has {what or 'anything that it counts'} in the log"

    def no_effect(self, rule: MetricRule, comparison: Comparison, planned: float) -> None:
        """The planned users have come, and no boundary is crossed."""
        self._say(
            f"the {counted(planned, 'user')} planned to detect a change of {self._plan.effect:.0%} in {rule.name} have "
            f"come, and no boundary has been crossed: {self._change(rule, comparison)}"
        )

    def inconclusive(
        self, rule: MetricRule, comparison: Comparison, planned: float, look: int, test: LookwiseTest | None
    ) -> None:
        """The horizon has ended and no boundary has been crossed: too few users came, or the boundary stayed high.

        planned: The planned users at `look`, the last one. If as many came, the primary metric was ahead; otherwise
        the verdict would be to stop.
        """
        came = float(self._evidence.users[look].sum())
        change = self._change(rule, comparison)
        if planned > 0 and came < planned:
            self._say(
                f"the horizon has ended after {_users(came, planned)} at its last look, too few to detect a change of "
                f"{self._plan.effect:.0%} in {rule.name}: {change}"
            )
            return
        self._say(
            f"the horizon has ended after {_users(came, planned)} at its last look, and no boundary has been crossed: "
            f"{change}"
        )
        if not planned > 0 or test is None or not test.counts[look]:
            return
        newest = test.last_growth(look)
        if newest < look:
            self._say(
                f"the looks after look {newest + 1} of {look + 1} added no information, so the boundary has stayed at "
                f"z = {test.boundary(look):.2f}; z is {test.z[look]:.2f}"
            )
        else:
            self._say(f"z is {test.z[look]:.2f}, and the boundary at the last look is {test.boundary(look):.2f}")

    def _change(self, rule: MetricRule, comparison: Comparison) -> str:
        """The treatment's metric and its change, as the end of a sentence."""
        return f"{rule.name} of {self._name}: {self._lift(comparison)}"

    def _lift(self, comparison: Comparison) -> str:
        """The primary metric's change, with the interval that holds however often one looks."""
        relative, (low, high) = float(comparison.relative_difference[-1]), self._always
        if not math.isfinite(relative):
            return "no relative change can be computed yet"
        if math.isfinite(low) and math.isfinite(high):
            return f"{relative:+.1%} (always-valid 95 % interval {low:+.1%} to {high:+.1%})"
        few = not enough(comparison.nonzero[-1:], comparison.baseline_nonzero[-1:])[0]
        why = "too few events for an always-valid interval" if few else "no interval, because control's value may be 0"
        return f"{relative:+.1%} ({why})"

    def _say(self, sentence: str) -> None:
        self._sentences.append(sentence)


def _outcome(rule: MetricRule) -> str | None:
    """The type of outcome that a metric counts, if it does."""
    return "click" if rule.source is MetricSource.CLICKS else rule.outcome


def _acted(comparison: Comparison) -> float:
    """Users of both groups with a value other than 0."""
    return float(comparison.nonzero[-1] + comparison.baseline_nonzero[-1])


def _which_half(wrong: float, absent: float) -> str:
    """What a version does too often, by ln E of both halves; the larger one, or both if one alone would not act."""
    alone = math.log(2 / guardrails.ALPHA)
    if min(wrong, absent) >= alone or max(wrong, absent) < alone:
        return "answers wrongly or late, and has outages,"
    return "answers wrongly or late" if wrong > absent else "has outages"


def _outages(pair: PairOutages, log_e: float, name: str, control: str) -> str:
    """How many outages there were, how long, and at whose cost."""
    own, shared = pair.of_treatment & ~pair.shared, pair.of_treatment & pair.shared
    began = np.array([one.begin for one in pair.outages[0]], dtype=np.int64)
    mine = [one for one, out in zip(pair.outages[0], pair.excluded.inside(began), strict=True) if not out]
    minutes = sum(one.end - one.begin for one in mine) / MINUTE_US
    calls = sum(one.calls for one in mine)
    replicas = "the numbers of replicas are unknown and taken as equal"
    if pair.replicas is not None:
        replicas = f"{name} has {counted(pair.replicas[0], 'replica')}, {control} has {pair.replicas[1]}"
        replicas += ", which may be the cause" if pair.replicas[0] < pair.replicas[1] else ""
    expected = f"; {pair.share[-1]:.0%} of them are expected in {name}" if len(pair.share) else ""
    text = (
        f"outages: {own.sum():,} of {name} ({minutes:,.0f} min in total, {counted(calls, 'call')}), "
        f"{(~pair.of_treatment & ~pair.shared).sum():,} of {control}, {shared.sum():,} shared and not counted"
        f"{expected} (E = {_large(log_e)}); {replicas}"
    )
    if mine:
        largest = sorted(sorted(mine, key=lambda one: -one.calls)[:MOST_LISTED], key=lambda one: one.begin)
        text += "; the largest: " + ", ".join(
            f"{_time(one.begin)} to {_time(one.end, day=False)} ({counted(one.calls, 'call')})" for one in largest
        )
    return text


def _capped(path: GuardrailPath) -> str:
    return (
        f"; {counted(path.capped, 'block')} of ten minutes capped, because one cause may explain all their events"
        if path.capped
        else ""
    )


def _time(at_us: int, *, day: bool = True) -> str:
    """A moment in UTC."""
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_us)
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if day else f"{at:%H:%M:%S}"


def _large(log_e: float) -> str:
    value = np.exp(min(log_e, 700.0))
    return f"{value:,.0f}" if 10 <= value < 1e6 else f"{value:.2g}" if value < 10 else f"{value:.1e}"


def _users(came: float, planned: float) -> str:
    """Users so far beside the planned ones, where their number is known."""
    return counted(came, "user") + (f" ({planned:,.0f} planned)" if planned > 0 else "")
