"""Is a group better than control, or than a margin, by the distribution that both have if it is not? Small groups too.

The usual z divides the difference by each group's own variance. In a small group that has hardly acted, this variance
is far too small, or 0: of 99/1 canaries without any effect half are then called harmful. A score test takes the
variance of both groups together, which is the one under the null hypothesis, and which a small group cannot distort:

1. Each user's influence on the difference, from both groups together: `g = u - mean(u)` with `u = y` for means and
   proportions, `(y - R z) / mean(z)` for a ratio (R = sum y / sum z), `y - theta z` for CUPED.
2. If the labels are dealt at random among these users, the difference d of the groups' means has, exactly,
   `se^2 = N S2 / ((N - 1) n0 n1)` and third moment `k3 = n0 n1 (n0 - n1) / (N (N - 1) (N - 2)) S3 (1/n0 + 1/n1)^3`,
   S2 and S3 being the sums of g^2 and g^3, and the skewness `s = k3 / se^3`. It is 0 where groups are even.
3. Half a unit of continuity: half a converting user for proportions, else half of the relative standard error.
4. z is corrected for the skewness by the cube root that makes a gamma's tail normal (Wilson & Hilferty 1931):
   `W(a, t) = 6/t ((1 + t a / 2)^(1/3) - 1) + t/6`, with a = d/se less the continuity and t = s.
5. A look counts only if |s| <= 1, which is about one expected event in the smaller group. That depends on both groups'
   sums together and on the groups' sizes, hence not on the effect, so that leaving looks out selects nothing.

For a margin the null hypothesis is moved there: proportions by the restricted maximum likelihood (Miettinen & Nurminen
1985; Farrington & Manning 1990), others by dividing the treatment's values by the factor that is tolerated. Strata are
combined as in effects.py, with `k3 = sum w^3 k3`. Simulated over six splits, four base rates and three kinds of metric
(docs/statistics.md): no rate of false decisions is above its bound by more than chance.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from abfleet_statistics.effects import Comparison, Estimator, contrast_z, covariance_of_returning
from abfleet_statistics.moments import Floats, Moments

MOST_SKEWED: Final = 1.0
"""|s| up to here is what the correction has been simulated for."""


@dataclass(frozen=True, slots=True)
class NullMoments:
    """The difference and its distribution under the null hypothesis: float64[times] each; nan where nobody is.

    Attributes:
        difference: Of the treatment, less what is tolerated.
        error: Its standard error. skewness: Its skewness. continuity: In standard errors.
        information: 1 / error^2 on the scale of the values, for correlations between looks.
        pairs: Users as a comparison counts them, the sum of n0 n1 / N over strata.
    """

    difference: Floats
    error: Floats
    skewness: Floats
    continuity: Floats
    information: Floats
    pairs: Floats

    @property
    def counts(self) -> NDArray[np.bool_]:
        """Whether the correction is accurate enough for a look to count: bool[times]."""
        with np.errstate(invalid="ignore"):
            return np.asarray((self.error > 0) & (np.abs(self.skewness) <= MOST_SKEWED))

    def z(self, sign: int) -> Floats:
        """The corrected z of the difference being above 0 (1) or below (-1)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            a = sign * self.difference / self.error - self.continuity
            t = sign * self.skewness
            corrected = 6 / t * (np.cbrt(np.maximum(1 + t * a / 2, 0.0)) - 1) + t / 6
            return np.where(np.abs(t) < 1e-4, a, corrected)

    def difference_at(self, z: Floats, sign: int) -> Floats:
        """The difference at which `self.z(sign)` is this z: float64[times]; infinite where none has it."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            t = sign * self.skewness
            root = 1 + (z - t / 6) * t / 6
            a = np.where(np.abs(t) < 1e-4, z, 2 / t * (root**3 - 1))
            return sign * np.where(root < 0, np.inf, a + self.continuity) * self.error


def nearer_to_0(first: Floats, second: Floats) -> Floats:
    """Of two z the one that says less; 0 where they disagree about the direction, nan where one of them is unknown.

    Both must cross: a verdict never contradicts the interval that is shown, and groups that differ in spread, though
    not in mean, make fewer false verdicts than by either z alone.
    """
    agree = np.sign(first) == np.sign(second)
    unknown = np.isnan(first) | np.isnan(second)
    nearer = np.where(np.abs(first) < np.abs(second), first, second)
    return np.where(unknown, np.nan, np.where(agree, nearer, 0.0))


def pooled_error(comparison: Comparison, factor: Floats | float = 1.0) -> Floats:
    """The standard error of value - factor baseline if users of both groups vary alike, but for the factor.

    float64[times]. Of a quantile, whose value in a small group is low just where its own error is.
    """
    n0, n1 = comparison.baseline_users, comparison.users
    squares = np.square(factor) * comparison.baseline_variance * n0 * n0 + comparison.variance * n1 * n1
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.sqrt(squares / (n0 * n1)))


def pooled_z(
    comparison: Comparison, factor: Floats | float = 1.0, offset: Floats | float = 0.0, *, sign: int = 1
) -> Floats:
    """`contrast_z`, or that by the variance of both groups together where it is nearer to 0: float64[times]."""
    plain, error = contrast_z(comparison, factor, offset, sign=sign), pooled_error(comparison, factor)
    effect = sign * (comparison.value - factor * comparison.baseline - offset)
    with np.errstate(divide="ignore", invalid="ignore"):
        return nearer_to_0(np.where(error > 0, effect / error, plain), plain)


@dataclass(frozen=True, slots=True)
class _Strata:
    """One comparison's sums: float64[times, strata, 2] each, control first; `n` among those that can be compared."""

    n: Floats
    weight: Floats  # float64[times, strata], sums to 1; nan where nothing can be compared
    usable: NDArray[np.bool_]  # [times, strata]

    @property
    def total(self) -> Floats:
        return np.asarray(self.n.sum(axis=2))

    def combined(self, values: Floats, power: int = 1) -> Floats:
        """Sums over strata, float64[times, strata] to [times], weighted with a power of the weights."""
        return np.asarray(
            np.where(self.usable, self.weight**power * np.where(self.usable, values, 0.0), 0.0).sum(axis=1)
        )


