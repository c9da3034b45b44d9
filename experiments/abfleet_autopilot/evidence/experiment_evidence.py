"""All evidence of one experiment, line by line. Changed only by its methods, in order of time; decides nothing."""

import math
from typing import Final

import numpy as np
from abfleet_analysis.decision.metrics import RESPONSE_TIME_QUANTILE, BadEvent, Failure, MetricRule
from abfleet_statistics.outages import TOLERATED_A_DAY

from abfleet_autopilot.evidence.answering import AnswerWatch
from abfleet_autopilot.evidence.guardrail_evidence import LN_ACTS, Counts, GuardrailEvidence
from abfleet_autopilot.evidence.step import Step
from abfleet_autopilot.evidence.watched import Watched
from abfleet_autopilot.lines import NOT_KNOWN, Allocated, CountedCall

LEARNT_FROM: Final = 1000
"""Control's first responses, from whose 95 % quantile a slow response is learnt."""
MOST_ALLOCATIONS: Final = 10_000


class TreatmentEvidence:
    """What speaks against one treatment since it was last given a share.

    Attributes:
        guardrails: None before its or control's first call since then.
        acted: By guardrail, when it reached its threshold, and what it stood on then.
        absent: When it had been absent for so long, since when, and how many calls it had not answered.
    """

    __slots__ = ("absent", "acted", "guardrails", "since")

    def __init__(self, since: int) -> None:
        self.since = since
        self.guardrails: GuardrailEvidence | None = None
        self.acted: dict[str, tuple[int, Counts]] = {}
        self.absent: tuple[int, int, int] | None = None


