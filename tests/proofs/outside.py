"""False decisions outside the scenario that the product is tuned in: splits, base rates, kinds of metric, no effect.

`./run prove outside [RUNS [KIND]]` draws RUNS experiments a cell (2,000 by default, and a fifth of that of the large
ones), each of 28 equal looks, and counts those in which a treatment is ever shipped (from day 7) or rolled back by its
primary metric. The sums are drawn in arrays and go through the product's own statistics, all of a cell at once. A cell
fails if its exact 99 % interval lies wholly above 2.5 %. The draws know nothing of the analysis.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final
from zlib import crc32

import numpy as np
from abfleet_statistics.effects import Estimator, compare, contrast_z
from abfleet_statistics.lookwise import LookwiseTest
from abfleet_statistics.moments import Floats, Moments, ThirdMoments, from_sums
from abfleet_statistics.score_test import NullMoments, nearer_to_0, null_moments
from scipy.stats import beta

LOOKS: Final = 28
FIRST_SHIPPING: Final = 7
FRACTIONS: Final = tuple(look / LOOKS for look in range(1, LOOKS + 1))
SPLITS: Final = {
    "50/50": (0.5, 0.5, 1),
    "70/20/10": (0.7, 0.1, 2),
    "90/10": (0.9, 0.1, 1),
    "95/5": (0.95, 0.05, 1),
    "99/1": (0.99, 0.01, 1),
    "10/90": (0.1, 0.9, 1),
}
"""Shares of control and of the smallest treatment, and how many treatments share alpha."""
ALPHA: Final = 0.025
Draw = Callable[[np.random.Generator, int, int], tuple[Floats, Floats]]
"""y and z of so many experiments with so many users each: float64[runs, users]."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One way an experiment without an effect may be."""

    split: str
    kind: str
    users: int

    @property
    def name(self) -> str:
        """As it is printed."""
        return f"{self.kind}, {self.split}, {self.users:,} users"


def conversion(rate: float) -> Draw:
    """Users who convert with this probability."""
    return lambda random, runs, users: ((random.random((runs, users)) < rate) * 1.0, np.zeros((runs, users)))


def clicks(rate: float) -> Draw:
    """Users with a geometric number of lists, 2 on average, and an inclination of their own to click."""

    def draw(random: np.random.Generator, runs: int, users: int) -> tuple[Floats, Floats]:
        lists = random.geometric(0.5, (runs, users))
        inclined = random.beta(20 * rate, 20 * (1 - rate), (runs, users))
        return random.binomial(lists, inclined).astype(np.float64), lists.astype(np.float64)

    return draw


def revenue(buyers: float, sigma: float, cap: float | None) -> Draw:
    """Buyers with lognormal amounts, cut at this quantile of all users' amounts where there is a cap."""

    def draw(random: np.random.Generator, runs: int, users: int) -> tuple[Floats, Floats]:
        amounts = np.where(
            random.random((runs, users)) < buyers, np.exp(sigma * random.standard_normal((runs, users))), 0.0
        )
        if cap is not None:
            amounts = np.minimum(amounts, np.quantile(amounts, cap, axis=1, keepdims=True))
        return amounts, np.zeros((runs, users))

    return draw


KINDS: Final[dict[str, tuple[Draw, Estimator, bool]]] = {
    **{f"conversion {rate:.1%}": (conversion(rate), Estimator.MEAN, True) for rate in (0.001, 0.01, 0.05, 0.25)},
    **{f"ctr {rate:.1%}": (clicks(rate), Estimator.RATIO, False) for rate in (0.001, 0.01, 0.05, 0.25)},
    **{
        f"revenue {buyers:.0%} of lognormal {sigma}{'' if cap is None else ', winsorised'}": (
            revenue(buyers, sigma, cap),
            Estimator.MEAN,
            False,
        )
        for buyers in (0.03, 0.2)
        for sigma in (1.5, 2.5)
        for cap in (None, 0.999)
    },
}


