"""From sums over users to a difference with its standard error.

- A mean: the sample mean, variance with n - 1.
- A ratio of means, sum(y) / sum(z): the delta method (Deng, Knoblich & Lu, KDD 2018, arXiv 1803.06336): each user's
  influence is (y - R z) / mean(z), so the user stays the unit although the ratio is over calls.
- CUPED (Deng, Xu, Kohavi & Walker, WSDM 2013): y - theta (z - mean z), z the user's value before the experiment, theta
  = cov(y, z) / var(z) over both groups together.
- A quantile: its value comes from a histogram, and its variance from that of the share of calls above it (a ratio),
  divided by the square of the density there (Woodruff 1952; clustered by user: Deng et al. 2018).

All four are means of an influence a (y - b z), which is what the code computes. Strata (allocations) are combined with
weights n0 n1 / (n0 + n1), the ones of least variance under a common effect; both groups' values are standardised by the
same weights. Users in two strata enter with their covariance.

How large a difference is against control's value is as uncertain as both values are: its interval is Fieller's (J. R.
Stat. Soc. B 1954), all ratios r for which value - r baseline is within so many of its own standard errors of 0.
"""

from dataclasses import dataclass
from enum import Enum

import numpy as np

from abfleet_statistics.moments import Cross, Floats, Moments


