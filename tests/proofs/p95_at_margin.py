"""A p95 that is exactly at its margin, outside of the scenario that the product is tuned in: how often does it pass?

`./run prove p95-at-margin [RUNS]` draws RUNS experiments (1,000 by default) for each split and size, of 28 equal looks:
users with a geometric number of calls, 2 on average, whose times are lognormal and half the user's own; the treatment's
are 10 % slower. Points, histograms, variances and boundaries are the product's own. Exit code 1 if the exact 99 %
interval of a cell lies wholly above 5 %.
"""

import sys
from typing import Final
from zlib import crc32

import numpy as np
from abfleet_analysis.decision.metrics import MetricRule, MetricSource
from abfleet_analysis.decision.planning import GUARDRAIL_ALPHA, margin
from abfleet_analysis.evidence.thresholds import at_each_time
from abfleet_statistics import quantiles
from abfleet_statistics.effects import Estimator, compare
from abfleet_statistics.moments import Floats, ThirdMoments, from_sums
from abfleet_statistics.score_test import null_moments, pooled_z
from numpy.typing import NDArray

from tests.proofs.outside import BACK_BOUND, FIRST_SHIPPING, SIZES, SPLITS, above, crossing
from tests.proofs.outside_draws import LOOKS, ends_of

P: Final = 0.95
SLOWER: Final = 1.1
RULE: Final = MetricRule(
    "response_time_p95", "guardrail", MetricSource.TIME_QUANTILE, Estimator.RATIO, -1, margin=SLOWER - 1
)


def passes(random: np.random.Generator, shares: tuple[float, ...], users: int) -> bool:
    """Whether the smallest treatment of one experiment is ever shown to be within its margin."""
    ends = ends_of(shares, users)[[0, -1]]
    drawn = [_calls(random, np.diff(one, prepend=0), factor) for one, factor in zip(ends, (1.0, SLOWER), strict=True)]
    least = min(int(bins.min()) for _, _, bins in drawn)
    width = max(int(bins.max()) for _, _, bins in drawn) - least + 1
    counts, totals = np.zeros((2, LOOKS, 1, 2, width))
    sums = np.zeros((11, LOOKS, 1, 2))
    for group, (user, look, bins) in enumerate(drawn):
        place = look * width + bins - least
        counts[:, 0, group] = np.bincount(place, minlength=LOOKS * width).reshape(LOOKS, width).cumsum(axis=0)
        means = np.exp((np.arange(width) + least + 0.5) / quantiles.BINS_PER_E)
        totals[:, 0, group] = counts[:, 0, group] * means
        mine = counts[:, 0, group]
        points = at_each_time(mine, totals[:, 0, group], np.maximum((1 - P) * mine.sum(axis=1), 1))
        first = np.searchsorted(user, np.arange(ends[group, -1]))
        z = np.diff(np.append(first, len(user))).astype(np.float64)
        come = look[first]
        for point in np.unique(points):
            slow = np.exp((bins + 0.5) / quantiles.BINS_PER_E) > point
            y = np.add.reduceat(slow.astype(np.float64), first)
            parts = (np.ones_like(y), y, z, y * y, y * z, z * z, y > 0, y**3, y * y * z, y * z * z, z**3)
            of_it = np.stack([np.bincount(come, part, LOOKS) for part in parts]).cumsum(axis=1)
            sums[:, points == point, 0, group] = of_it[:, points == point]
    moments, member = from_sums(list(sums[:7]), third=ThirdMoments(*sums[7:])), np.ones((LOOKS, 1, 1))
    scale = quantiles.quantile_scale(moments, member, counts, totals, probability=P)
    comparison = compare(moments, member, 1, estimator=RULE.estimator, quantile=scale)
    null = null_moments(moments, member, 1, estimator=RULE.estimator)
    factor, more = margin(RULE, comparison)
    z = pooled_z(comparison, factor, more, sign=RULE.sign)
    return bool(crossing(z, comparison, null, 1, GUARDRAIL_ALPHA, FIRST_SHIPPING)[0])


def _calls(
    random: np.random.Generator, come: NDArray[np.int64], factor: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Each call's user, ascending, look, and bin of its time."""
    look = np.repeat(np.arange(LOOKS), come)
    number = random.geometric(0.5, len(look))
    user = np.repeat(np.arange(len(look)), number)
    own: Floats = random.normal(0, 0.5, len(look))
    logged = own[user] + random.normal(0, 0.5, len(user)) + np.log(factor)
    return user, look[user], np.floor(logged * quantiles.BINS_PER_E).astype(np.int64)


def main(arguments: list[str]) -> int:
    """Every cell with its share; 1 if one is above 5 %."""
    runs = int(arguments[0]) if arguments else 1_000
    failed = 0
    for name, shares in SPLITS.items():
        for users in SIZES:
            cell = f"p95 +10 %, {name}, {users:,} users"
            random = np.random.default_rng([4, crc32(cell.encode())])
            count = sum(passes(random, shares, users) for _ in range(runs))
            bad = above(count, runs, BACK_BOUND)
            failed += bad
            print(f"{cell:40} passes at its margin {count / runs:6.2%}  of {runs:,}{'  ABOVE' * bad}", flush=True)
    print(f"{failed} cells above their bound")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
