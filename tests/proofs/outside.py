"""False decisions outside the scenario that the product is tuned in: splits, base rates, kinds of metric, margins.

`./run prove outside [RUNS [KIND]]` draws RUNS experiments a cell (2,000 by default), each of 28 equal looks and without
an effect, and counts those in which any treatment is ever shipped (from day 7) or rolled back by its primary metric;
then those whose guardrail is exactly at its margin and passes. Cells within a point of their bound are drawn five times
as often, and the five worst go through `decide` too. Beside each stands what each group's own variance gives, at every
look and with a fifth of the runs, which is what the product did before it knew better. The sums go through the
product's own statistics, all of a cell at once. A cell fails if its exact 99 % interval lies wholly above 2.5 % for
shipping, or 5 % for rolling back and for margins.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, TypeVar
from zlib import crc32

import numpy as np
from abfleet_analysis.decision.decide import decide
from abfleet_analysis.decision.evidence import Calendar, DataQuality, Evidence, MetricEvidence
from abfleet_analysis.decision.metrics import MetricRule, MetricSource
from abfleet_analysis.decision.planning import GUARDRAIL_ALPHA, margin
from abfleet_analysis.decision.verdicts import Verdict
from abfleet_analysis.simulation.scenarios import PLAN
from abfleet_statistics.effects import Comparison, Estimator, compare, contrast_z
from abfleet_statistics.lookwise import LookwiseTest
from abfleet_statistics.moments import Floats, Moments, ThirdMoments, from_sums
from abfleet_statistics.score_test import NullMoments, nearer_to_0, null_moments
from abfleet_statistics.sequential import SMALLEST_SPEND, spent, upper
from numpy.typing import NDArray
from scipy.stats import beta

from tests.proofs.outside_draws import LOOKS, Amounts, Draw, clicks, conversion, durations, ends_of, points, revenue

FIRST_SHIPPING: Final = 7
FRACTIONS: Final = tuple(look / LOOKS for look in range(1, LOOKS + 1))
SPLITS: Final = {
    "50/50": (0.5, 0.5),
    "70/20/10": (0.7, 0.2, 0.1),
    "90/10": (0.9, 0.1),
    "95/5": (0.95, 0.05),
    "99/1": (0.99, 0.01),
    "10/90": (0.1, 0.9),
}
SIZES: Final = (5_600, 56_000)
RATES: Final = (0.001, 0.01, 0.05, 0.25)
ALPHA: Final = 0.025
SHIP_BOUND: Final = 0.025
BACK_BOUND: Final = 0.05
NEAR: Final = 0.01
"""A share this near to its bound is drawn more often."""
AT_ONCE: Final = 4_000_000
"""Values in memory, about."""


_Times = TypeVar("_Times", Comparison, NullMoments)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of metric, and of users who make it.

    Attributes:
        each: Values drawn for each user, which is what memory is needed for.
        factor: What a treatment's rate is at the margin, against control's; 1 tests that there is no effect.
    """

    name: str
    draw: Draw
    rule: MetricRule
    each: float
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One way an experiment may be."""

    split: str
    kind: Kind
    users: int

    @property
    def name(self) -> str:
        """As it is printed."""
        return f"{self.kind.name}, {self.split}, {self.users:,} users"


_ANY: Final = MetricRule("metric", "primary", MetricSource.OUTCOME_ANY, Estimator.MEAN, 1, margin=0.1, outcome="one")
_RATIO: Final = replace(_ANY, source=MetricSource.CLICKS, estimator=Estimator.RATIO, outcome=None)
_MEAN: Final = replace(_ANY, source=MetricSource.OUTCOME_VALUE)
_SPENT: Final = {"lognormal 1.5": Amounts(1.5), "lognormal 2.5": Amounts(2.5), "Pareto 1.5": Amounts(shape=1.5)}

KINDS: Final = tuple(
    [Kind(f"conversion {rate:.1%}", conversion(rate), _ANY, 0.001) for rate in RATES]
    + [Kind(f"ctr {rate:.1%}", clicks(rate), _RATIO, 0.3) for rate in RATES]
    + [
        Kind(
            f"revenue{'' if cap is None else ' winsorised'}, {buyers:.0%} {name}", revenue(buyers, of, cap), _MEAN, 0.3
        )
        for cap in (None, 0.999)
        for buyers in (0.03, 0.2)
        for name, of in _SPENT.items()
    ]
)
_ERRORS: Final = replace(_ANY, role="guardrail", sign=-1, source=MetricSource.ERRORS, outcome=None)
_LARGER: Final = replace(_ERRORS, margin=0.25, margin_points=0.002)
_FEWER: Final = replace(_ANY, role="guardrail")
MARGINS: Final = tuple(
    [
        Kind(f"errors +25 % of {rate:.1%}", conversion(rate), replace(_ERRORS, margin=0.25), 0.001, 1.25)
        for rate in RATES
    ]
    + [
        Kind(f"errors +0.2 points on {rate:.2%}", points(rate, max(0.002, rate / 4)), _LARGER, 0.001, 2.0)
        for rate in (0.0, 0.0005, 0.001, 0.008, 0.01)
    ]
    + [Kind(f"conversion -10 % of {rate:.1%}", conversion(rate), _FEWER, 0.001, 0.9) for rate in RATES]
    + [Kind(f"ctr -10 % of {rate:.1%}", clicks(rate), replace(_RATIO, role="guardrail"), 0.3, 0.9) for rate in RATES]
    + [
        Kind(
            f"revenue{'' if cap is None else ' winsorised'} -10 % buyers, {buyers:.0%} {name}",
            revenue(buyers, of, cap),
            replace(_MEAN, role="guardrail"),
            0.3,
            0.9,
        )
        for cap in (None, 0.999)
        for buyers in (0.03, 0.2)
        for name, of in _SPENT.items()
    ]
    + [Kind("response time +10 %", durations(0.5), replace(_RATIO, role="guardrail", sign=-1), 1.0, 1.1)]
)


def cells(kinds: Sequence[Kind] = KINDS, begins: str = "") -> Iterator[Cell]:
    """Those whose kind begins like this."""
    for kind in kinds:
        for split in SPLITS:
            for users in SIZES:
                if kind.name.startswith(begins):
                    yield Cell(split, kind, users)


def kind_named(name: str) -> Kind:
    """One of KINDS or MARGINS."""
    return next(kind for kind in (*KINDS, *MARGINS) if kind.name == name)


def drawn(cell: Cell, runs: int, seed: int) -> Iterator[tuple[int, Moments]]:
    """The sums of so many runs, no more at once than there is room for: how many, and [runs * looks, 1, groups]."""
    shares = SPLITS[cell.split]
    random = np.random.default_rng([seed, crc32(cell.name.encode())])
    ends = ends_of(shares, cell.users)
    factors = np.array([1.0] + [cell.kind.factor] * (len(shares) - 1))
    at_once = max(1, min(2_000, int(AT_ONCE / (cell.users * cell.kind.each))))
    for begin in range(0, runs, at_once):
        now = min(at_once, runs - begin)
        yield now, cell.kind.draw(random, now, ends, factors)


def decided(cell: Cell, runs: int, seed: int = 1, *, plain: bool = False) -> tuple[int, int]:
    """Runs in which any treatment is ever shipped, and ever rolled back, by the primary metric alone.

    plain: By each group's own variance at every look, as textbooks have it.
    """
    rule, ship, back = cell.kind.rule, 0, 0
    treatments = len(SPLITS[cell.split]) - 1
    for now, moments in drawn(cell, runs, seed):
        shipped, rolled = np.zeros((2, now), bool)
        for group in range(1, treatments + 1):
            comparison, null = _compared(rule, moments, group)
            for sign, found in ((1, shipped), (-1, rolled)):
                z = contrast_z(comparison, sign=sign)
                if not plain:
                    z = nearer_to_0(null.z(sign), z)
                first = FIRST_SHIPPING if sign > 0 else 1
                found |= crossing(z, comparison, None if plain else null, now, ALPHA / treatments, first)
        ship, back = ship + int(shipped.sum()), back + int(rolled.sum())
    return ship, back


def passed(cell: Cell, runs: int, seed: int = 1, *, plain: bool = False) -> int:
    """Runs in which the smallest treatment's guardrail, exactly at its margin, is ever shown to be within it."""
    rule, count = cell.kind.rule, 0
    group = len(SPLITS[cell.split]) - 1
    for now, moments in drawn(cell, runs, seed):
        comparison, _ = _compared(rule, moments, group)
        factor, more = margin(rule, comparison)
        _, null = _compared(rule, moments, group, factor=factor, points=more)
        z = contrast_z(comparison, factor, more, sign=rule.sign)
        if not plain:
            z = nearer_to_0(null.z(rule.sign), z)
        count += int(crossing(z, comparison, None if plain else null, now, GUARDRAIL_ALPHA, FIRST_SHIPPING).sum())
    return count