def sums_of(draw: Draw, shares: tuple[float, float], users: int, runs: int, random: np.random.Generator) -> Moments:
    """The sums of so many runs at every look, cumulative: [runs * looks, 1, 2]."""
    ends = [np.array([int(users * share * look / LOOKS) for look in range(1, LOOKS + 1)]) for share in shares]
    y, z = draw(random, runs, int(ends[0][-1] + ends[1][-1]))  # both groups together: a cap is one of all users
    products = (y, z, y * y, y * z, z * z, (y != 0) * 1.0, y**3, y * y * z, y * z * z, z**3)
    parts, begin = [], 0
    for upto in ends:
        mine = [one[:, begin : begin + upto[-1]] for one in products]
        sums = [np.concatenate([np.zeros((runs, 1)), one.cumsum(axis=1)], axis=1)[:, upto] for one in mine]
        parts.append([np.broadcast_to(upto.astype(np.float64), (runs, LOOKS)), *sums])
        begin += int(upto[-1])
    stacked = [np.stack(pair, axis=-1).reshape(runs * LOOKS, 1, 2) for pair in zip(*parts, strict=True)]
    return from_sums(stacked[:7], third=ThirdMoments(*stacked[7:]))


def decided(moments: Moments, runs: int, alpha: float, estimator: Estimator, *, binary: bool) -> tuple[int, int]:
    """In how many runs the treatment is ever shipped, and ever rolled back, by its primary metric alone."""
    member = np.ones((runs * LOOKS, 1, 1))
    comparison = compare(moments, member, 1, estimator=estimator)
    null = null_moments(moments, member, 1, estimator=estimator, binary=binary)
    crossed = []
    for sign in (1, -1):
        z = nearer_to_0(null.z(sign), contrast_z(comparison, sign=sign))
        count = 0
        for run in range(runs):
            part = slice(run * LOOKS, (run + 1) * LOOKS)
            own = NullMoments(
                null.difference[part],
                null.error[part],
                null.skewness[part],
                null.continuity[part],
                null.information[part],
                null.pairs[part],
            )
            test = LookwiseTest(alpha, FRACTIONS, comparison, z[part], null=own)
            first = FIRST_SHIPPING - 1 if sign > 0 else 0
            count += any(test.crosses(look) for look in range(LOOKS) if look >= first)
        crossed.append(count)
    return crossed[0], crossed[1]


def cells(kinds: str = "", sizes: tuple[int, ...] = (5_600, 56_000)) -> Iterator[Cell]:
    """Those whose kind begins like this."""
    for kind in KINDS:
        for split in SPLITS:
            for users in sizes:
                if kind.startswith(kinds):
                    yield Cell(split, kind, users)


def counted(cell: Cell, runs: int, seed: int = 1) -> tuple[int, int]:
    """Runs of a cell that ship, and that roll back."""
    control, treatment, treatments = SPLITS[cell.split]
    draw, estimator, binary = KINDS[cell.kind]
    random = np.random.default_rng([seed, crc32(cell.name.encode())])
    ship = back = 0
    left = runs
    while left:  # so that the draws of no more than some 100 MB are in memory
        now = min(left, max(1, 3_000_000 // cell.users))
        moments = sums_of(draw, (control, treatment), cell.users, now, random)
        shipped, rolled = decided(moments, now, ALPHA / treatments, estimator, binary=binary)
        ship, back, left = ship + shipped, back + rolled, left - now
    return ship, back


def above(count: int, runs: int, bound: float = 0.025) -> bool:
    """Whether the exact 99 % interval of a share lies wholly above the bound."""
    return count > 0 and float(beta.ppf(0.005, count, runs - count + 1)) > bound


def main(arguments: list[str]) -> int:
    """Every cell, with its share of false decisions; 1 if one is above the bound."""
    runs, kinds = int(arguments[0]) if arguments else 2_000, arguments[1] if len(arguments) > 1 else ""
    failed, begun = [], time.monotonic()
    for cell in cells(kinds):
        few = runs if cell.users < 10_000 else max(runs // 5, 200)
        ship, back = counted(cell, few)
        bad = above(ship, few) or above(back, few)
        failed += [cell.name] if bad else []
        print(
            f"{cell.name:58} ship {ship / few:6.2%}  roll back {back / few:6.2%}  of {few:,}{'  ABOVE' * bad}",
            flush=True,
        )
    print(f"{len(failed)} cells above 2.5 %, in {time.monotonic() - begun:.0f} s: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