def null_moments(
    moments: Moments,
    membership: Floats,
    group: int,
    *,
    estimator: Estimator = Estimator.MEAN,
    binary: bool = False,
    factor: Floats | float = 1.0,
    points: Floats | float = 0.0,
) -> NullMoments:
    """A group against group 0, or against the margin `factor` x control + `points`.

    membership: float64[times, strata, cells]. binary: Whether a user's value is 0 or 1. points: For such alone.
    """
    pair = [0, group]
    sums = {
        name: np.einsum("tsc,tcg->tsg", membership, getattr(moments, name)[:, :, pair])
        for name in ("n", "y", "z", "yy", "yz", "zz")
    }
    for name in ("yyy", "yyz", "yzz", "zzz"):
        # Where they are not known, those of 0 and 1 follow from y, and of anything else no skewness is told.
        known = sums["y"] if binary and name == "yyy" else np.zeros_like(sums["y"])
        if moments.third is not None:
            known = np.einsum("tsc,tcg->tsg", membership, getattr(moments.third, name)[:, :, pair])
        sums[name] = known
    times = membership.shape[0]
    r, b = (np.broadcast_to(np.asarray(one, np.float64), times) for one in (factor, points))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        n = sums["n"]
        usable = (n >= 2).all(axis=2) & (n.sum(axis=2) > 2)
        if estimator is Estimator.RATIO:
            usable &= (sums["z"].sum(axis=2) != 0) & (sums["z"] != 0).all(axis=2)
        weight = np.where(usable, n[..., 0] * n[..., 1] / n.sum(axis=2), 0.0)
        strata = _Strata(n, weight / weight.sum(axis=1, keepdims=True), usable)
        moved = bool((r != 1).any() or (b != 0).any())
        if binary and moved:
            return _of_proportions(moments, membership, pair, strata, sums["y"], r, b)
        return _of_influence(moments, membership, pair, strata, sums, estimator, binary, r)