def _compared(rule: MetricRule, moments: Moments, group: int, **moved: Floats) -> tuple[Comparison, NullMoments]:
    member = np.ones((len(moments.n), 1, 1))
    comparison = compare(moments, member, group, estimator=rule.estimator)
    return comparison, null_moments(moments, member, group, estimator=rule.estimator, binary=rule.binary, **moved)


def crossing(
    z: Floats, comparison: Comparison, null: NullMoments | None, runs: int, alpha: float, first: int
) -> NDArray[np.bool_]:
    """Whether each run's z ever crosses, from this look on: bool[runs]."""
    low = np.array([upper(max(spent(alpha, fraction), SMALLEST_SPEND)) for fraction in FRACTIONS])
    counts = np.ones_like(z, bool) if null is None else null.counts
    near = np.asarray(((z.reshape(runs, LOOKS) >= low) & counts.reshape(runs, LOOKS))[:, first - 1 :].any(axis=1))
    for run in np.flatnonzero(near):
        part = slice(run * LOOKS, (run + 1) * LOOKS)
        own = None if null is None else _part(null, part)
        test = LookwiseTest(alpha, FRACTIONS, _part(comparison, part), z[part], null=own)
        near[run] = any(test.crosses(look) for look in range(first - 1, LOOKS))
    return near


