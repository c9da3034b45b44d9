"""Any sums through the decision: no traceback, and no verdict from what is not known.

`./run prove random-tables [TABLES [FIRST]]` draws TABLES experiments (200,000 by default) of few looks: groups of
nobody, of one user, of a million; values of any size and sign, all the same, all 0, no numbers at all; every kind of
metric, with guardrails and without. Each goes through the decision, and so does its mirror: values with the other sign
where down is better, which must be judged alike. Exit code 1 at the first table that breaks an invariant, whose number
is printed.
"""

import math
import re
import sys
import time
import warnings
from collections import Counter
from dataclasses import fields, replace
from typing import Final

import numpy as np
from abfleet_analysis.decision.decide import conclude
from abfleet_analysis.decision.evidence import BadEvents, Calendar, DataQuality, Evidence, MetricEvidence
from abfleet_analysis.decision.measurements import Measurements, Treatment, measure
from abfleet_analysis.decision.metrics import BadEvent, MetricRule, MetricSource
from abfleet_analysis.decision.verdicts import GroupDecision, Verdict
from abfleet_analysis.simulation.scenarios import PLAN
from abfleet_statistics.effects import Estimator
from abfleet_statistics.moments import Floats, Moments, ThirdMoments, from_sums

TABLES: Final = 200_000
DECIDES: Final = (Verdict.SHIP, Verdict.CHECK_FIRST, Verdict.ROLL_BACK)
MOST_USERS: Final = 40
"""Drawn in a group at a look; each may stand for many who do the same."""
ODD: Final = (math.nan, math.inf, -math.inf)
_ANY: Final = MetricRule("metric", "primary", MetricSource.OUTCOME_VALUE, Estimator.MEAN, 1, 0.1, outcome="one")
RULES: Final = (
    _ANY,
    replace(_ANY, source=MetricSource.OUTCOME_ANY),
    replace(_ANY, source=MetricSource.CLICKS, estimator=Estimator.RATIO, outcome=None),
    replace(_ANY, estimator=Estimator.CUPED),
)
ERRORS: Final = MetricRule(
    "errors", "guardrail", MetricSource.ERRORS, Estimator.MEAN, -1, 0.25, 0.002, bad_event=BadEvent.ERROR
)
_NO_WORD: Final = re.compile(r"\b(nan|inf)\b")


def table(number: int) -> Evidence:
    """An experiment that depends on its number alone."""
    random = np.random.default_rng([7, number])
    groups, looks = int(random.integers(2, 4)), int(random.integers(0, 5))
    times = looks + 1
    come = random.choice([0, 0, 1, 2, 5, MOST_USERS], (times, groups)).astype(np.int64)
    weight = random.choice([1.0, 1.0, 10.0, 10_000.0], groups)
    rules = [RULES[random.integers(len(RULES))]]
    for guardrail in range(int(random.integers(0, 3))):
        other = ERRORS if random.random() < 0.5 else RULES[random.integers(len(RULES))]
        sign, margin = int(random.choice([-1, 1])), float(random.choice([0.05, 0.25, 2.0]))
        points = other.margin_points if random.random() < 0.5 else 0.0
        rules.append(
            replace(
                other,
                name=f"guardrail-{guardrail}",
                role=str(random.choice(["guardrail", "guardrail", "secondary"])),
                sign=-1 if other.source is MetricSource.ERRORS else sign,
                margin=margin,
                margin_points=points,
            )
        )
    metrics = tuple(MetricEvidence(rule, _moments(random, rule, come, weight), negative=True) for rule in rules)
    users = metrics[0].moments.n
    shares = random.dirichlet(np.full(groups, 3.0)) if random.random() < 0.3 else users[-1, 0] / max(users[-1].sum(), 1)
    events = random.poisson(random.choice([0.0, 0.1, 3.0]), (max(looks, 1), groups)).astype(np.float64)
    return Evidence(
        groups=("control", "experiment", "canary")[:groups],
        weights=shares,
        calendar=Calendar(max(looks, int(random.choice([4, 28]))), looks, int(random.integers(1, 3))),
        membership=np.ones((times, 1, 1)),
        shares=np.broadcast_to(shares, (times, 1, groups)),
        new_users=users,
        users=users[:, 0],
        metrics=metrics,
        bad_events={
            rule.name: BadEvents(
                np.zeros(len(events), np.int64) + np.arange(len(events)) * (looks > 0),
                events,
                np.broadcast_to(shares, events.shape),
            )
            for rule in rules
            if rule.role == "guardrail" and rule.bad_event is not None
        },
        quality=DataQuality(users=int(users[-1].sum())),
    )


def _moments(random: np.random.Generator, rule: MetricRule, come: np.ndarray, weight: Floats) -> Moments:
    """Cumulative sums of users who do what the rule counts, each standing for as many as the group's weight."""
    times, groups = come.shape
    sums = np.zeros((11, times, 1, groups))
    scale = 10.0 ** random.integers(-6, 13) * random.choice([-1.0, 1.0, 1.0])
    for group in range(groups):
        chance = float(random.choice([0.0, 0.02, 0.3, 1.0]))
        for at in range(times):
            number = come[at, group]
            y = (random.random(number) < chance) * 1.0
            z = np.zeros(number)
            if not rule.binary:
                y = y * scale * (random.lognormal(0, 2, number) if random.random() < 0.7 else 1.0)
            if rule.estimator is not Estimator.MEAN:
                z = random.geometric(0.5, number) * float(random.choice([0.0, 1.0, 1.0]))
            parts = (np.ones(number), y, z, y * y, y * z, z * z, (y != 0) * 1.0, y**3, y * y * z, y * z * z, z**3)
            sums[:, at, 0, group] = [part.sum() * weight[group] for part in parts]
    sums = sums.cumsum(axis=1)
    if random.random() < 0.05:
        sums[1:, int(random.integers(times)) :, 0, int(random.integers(groups))] = random.choice(ODD)
    third = None if rule.binary or random.random() < 0.1 else ThirdMoments(*sums[7:])
    return from_sums(list(sums[:7]), third=third)