def _of_influence(
    moments: Moments,
    membership: Floats,
    pair: list[int],
    strata: _Strata,
    sums: dict[str, Floats],
    estimator: Estimator,
    binary: bool,
    r: Floats,
) -> NullMoments:
    """Steps 1 to 3 for values whose mean, or ratio, may be r times control's: r divides the treatment's y."""
    scale = np.stack([np.ones_like(r), 1 / r], axis=1)[:, None, :]
    n, total = strata.n, strata.total
    y, z = sums["y"] * scale, sums["z"]
    yy, yz, zz = sums["yy"] * scale**2, sums["yz"] * scale, sums["zz"]
    yyy, yyz, yzz, zzz = sums["yyy"] * scale**3, sums["yyz"] * scale**2, sums["yzz"] * scale, sums["zzz"]
    ty, tz, tyy, tyz, tzz, tyyy, tyyz, tyzz, tzzz = (one.sum(axis=2) for one in (y, z, yy, yz, zz, yyy, yyz, yzz, zzz))
    b = np.zeros_like(ty)
    a = np.ones_like(ty)
    if estimator is Estimator.RATIO:
        b, a = ty / tz, total / tz
    elif estimator is Estimator.CUPED:
        spread = tzz - tz * tz / total
        b = np.divide(tyz - ty * tz / total, spread, out=np.zeros_like(ty), where=spread > 1e-12 * np.abs(tz))
    # u = y - b z; its sums over both groups, about its mean.
    mean = (ty - b * tz) / total
    second = tyy - 2 * b * tyz + b * b * tzz
    s2 = a**2 * (second - total * mean**2)
    s2 = np.where(s2 > a**2 * 1e-12 * (tyy + b * b * tzz), s2, 0.0)
    cubes = tyyy - 3 * b * tyyz + 3 * b * b * tyzz - b**3 * tzzz
    s3 = a**3 * (cubes - 3 * mean * second + 2 * total * mean**3)
    n0, n1 = n[..., 0], n[..., 1]
    difference = a * (((y - b[..., None] * z) / n) @ np.array([-1.0, 1.0]))
    squared = total * s2 / ((total - 1) * n0 * n1)
    k3 = n0 * n1 * (n0 - n1) / (total * (total - 1) * (total - 2)) * s3 * (1 / n0 + 1 / n1) ** 3
    if moments.third is None and not binary:
        k3 = np.zeros_like(k3)
    variance = strata.combined(squared, 2)
    if moments.cross is not None:
        ones = np.ones(2)
        factors = (a[..., None] * scale, b[..., None] / scale, (a * mean)[..., None] * ones)
        variance = variance + _of_returning(moments, membership, pair, strata, factors).sum(axis=1)
    # The size of the values: that of both groups' own, since values of either sign may have a mean of nothing.
    own = np.abs(y / (z if estimator is Estimator.RATIO else n))
    mu = strata.combined((n * own).sum(axis=2) / total)
    half = strata.combined(1 / n1 + 1 / n0) / 2 if binary else None
    return _standardised(strata, difference, variance, k3, mu, half)


def _of_proportions(
    moments: Moments,
    membership: Floats,
    pair: list[int],
    strata: _Strata,
    converted: Floats,
    r: Floats,
    b: Floats,
) -> NullMoments:
    """The same for proportions at p1 = r p0 + b, by the restricted maximum likelihood; r is 1 where b is not 0."""
    n0, n1 = strata.n[..., 0], strata.n[..., 1]
    x0, x1 = converted[..., 0], converted[..., 1]
    times, total = r[:, None], strata.total
    p0, p1 = np.where(
        (b != 0)[:, None], restricted_by_points(x0, n0, x1, n1, b[:, None]), restricted_by_ratio(x0, n0, x1, n1, times)
    )
    difference = x1 / n1 - times * x0 / n0 - b[:, None]
    v0, v1 = p0 * (1 - p0), p1 * (1 - p1)
    squared = total / (total - 1) * (v1 / n1 + times**2 * v0 / n0)
    k3 = v1 * (1 - 2 * p1) / n1**2 - times**3 * v0 * (1 - 2 * p0) / n0**2
    variance = strata.combined(squared, 2)
    if moments.cross is not None:
        ones = np.ones_like(converted)
        factors = (ones, np.zeros_like(converted), converted / strata.n)
        covariance = _of_returning(moments, membership, pair, strata, factors)
        variance = variance + covariance[:, 1] + r**2 * covariance[:, 0]
    level = strata.combined((n0 * p0 + n1 * p1) / total)  # as under the null: without any event too there is a level
    return _standardised(strata, difference, variance, k3, level, strata.combined(1 / n1 + times / n0) / 2)