def _part(whole: _Times, part: slice) -> _Times:
    values: dict[str, Any] = {field.name: getattr(whole, field.name) for field in fields(whole)}
    return replace(whole, **{name: value[part] for name, value in values.items() if isinstance(value, np.ndarray)})


def through_decide(cell: Cell, runs: int, seed: int) -> tuple[int, int]:
    """The same as `decided`, by whole experiments through the decision."""
    ship = back = 0
    for now, moments in drawn(cell, runs, seed):
        for run in range(now):
            verdicts = [group.history for group in decide(_evidence(cell, moments, run), PLAN, measured=False).groups]
            ship += any(Verdict.SHIP in one or Verdict.CHECK_FIRST in one for one in verdicts)
            back += any(Verdict.ROLL_BACK in one for one in verdicts)
    return ship, back


def _evidence(cell: Cell, moments: Moments, run: int) -> Evidence:
    """One run as evidence; the report is made at the last look."""
    at = np.append(np.arange(LOOKS), LOOKS - 1) + run * LOOKS
    third = moments.third
    if third is not None:
        third = ThirdMoments(*(getattr(third, f.name)[at] for f in fields(third)))
    mine = from_sums([one[at] for one in moments.sums()], third=third)
    weights = np.array(SPLITS[cell.split])
    return Evidence(
        groups=("control", "experiment", "canary")[: len(weights)],
        weights=weights,
        calendar=Calendar(LOOKS, LOOKS, FIRST_SHIPPING),
        membership=np.ones((LOOKS + 1, 1, 1)),
        shares=np.broadcast_to(weights, (LOOKS + 1, 1, len(weights))),
        new_users=mine.n,
        users=mine.n[:, 0],
        metrics=(MetricEvidence(cell.kind.rule, mine),),
        bad_events={},
        quality=DataQuality(users=int(mine.n[-1].sum())),
    )


def above(count: int, runs: int, bound: float = SHIP_BOUND) -> bool:
    """Whether the exact 99 % interval of a share lies wholly above the bound."""
    return count > 0 and float(beta.ppf(0.005, count, runs - count + 1)) > bound


def main(arguments: list[str]) -> int:
    """Every cell, with its share of false decisions; 1 if one is above its bound."""
    runs, begins = int(arguments[0]) if arguments else 2_000, arguments[1] if len(arguments) > 1 else ""
    few, begun = max(runs // 5, 1), time.monotonic()
    failed: list[str] = []
    worst: list[tuple[float, Cell]] = []
    for cell in cells(KINDS, begins):
        made = runs
        ship, back = decided(cell, runs)
        if ship / runs > SHIP_BOUND - NEAR or back / runs > BACK_BOUND - NEAR:
            made = 5 * runs
            ship, back = decided(cell, made, seed=2)
        bad = above(ship, made) or above(back, made, BACK_BOUND)
        failed += [cell.name] if bad else []
        worst.append((max(ship / SHIP_BOUND, back / BACK_BOUND) / made, cell))
        own = " / ".join(f"{count / few:6.2%}" for count in decided(cell, few, plain=True))
        _say(
            f"{cell.name:58} ship {ship / made:6.2%}  roll back {back / made:6.2%}  of {made:,}"
            f"  (by own variances {own}){'  ABOVE' * bad}"
        )
    for _, cell in sorted(worst, key=lambda one: -one[0])[:5]:
        ship, back = through_decide(cell, runs, seed=3)
        bad = above(ship, runs) or above(back, runs, BACK_BOUND)
        failed += [f"{cell.name} through decide"] if bad else []
        _say(f"{cell.name:58} ship {ship / runs:6.2%}  roll back {back / runs:6.2%}  of {runs:,}, through decide")
    for cell in cells(MARGINS, begins):
        made, count = runs, passed(cell, runs)
        if count / made > BACK_BOUND - NEAR:
            made = 5 * runs
            count = passed(cell, made, seed=2)
        bad = above(count, made, BACK_BOUND)
        failed += [cell.name] if bad else []
        own = f"{passed(cell, few, plain=True) / few:6.2%}"
        _say(
            f"{cell.name:58} passes at its margin {count / made:6.2%}  of {made:,}"
            f"  (by own variances {own}){'  ABOVE' * bad}"
        )
    _say(f"{len(failed)} cells above their bound, in {time.monotonic() - begun:.0f} s: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