class Estimator(Enum):
    """What is computed from a user's y and z."""

    MEAN = "mean"
    RATIO = "ratio"
    CUPED = "cuped"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One group against the control, at each time: float64[times] each; nan where there is too little.

    Attributes:
        users, baseline_users: In the strata that could be compared.
        value, baseline: Standardised by the same weights.
        variance, baseline_variance: Of these two values, as estimates.
        nonzero, baseline_nonzero: Users with a value other than 0.
        negative: Whether a user's value may be below 0.
    """

    users: Floats
    baseline_users: Floats
    value: Floats
    baseline: Floats
    variance: Floats
    baseline_variance: Floats
    nonzero: Floats
    baseline_nonzero: Floats
    negative: bool = True

    @property
    def difference(self) -> Floats:
        """Value less baseline, in the metric's unit: float64[times]."""
        return self.value - self.baseline

    @property
    def standard_error(self) -> Floats:
        """The standard error of the difference: float64[times]."""
        return np.sqrt(self.variance + self.baseline_variance)

    @property
    def relative_difference(self) -> Floats:
        """The difference as a part of the baseline's size: float64[times]; nan for a baseline of 0.

        Above 0 where the value is higher, also where a baseline is below 0, as money with refunds may be.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.baseline != 0, self.difference / np.abs(self.baseline), np.nan)

    def relative_interval(self, width: Floats | float) -> tuple[Floats, Floats]:
        """The ends of Fieller's interval of the relative difference, this many standard errors wide each way.

        It leaves out 0 just where the difference's own interval does. nan where control's value itself is not so far
        from 0, as any ratio is possible then. Where no value is below 0, neither is a ratio: no end is below -1.
        """
        squared = np.square(width)
        with np.errstate(divide="ignore", invalid="ignore"):
            a = np.square(self.baseline) - squared * self.baseline_variance
            b = self.value * self.baseline
            c = np.square(self.value) - squared * self.variance
            root = np.sqrt(np.maximum(b * b - a * c, 0.0))
            ratios = [np.where(a > 0, (b + side * root) / a, np.nan) for side in (-1, 1)]
        below = self.baseline < 0
        ends = [np.where(below, 1 - other, one - 1) for one, other in (ratios, ratios[::-1])]
        low, high = (one if self.negative else np.maximum(one, -1.0) for one in ends)
        return low, high

    @property
    def information(self) -> Floats:
        """1 / variance of the difference on the scale of the values, for correlations between looks.

        Relative to the values, because sums over users grow while users go on acting; a plain 1 / variance would then
        fall although more is known.
        """
        level = (np.abs(self.value) + np.abs(self.baseline)) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.nan_to_num(level * level / (self.variance + self.baseline_variance), nan=0.0, posinf=0.0)


@dataclass(frozen=True, slots=True)
class QuantileScale:
    """How a quantile follows from the share of calls above it: float64[times, strata, groups] each.

    Attributes:
        value: The quantile. per_share: By how much it moves when that share moves by 1, that is 1 / density.
    """

    value: Floats
    per_share: Floats


def compare(
    moments: Moments,
    membership: Floats,
    group: int,
    *,
    estimator: Estimator = Estimator.MEAN,
    quantile: QuantileScale | None = None,
    negative: bool = True,
) -> Comparison:
    """A group against group 0.

    membership: float64[times, strata, cells], 1 where a cell is in a stratum then, else 0.
    negative: Whether a user's value may be below 0.
    """
    pair = [0, group]
    n, y, z, yy, yz, zz, nonzero = (
        np.einsum("tsc,tcg->tsg", membership, getattr(moments, name)[:, :, pair])
        for name in ("n", "y", "z", "yy", "yz", "zz", "nonzero")
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b, value = _influence(estimator, n, y, z, yz, zz)
        centre = a * (y - b * z) / n
        spread = a * a * (yy - 2 * b * yz + b * b * zz) - n * centre * centre
        variance = np.maximum(spread, 0) / (n - 1) / n
        if quantile is not None:
            scale = quantile.per_share[:, :, pair]
            value, variance, a = quantile.value[:, :, pair], variance * scale * scale, a * scale
            centre = centre * scale
        known = np.isfinite(value).all(axis=2)
        usable = (n >= 2).all(axis=2) & known & np.isfinite(variance).all(axis=2)
        # Where no stratum has two users a group there are values to show, and no error of them.
        usable = np.where(usable.any(axis=1, keepdims=True), usable, (n >= 1).all(axis=2) & known)
        weight = np.where(usable, n[..., 0] * n[..., 1] / n.sum(axis=2), 0.0)
        weight = weight / weight.sum(axis=1, keepdims=True)  # nan at times when nothing can be compared
    kept = usable[:, :, None]
    combined = np.einsum("ts,tsg->tg", weight, np.where(kept, value, 0.0))
    squared = np.einsum("ts,tsg->tg", weight * weight, np.where(kept, variance, 0.0))
    if moments.cross is not None:
        shares = np.divide(weight[:, :, None], n, out=np.zeros_like(n), where=kept & (n > 0))
        factors = (np.where(kept, a, 0.0), np.where(kept, b, 0.0), np.where(kept, centre, 0.0))
        squared = np.maximum(squared + covariance_of_returning(moments.cross, membership, pair, shares, factors), 0)
    users = np.where(kept, n, 0).sum(axis=1)
    converted = np.where(kept, nonzero, 0).sum(axis=1)
    return Comparison(
        users=users[:, 1],
        baseline_users=users[:, 0],
        value=combined[:, 1],
        baseline=combined[:, 0],
        variance=squared[:, 1],
        baseline_variance=squared[:, 0],
        nonzero=converted[:, 1],
        baseline_nonzero=converted[:, 0],
        negative=negative,
    )


def _influence(
    estimator: Estimator, n: Floats, y: Floats, z: Floats, yz: Floats, zz: Floats
) -> tuple[Floats, Floats, Floats]:
    """a, b of the influence a (y - b z), and the estimate: float64[times, strata, 2] each."""
    one = np.ones_like(n)
    if estimator is Estimator.RATIO:
        ratio = y / z
        return n / z, ratio, ratio
    if estimator is Estimator.CUPED:
        total_n, total_y, total_z = (total.sum(axis=2, keepdims=True) for total in (n, y, z))
        covariance = yz.sum(axis=2, keepdims=True) - total_y * total_z / total_n
        variance = zz.sum(axis=2, keepdims=True) - total_z * total_z / total_n
        theta = np.divide(covariance, variance, out=np.zeros_like(variance), where=variance > 1e-12 * np.abs(total_z))
        theta = theta * one
        return one, theta, y / n - theta * (z / n - total_z / total_n)
    return one, np.zeros_like(n), y / n


def covariance_of_returning(
    cross: Cross, membership: Floats, pair: list[int], shares: Floats, factors: tuple[Floats, Floats, Floats]
) -> Floats:
    """What users in two strata add to the variance of each group's combined value: float64[times, 2]."""
    a, b, centre = factors
    added = np.zeros((membership.shape[0], 2))
    for index, (first, second) in enumerate(zip(cross.first, cross.second, strict=True)):
        n, y, z, y2, z2, yy, yz, zy, zz = (
            getattr(cross, name)[:, index, :][:, pair] for name in ("n", "y", "z", "y2", "z2", "yy", "yz", "zy", "zz")
        )
        # A cell is in one stratum at most, so these pick its stratum's factors, and 0 where it is left out.
        a1, b1, c1, w1 = (np.einsum("ts,tsg->tg", membership[:, :, first], f) for f in (a, b, centre, shares))
        a2, b2, c2, w2 = (np.einsum("ts,tsg->tg", membership[:, :, second], f) for f in (a, b, centre, shares))
        products = a1 * a2 * (yy - b2 * yz - b1 * zy + b1 * b2 * zz)
        products += n * c1 * c2 - c2 * a1 * (y - b1 * z) - c1 * a2 * (y2 - b2 * z2)
        added += 2 * w1 * w2 * products
    return added


def contrast_z(
    comparison: Comparison, factor: Floats | float = 1.0, offset: Floats | float = 0.0, *, sign: int = 1
) -> Floats:
    """z of sign (value - factor baseline - offset): float64[times].

    Without any variance it is 0 where that is 0 within rounding, and infinite where it is not.
    """
    effect = sign * (comparison.value - factor * comparison.baseline - offset)
    spread = np.sqrt(comparison.variance + np.square(factor) * comparison.baseline_variance)
    tiny = 1e-12 * (np.abs(comparison.value) + np.abs(comparison.baseline))
    flat = np.where(np.abs(effect) <= tiny, 0.0, np.copysign(np.inf, effect))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.isnan(effect + spread), np.nan, np.where(spread > 0, effect / spread, flat))


def merged(membership: Floats, sums: Floats) -> Floats:
    """Sums over cells as sums over strata: float64[times, strata, groups]."""
    return np.asarray(np.einsum("tsc,tcg->tsg", membership, sums))