def _standardised(
    strata: _Strata, difference: Floats, variance: Floats, k3: Floats, level: Floats, half_unit: Floats | None
) -> NullMoments:
    """half_unit: Of continuity, in units of the difference; None takes half of the relative standard error."""
    known = strata.usable.any(axis=1)
    error = np.sqrt(np.where(known, np.maximum(variance, 0.0), np.nan))
    skewness = strata.combined(k3, 3) / error**3
    continuity = half_unit / error if half_unit is not None else error / (2 * np.abs(level))
    information = np.nan_to_num((level / error) ** 2, nan=0.0, posinf=0.0)
    n0, n1 = strata.n[..., 0], strata.n[..., 1]
    pairs = np.where(strata.usable, n0 * n1 / strata.total, 0.0).sum(axis=1)
    combined = np.where(known, strata.combined(difference), np.nan)
    return NullMoments(combined, error, skewness, continuity, information, pairs)


def _of_returning(
    moments: Moments, membership: Floats, pair: list[int], strata: _Strata, factors: tuple[Floats, Floats, Floats]
) -> Floats:
    """What users in several strata add to the variance of each group's combined value: float64[times, 2]."""
    assert moments.cross is not None, "asked where there are such users"
    kept = strata.usable[..., None]
    shape = strata.n.shape
    shares = np.divide(
        np.nan_to_num(strata.weight)[..., None], strata.n, out=np.zeros(shape), where=kept & (strata.n > 0)
    )
    a, b, centre = (np.where(kept, np.broadcast_to(one, shape), 0.0) for one in factors)
    return covariance_of_returning(moments.cross, membership, pair, shares, (a, b, centre))


def restricted_by_ratio(x0: Floats, n0: Floats, x1: Floats, n1: Floats, ratio: Floats) -> tuple[Floats, Floats]:
    """Proportions of largest likelihood with p1 = ratio p0, from x events of n users (Miettinen & Nurminen 1985)."""
    a = (n0 + n1) * ratio
    b = -(n1 * ratio + x1 + n0 + x0 * ratio)
    c = x0 + x1
    p0 = (-b - np.sqrt(np.maximum(b * b - 4 * a * c, 0.0))) / (2 * a)
    p0 = np.clip(p0, 0.0, np.minimum(1.0, 1 / ratio))
    return p0, np.clip(ratio * p0, 0.0, 1.0)


def restricted_by_points(x0: Floats, n0: Floats, x1: Floats, n1: Floats, points: Floats) -> tuple[Floats, Floats]:
    """The same with p1 = p0 + points: a root of a cubic, in closed form (Farrington & Manning 1990, appendix)."""
    n, x = n0 + n1, x0 + x1
    l2 = (n1 + 2 * n0) * points - n - x
    l1 = (n0 * points - n - 2 * x0) * points + x
    l0 = x0 * points * (1 - points)
    q = l2**3 / (3 * n) ** 3 - l1 * l2 / (6 * n**2) + l0 / (2 * n)
    p = np.copysign(np.sqrt(np.maximum(l2**2 / (3 * n) ** 2 - l1 / (3 * n), 0.0)), q)
    cosine = np.divide(q, p**3, out=np.ones_like(q), where=p != 0)
    angle = (np.pi + np.arccos(np.clip(cosine, -1.0, 1.0))) / 3
    p0 = 2 * p * np.cos(angle) - l2 / (3 * n)
    p0 = np.clip(p0, np.maximum(0.0, -points), np.minimum(1.0, 1 - points))
    return p0, np.clip(p0 + points, 0.0, 1.0)
