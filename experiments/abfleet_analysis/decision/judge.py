"""The verdict on one treatment, look by look, and why.

The first that applies:

1. roll back: a guardrail's e-process has reached 1/0.005; or the treatment answers nothing while control does, which
   is no statistics, and holds at that moment alone;
2. refuse: the data is broken;
3. roll back: the primary metric has crossed the boundary for harm;
4. ship: after the plan's minimum, if the primary metric has crossed its boundary, every guardrail is better than its
   margin, and no metric has crossed its boundary for harm; or check first, if that is too good to be true;
5. stop without effect at the planned users, unless the primary metric is ahead by so much that it may still cross;
   inconclusive at the horizon; else keep running.

The rule for shipping is Spotify's (Schultzberg, Ankargren & Frånberg, arXiv 2402.11609).
"""

import math
from typing import Final

from abfleet_statistics import guardrails, srm
from abfleet_statistics.sequential import upper

from abfleet_analysis.decision.faults import before_faults, log_faults, sample_ratio_reason
from abfleet_analysis.decision.measurements import (
    Measurements,
    Treatment,
    always_excludes_zero,
    always_valid_now,
    result,
)
from abfleet_analysis.decision.reasons import Reasons
from abfleet_analysis.decision.verdicts import GroupDecision, Verdict

TWYMAN_FACTOR: Final = 5.0
"""A lift above this many times the planned effect is more often a mistake than a success (Twyman's law)."""