def mirrored(evidence: Evidence) -> Evidence:
    """Values with the other sign, where the other way is better; a value of 0 or 1 has no such mirror."""
    return replace(evidence, metrics=tuple(map(_mirror, evidence.metrics)))


def _mirror(metric: MetricEvidence) -> MetricEvidence:
    if metric.rule.binary:
        return metric
    moments, third = metric.moments, metric.moments.third
    if third is not None:
        third = replace(third, yyy=-third.yyy, yzz=-third.yzz)
    rule = replace(metric.rule, sign=-metric.rule.sign)
    return replace(metric, rule=rule, moments=replace(moments, y=-moments.y, yz=-moments.yz, third=third))


def broken(evidence: Evidence) -> str | None:
    """Which invariant the decision on a table breaks, if it breaks one."""
    measurements = measure(evidence, PLAN)
    decision = conclude(measurements)
    for treatment, group in zip(measurements.treatments, decision.groups, strict=True):
        if found := _of_verdicts(evidence, treatment, group) or _of_numbers(group):
            return found
    other = conclude(measure(mirrored(evidence), PLAN), measured=False)
    if other.history != decision.history:
        return f"the mirror is judged otherwise: {decision.history} and {other.history}"
    return _of_exchange(evidence, measurements)


def _of_verdicts(evidence: Evidence, treatment: Treatment, group: GroupDecision) -> str | None:
    """Whoever is shipped, rolled back or stopped was known enough at that look."""
    primary = treatment.primary
    known = np.isfinite(primary.comparison.value) & np.isfinite(primary.comparison.baseline) & primary.null.counts
    acting = [name for name, path in treatment.paths.items() if path.log_e[-1] >= math.log(200)]
    for look, verdict in enumerate(group.history):
        first = look == 0 or group.history[look - 1] is not verdict
        if verdict in DECIDES and first and not known[: look + 1].any() and not acting:
            return f"{verdict} at look {look + 1} from what nobody knows"
        if verdict is Verdict.STOP_NO_EFFECT and not known[look]:
            return f"{verdict} at look {look + 1} though the primary metric does not count"
        if verdict in (Verdict.SHIP, Verdict.CHECK_FIRST) and first:
            for one in treatment.guardrails:
                acted = one.comparison.nonzero[look] + one.comparison.baseline_nonzero[look]
                if one.test is None or not one.test.counts[: look + 1].any():
                    return f"{verdict} though {one.rule.name} never counted"
                if not acted > 0 and not one.rule.margin_points and not one.test.counts[:look].any():
                    return f"{verdict} though nobody did what {one.rule.name} counts"
    said = " ".join(group.reasons)
    return f"a reason has no number: {said}" if _NO_WORD.search(said) else None


def _of_numbers(group: GroupDecision) -> str | None:
    for metric in group.metrics:
        low, high = metric.relative_interval
        tested = metric.rule.role != "secondary"
        if (tested and math.isnan(metric.z)) or math.isnan(low) != math.isnan(high):
            return f"{metric.rule.name} has z {metric.z} and {low} to {high}"
        slack = 1e-6 * max(1.0, abs(metric.relative_difference))
        if math.isfinite(low) and not low - slack <= metric.relative_difference <= high + slack:
            return f"{metric.rule.name} {metric.relative_difference} is not between {low} and {high}"
    return None


def _of_exchange(evidence: Evidence, measurements: Measurements) -> str | None:
    """Of two groups, the one that is control and the one that is not may be exchanged: better becomes worse."""
    if len(evidence.groups) > 2 or not measurements.treatments:
        return None
    metrics = tuple(replace(one, moments=_exchanged(one.moments)) for one in evidence.metrics)
    users = evidence.new_users[..., ::-1]
    other = measure(replace(evidence, metrics=metrics, new_users=users, users=users[:, 0]), PLAN)
    if not other.treatments:
        return None
    test, losing = measurements.treatments[0].primary.test, other.treatments[0].losing
    assert test is not None
    if not np.allclose(test.z, losing.z, rtol=1e-5, atol=1e-6, equal_nan=True):
        return f"better by {test.z}, and exchanged worse by {losing.z}"
    return None


def _exchanged(moments: Moments) -> Moments:
    third = moments.third
    if third is not None:
        third = ThirdMoments(*(getattr(third, field.name)[..., ::-1] for field in fields(third)))
    return from_sums([one[..., ::-1] for one in moments.sums()], third=third)


def main(arguments: list[str]) -> int:
    """So many tables, from a number on; 1 at the first that breaks an invariant."""
    tables, first = int(arguments[0]) if arguments else TABLES, int(arguments[1]) if len(arguments) > 1 else 0
    begun, seen = time.process_time(), Counter[str]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for number in range(first, first + tables):
            evidence = table(number)
            try:
                found = broken(evidence)
            except Exception as error:
                error.add_note(f"table {number}")
                raise
            if found is not None:
                print(f"table {number}: {found}")
                return 1
            if number % 10_000 == 0:
                print(f"{number:,}", file=sys.stderr)
            if number % 100 == 0:
                seen[str(conclude(measure(evidence, PLAN), measured=False).verdict)] += 1
    print(f"{tables:,} tables, none broken, in {time.process_time() - begun:.0f} s of CPU; of every hundredth: {seen}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