class ExperimentEvidence:
    """One experiment. `treatments` are by number, from 1; `step` is None before an `allocation` line."""

    def __init__(self, watched: Watched, asked_users: int = 0) -> None:
        """asked_users: How many users of each group a step of the ramp must have."""
        self.watched = watched
        self.step: Step | None = None
        self.treatments = {group: TreatmentEvidence(0) for group in range(1, len(watched.groups))}
        self.answering = AnswerWatch(watched.exclude, watched.absent_us)
        self.calls = 0
        self.newest: int | None = None
        self._newest_of_control = -1
        self._asked = asked_users
        self._index = {name: group for group, name in enumerate(watched.groups)}
        self._shares: dict[str, list[float]] = {}
        self._in_force: list[float] | None = None
        self._errors = next((rule for rule in watched.rules if rule.bad_event is BadEvent.ERROR), None)
        self._slow = [_Slow(rule) for rule in watched.rules if rule.bad_event is BadEvent.SLOW]
        self._due: int | None = None
        self._begun = False  # whether each treatment has its processes
        self._excludes = bool(watched.exclude)
        self._quick_ms = -math.inf if self._slow else math.inf  # what is no slower is slow by no rule

    # --- lines --------------------------------------------------------------------------------------------------------

    def on_allocated(self, line: Allocated) -> None:
        """Shares come into force. A treatment that had none and has one begins anew."""
        shares = [line.weights.get(name, 0.0) for name in self.watched.groups]
        if len(self._shares) < MOST_ALLOCATIONS:
            self._shares[line.allocation] = shares
        now = shares if line.traffic else [0.0] * len(shares)
        before = self._in_force
        for group in self.treatments:
            if now[group] and (before is None or not before[group]):
                self.begin(group, line.at)
        self._in_force = now
        if self.step is None or self.step.allocation != line.allocation or self.step.traffic != line.traffic:
            self.step = Step(line.allocation, line.at, line.traffic, self._asked, before=self.control_events())
        elif not self.step.newest:
            self.step.since = line.at  # another router takes it; what came before the last of them is no step yet

    def begin(self, group: int, at: int) -> None:
        """A treatment's evidence begins anew at a moment; what came before counts no more."""
        if at > self.treatments[group].since:
            self.treatments[group] = TreatmentEvidence(at)
            self.answering.begin(group)
            self._begun = False

    def on_call(self, call: CountedCall) -> None:
        """A call of one of the groups."""
        at, _, _, name, allocation, user, failure, own, latency_ms, _, _ = call
        group = self._index.get(name)
        if group is None:
            return
        if self._due is not None and at > self._due:
            self.tick(at)
        self.calls += 1
        self.newest = at
        if not group:
            self._newest_of_control = at
        shares = self._shares.get(allocation)
        if shares is None or not shares[group]:
            shares = self._shares_of(call, group)
        step = self.step
        if step is not None and step.allocation == allocation:
            step.newest = at
            if step.asked:
                step.call(group, user)
        excluded = self._excludes and bool(self.watched.exclude.inside(np.array([at]))[0])
        if not self._begun:
            self._begin_guardrails(at)
        if not excluded:
            if own:
                self.answering.answered(group, at)
            elif failure is not Failure.NONE and self.answering.failed(group, at):
                silence = self.answering.silence(group)
                self.treatments[group].absent = self.treatments[group].absent or (
                    at,
                    silence.since or at,
                    silence.calls,
                )
        if failure is not Failure.NONE and self._errors is not None:
            self._failed(call, group, shares, excluded=excluded)
        if latency_ms > self._quick_ms and latency_ms != NOT_KNOWN and not excluded:
            self._timed(call, group, shares)

    def _begin_guardrails(self, at: int) -> None:
        """The treatments' processes begin with the first call that counts for them."""
        for number, treatment in self.treatments.items():
            if treatment.guardrails is None and at >= treatment.since:
                treatment.guardrails = self._guardrails(number, at)
        self._begun = all(one.guardrails is not None for one in self.treatments.values())

    def control_events(self) -> dict[tuple[int, str], int]:
        """Control's users with a first bad event so far, by treatment that they are compared with, and guardrail."""
        return {
            (number, name): events.control
            for number, treatment in self.treatments.items()
            if treatment.guardrails is not None
            for name, events in treatment.guardrails.events.items()
        }

    def share(self, number: int) -> float:
        """A treatment's share of the users of both groups, as it is in force; a half where nobody knows."""
        shares = self._in_force or []
        both = shares[number] + shares[0] if shares else 0.0
        return shares[number] / both if both else 0.5

    def tick(self, now: int) -> None:
        """Time has come so far, with or without a call."""
        for treatment in self.treatments.values():
            if treatment.guardrails is not None:
                treatment.guardrails.tick(now)
                self._note(treatment, now)
        self._set_due()

    # --- parts --------------------------------------------------------------------------------------------------------

    def _guardrails(self, number: int, at: int) -> GuardrailEvidence:
        errors = self._errors
        return GuardrailEvidence(
            began=at,
            kinds=tuple(rule.name for rule in self.watched.rules),
            with_outages=None if errors is None else errors.name,
            horizon=self.watched.horizon,
            tolerated_a_day=TOLERATED_A_DAY if errors is None else errors.outages_per_day,
            replicas=self.watched.deployment.pair(number),
            exclude=self.watched.exclude,
        )

    def _shares_of(self, call: CountedCall, group: int) -> list[float]:
        """The groups' shares in the call's allocation: as `allocation` lines say, else as calls show them."""
        shares = self._shares.get(call.allocation)
        if shares is None:
            shares = [0.0] * len(self.watched.groups)
            if len(self._shares) < MOST_ALLOCATIONS:
                self._shares[call.allocation] = shares
        if not shares[group] and call.propensity > 0:
            shares[group] = call.propensity
        return shares

    def _pairs(self, group: int, at: int) -> "list[tuple[TreatmentEvidence, GuardrailEvidence, int]]":
        """The treatments that an event of a group is about: its own, or all where it is control's.

        None before control has had a call beside a treatment: there is nobody to compare it with.
        """
        found = []
        for number in (group,) if group else self.treatments:
            treatment = self.treatments[number]
            if treatment.guardrails is not None and at >= treatment.since <= self._newest_of_control:
                found.append((treatment, treatment.guardrails, number))
        return found

    def _failed(self, call: CountedCall, group: int, shares: list[float], *, excluded: bool) -> None:
        assert self._errors is not None
        failure, kind, at = call.failure, self._errors.name, call.at
        ambiguous = failure is Failure.AMBIGUOUS
        if ambiguous and (group or not self.watched.deployment.default_control):
            return  # nobody knows whose failure it is, and nothing is held against a treatment for that
        for treatment, guardrails, number in self._pairs(group, at):
            mine, usable = group > 0, shares[number] > 0 and shares[0] > 0
            if failure is Failure.ABSENT or ambiguous:
                guardrails.absent(at, mine=mine, certain=not ambiguous, shares=(shares[number], shares[0]))
            if usable and not excluded and failure is not Failure.ABSENT:
                share = shares[number] / (shares[number] + shares[0])
                add = guardrails.suspect if failure is Failure.LATE else guardrails.bad
                add(kind, at, call.user, mine=mine, share=share)
                self._note(treatment, at)
        self._set_due()

    def _timed(self, call: CountedCall, group: int, shares: list[float]) -> None:
        self._quick_ms = min(slow.threshold for slow in self._slow)
        for slow in self._slow:
            if not slow.exceeds(call.latency_ms, control=not group):
                continue
            for _, guardrails, number in self._pairs(group, call.at):
                if shares[number] > 0 and shares[0] > 0:
                    share = shares[number] / (shares[number] + shares[0])
                    guardrails.suspect(slow.rule.name, call.at, call.user, mine=group > 0, share=share)
            self._set_due()

    def _note(self, treatment: TreatmentEvidence, now: int) -> None:
        """Notes guardrails that have reached their threshold."""
        assert treatment.guardrails is not None
        for name, (ln_e, at) in treatment.guardrails.highest.items():
            if ln_e >= LN_ACTS and name not in treatment.acted:
                treatment.acted[name] = at, treatment.guardrails.counts(name, now)

    def _set_due(self) -> None:
        times = [one.guardrails.due for one in self.treatments.values() if one.guardrails is not None]
        self._due = min((time for time in times if time is not None), default=None)


class _Slow:
    """What counts as a slow answer: the file's threshold, or one that is learnt from control's first responses."""

    __slots__ = ("_learnt", "_threshold", "rule")

    def __init__(self, rule: MetricRule) -> None:
        self.rule = rule
        self._threshold = rule.threshold_ms
        self._learnt: list[float] = []

    @property
    def threshold(self) -> float:
        """What is no longer is not slow; below every response time while it is not known yet."""
        return -math.inf if self._threshold is None else self._threshold

    def exceeds(self, latency_ms: float, *, control: bool) -> bool:
        """Whether a response was slow; those that are learnt from never are."""
        if self._threshold is not None:
            return latency_ms > self._threshold
        if control:
            self._learnt.append(latency_ms)
            if len(self._learnt) == LEARNT_FROM:
                self._threshold = float(np.quantile(self._learnt, RESPONSE_TIME_QUANTILE))
                self._learnt = []
        return False