class Judge:
    """Judges one treatment. Made, asked once, dropped."""

    def __init__(self, measurements: Measurements, treatment: Treatment) -> None:
        self._evidence = measurements.evidence
        self._plan = measurements.plan
        self._ratio = measurements.ratio
        self._treatment = treatment
        self._looks = measurements.evidence.calendar.done
        self._crossed_at = 0  # the look at which the first boundary was crossed

    def decision(self, *, measured: bool) -> GroupDecision:
        """The treatment's verdict, with every look's."""
        history: list[Verdict] = []
        crossed: Verdict | None = None
        before = before_faults(self._evidence, self._treatment.primary.rule, self._treatment.group)
        for look in range(self._looks):
            earlier = crossed
            verdict, crossed = self._at(look, crossed, before)
            if earlier is None and crossed is not None:
                self._crossed_at = look
            history.append(verdict)
        always = always_valid_now(self._evidence, self._treatment)
        reasons = Reasons(self._evidence, self._plan, self._treatment.group, always)
        verdict = self._now(history, crossed, before, reasons)
        return GroupDecision(
            group=self._treatment.name,
            verdict=verdict,
            reasons=reasons.sentences(),
            history=tuple(history),
            users_planned=float(self._treatment.planned[-1]),
            metrics=tuple(result(self._evidence, self._treatment, metric) for metric in self._treatment.metrics)
            if measured
            else (),
            lifts=self._treatment.primary.rule.sign * self._treatment.primary.comparison.difference,
            always_excludes_zero=always_excludes_zero(self._evidence, self._treatment),
        )

    # --- the verdict at a look ----------------------------------------------------------------------------------------

    def _at(self, look: int, crossed: Verdict | None, before: list[str | None]) -> tuple[Verdict, Verdict | None]:
        """The verdict at a look, and which boundary has been crossed by then."""
        if self._acting(look) or self._absent(look):
            return Verdict.ROLL_BACK, crossed
        if self._ratio.broken[look]:
            return Verdict.REFUSE, crossed
        if crossed is None:
            crossed = self._crossing(look)
        if crossed is Verdict.ROLL_BACK:
            return crossed, crossed
        if crossed is Verdict.SHIP:
            return self._qualified(look, before[look]), crossed
        enough = self._evidence.users[look].sum() >= self._treatment.planned[look] > 0
        if enough and self._counts(look) and not self._promising(look):
            return Verdict.STOP_NO_EFFECT, crossed
        last = look + 1 == self._evidence.calendar.planned
        return Verdict.INCONCLUSIVE if last else Verdict.KEEP_RUNNING, crossed

    def _acting(self, time: int) -> list[str]:
        threshold = -math.log(guardrails.ALPHA)
        return [name for name, path in self._treatment.paths.items() if path.log_e[time] >= threshold]

    def _absent(self, time: int) -> bool:
        answers = self._evidence.answers
        return answers is not None and answers.absent(time, self._treatment.group)

    def _crossing(self, look: int) -> Verdict | None:
        if self._treatment.losing.crosses(look):
            return Verdict.ROLL_BACK
        ships = (
            look + 1 >= self._evidence.calendar.first_shipping
            and self._primary_crosses(look)
            and all(m.test is not None and m.test.crosses(look) for m in self._treatment.guardrails)
            and not self._harmed(look)
        )
        return Verdict.SHIP if ships else None

    def _primary_crosses(self, look: int) -> bool:
        return self._treatment.primary.test is not None and self._treatment.primary.test.crosses(look)

    def _counts(self, time: int) -> bool:
        """Whether the primary metric can be judged at all at this time."""
        return self._treatment.primary.test is not None and bool(self._treatment.primary.test.counts[time])

    def _promising(self, look: int) -> bool:
        """Whether the primary metric would pass if the horizon were here, where the boundary is lowest.

        Alpha is spent by calendar, so users who come faster than planned meet a boundary that is still high.
        """
        return self._treatment.primary.test is not None and bool(
            self._treatment.primary.test.z[look] >= upper(float(self._treatment.alpha[look]))
        )

    def _harmed(self, look: int) -> list[str]:
        return [m.rule.name for m in self._treatment.metrics if m.harm is not None and m.harm.crosses(look)]

    def _qualified(self, time: int, before: str | None) -> Verdict:
        """Ship, unless that is too good to be true, or the groups were different before."""
        if before is not None:
            return Verdict.REFUSE
        return Verdict.CHECK_FIRST if self._too_good(time) or self._suspicious(time) else Verdict.SHIP

    def _too_good(self, time: int) -> bool:
        """Also where nobody can say how good: against a control of 0, or of nothing, no planned effect can be held."""
        primary = self._treatment.primary
        better = primary.rule.sign * primary.comparison.difference[time]
        return not better <= TWYMAN_FACTOR * self._plan.effect * abs(primary.comparison.baseline[time])

    def _suspicious(self, time: int) -> bool:
        return not self._ratio.p[time] >= srm.ALPHA_AT_SHIPPING

    # --- the verdict now ----------------------------------------------------------------------------------------------

    def _now(
        self, history: list[Verdict], crossed: Verdict | None, before: list[str | None], reasons: Reasons
    ) -> Verdict:
        """The verdict of the last look, unless the data since then, or the log as a whole, says otherwise."""
        faults = log_faults(self._evidence)
        if self._ratio.broken[-1]:
            faults.insert(0, sample_ratio_reason(self._evidence.groups, self._ratio.last))
        acting, answers = self._acting(-1), self._evidence.answers
        if answers is not None and answers.absent(-1, self._treatment.group):
            reasons.absent(answers)
        elif answers is not None and answers.silent(-1, self._treatment.group) and answers.calls[-1, 0] > 0:
            reasons.service_out(answers)
        for name in acting:
            reasons.guardrail_acts(name, self._treatment.paths[name])
        if acting or self._absent(-1):
            reasons.faults_beside(faults)
            return Verdict.ROLL_BACK
        if faults:
            reasons.faults(faults)
            return Verdict.REFUSE
        primary = self._treatment.primary
        if crossed is Verdict.ROLL_BACK:
            reasons.harm(primary.rule, primary.comparison)
            return crossed
        if crossed is Verdict.SHIP:
            return self._shipping(before[-1], reasons)
        verdict = history[-1] if history else Verdict.KEEP_RUNNING
        planned = float(self._treatment.planned[-1])
        if held_back := self._held_back(reasons):
            reasons.held_back(primary.rule, primary.comparison, held_back, ended=verdict is not Verdict.KEEP_RUNNING)
            return verdict
        if verdict is Verdict.KEEP_RUNNING and self._counts(-1):
            reasons.keep_running(primary.rule, primary.comparison, planned)
        elif verdict is Verdict.KEEP_RUNNING:
            reasons.not_judged(primary.rule, primary.comparison, primary.null)
        elif verdict is Verdict.STOP_NO_EFFECT:
            of_then = float(self._treatment.planned[self._looks - 1])  # by now it may be unknown
            reasons.no_effect(primary.rule, primary.comparison, planned if planned > 0 else of_then)
        else:
            last = self._looks - 1
            reasons.inconclusive(
                primary.rule, primary.comparison, float(self._treatment.planned[last]), last, primary.test
            )
            if not self._counts(-1):
                reasons.not_judged(primary.rule, primary.comparison, primary.null)
        for guardrail in self._treatment.guardrails:
            reasons.nothing_arrived(guardrail.rule, guardrail.comparison)
        return verdict

    def _shipping(self, before: str | None, reasons: Reasons) -> Verdict:
        primary = self._treatment.primary
        verdict = self._qualified(-1, before)
        if before is not None:
            reasons.faults([before])
            return verdict
        if self._too_good(-1):
            reasons.too_good(primary.rule, primary.comparison)
        if self._suspicious(-1):
            reasons.suspicious(self._ratio.last)
        reasons.better(primary.rule, primary.comparison, [m.rule.name for m in self._treatment.guardrails])
        self._waited(reasons)
        return verdict

    def _waited(self, reasons: Reasons) -> None:
        """Why it was shipped only some looks after its boundary was crossed."""
        crossed = next(look for look in range(self._looks) if self._primary_crosses(look))
        before = self._crossed_at - 1
        if crossed <= before and self._crossed_at >= self._evidence.calendar.first_shipping:
            late = [m.rule.name for m in self._treatment.guardrails if m.test is None or not m.test.crosses(before)]
            reasons.waited(self._treatment.primary.rule, crossed, self._crossed_at, late, self._harmed(before))

    def _held_back(self, reasons: Reasons) -> list[str]:
        """Why a primary metric that has crossed is not shipped at the last look."""
        look = self._looks - 1
        if look < 0 or not self._primary_crosses(look):
            return []
        if look + 1 < self._evidence.calendar.first_shipping:
            return ["the plan's minimum has not passed"]
        waiting = [m for m in self._treatment.guardrails if m.test is None or not m.test.crosses(look)]
        worse = [f"{name} is worse" for name in self._harmed(look)]
        return [reasons.of_guardrail(m.rule, m.comparison, m.test) for m in waiting] + worse
