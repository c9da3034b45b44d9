"""Differences, errors and relative intervals beside two other engines: gbstats (GrowthBook) and spotify-confidence.

`./run prove oracles` makes an environment of their own in the cache (gbstats 0.8 needs numpy below 2), which takes
minutes and a package index; it says why, and ends with code 0, where it cannot be made. Exit code 1 where a number
differs by more than the engines' own conventions do: gbstats has a t distribution and the delta method where this has
a normal one and Fieller's interval, spotify-confidence divides variances by n.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from abfleet_statistics.effects import Comparison, Estimator, compare
from abfleet_statistics.moments import Floats, of_users, side_by_side
from abfleet_statistics.sequential import quantile

from tests.support.process import ROOT

PACKAGES = ("gbstats==0.8.0", "spotify-confidence==4.1.0", "numpy<2")
FOLDER = ROOT / ".cache" / "oracles"
PATIENCE_S = 1800
THEIRS = """
import json, sys
import pandas
from gbstats.frequentist.tests import FrequentistConfig, TwoSidedTTest
from gbstats.models.statistics import ProportionStatistic, RatioStatistic, SampleMeanStatistic
from spotify_confidence import ZTest

def statistic(kind, s):
    if kind == "proportion":
        return ProportionStatistic(n=int(s["n"]), sum=int(s["y"]))
    y = SampleMeanStatistic(n=int(s["n"]), sum=s["y"], sum_squares=s["yy"])
    if kind == "mean":
        return y
    z = SampleMeanStatistic(n=int(s["n"]), sum=s["z"], sum_squares=s["zz"])
    return RatioStatistic(n=int(s["n"]), m_statistic=y, d_statistic=z, m_d_sum_of_products=s["yz"])

found = []
for case in json.load(sys.stdin):
    one, groups = {}, case["groups"]
    for scale in ("absolute", "relative"):
        a, b = (statistic(case["kind"], s) for s in groups)
        result = TwoSidedTTest(a, b, FrequentistConfig(difference_type=scale)).compute_result()
        one[scale] = {"value": result.expected, "interval": [float(end) for end in result.ci]}
    if case["kind"] != "ratio":
        table = pandas.DataFrame([{"group": str(i), **s} for i, s in enumerate(groups)])
        squares = "yy" if case["kind"] == "mean" else None
        row = ZTest(table, "y", squares, "n", "group").difference("0", "1").iloc[0]
        one["spotify"] = {"value": row["difference"], "interval": [row["ci_lower"], row["ci_upper"]]}
    found.append(one)
print(json.dumps(found))
"""


@dataclass(frozen=True, slots=True)
class Case:
    """Two groups' users, y and z each, control first."""

    kind: str
    users: tuple[tuple[Floats, Floats], tuple[Floats, Floats]]

    def sums(self) -> dict[str, Any]:
        """What the other engines are given."""
        groups = [
            {"n": len(y), "y": y.sum(), "z": z.sum(), "yy": (y * y).sum(), "yz": (y * z).sum(), "zz": (z * z).sum()}
            for y, z in self.users
        ]
        return {"kind": self.kind, "groups": [{name: float(value) for name, value in one.items()} for one in groups]}

    def ours(self) -> Comparison:
        """The product's comparison."""
        estimator = Estimator.RATIO if self.kind == "ratio" else Estimator.MEAN
        moments = side_by_side([of_users(y, z) for y, z in self.users])
        return compare(moments, np.ones((1, 1, 1)), 1, estimator=estimator)


def cases(seed: int = 1) -> Iterator[Case]:
    """Splits, base rates and kinds of metric, with users enough that conventions do not matter."""
    random = np.random.default_rng(seed)
    for sizes in ((40_000, 40_000), (90_000, 10_000), (10_000, 90_000)):
        for rate in (0.02, 0.3):
            lists = [random.geometric(0.5, n).astype(np.float64) for n in sizes]
            converted: list[Floats] = [(random.random(n) < rate * (1 + 0.1 * g)) * 1.0 for g, n in enumerate(sizes)]
            spent: list[Floats] = [np.asarray(c * random.lognormal(1, 0.8, len(c)), np.float64) for c in converted]
            clicked = [random.binomial(z.astype(int), rate).astype(np.float64) for z in lists]
            kinds: tuple[tuple[str, list[Floats]], ...]
            kinds = (("proportion", converted), ("mean", spent), ("ratio", clicked))
            for kind, y in kinds:
                yield Case(kind, ((y[0], lists[0]), (y[1], lists[1])))


def differences(made: list[Case], theirs: list[dict[str, Any]]) -> Iterator[tuple[str, float, float]]:
    """What is compared, by how much it differs relative to the error, and how much it may."""
    for case, other in zip(made, theirs, strict=True):
        found = case.ours()
        half = quantile(0.975) * float(found.standard_error[0])
        ours = {"absolute": [float(found.difference[0]) + side * half for side in (-1, 1)]}
        ours["spotify"] = ours["absolute"]
        ours["relative"] = [float(end[0]) for end in found.relative_interval(quantile(0.975))]
        own, control = (
            np.sqrt(found.variance[0]) / found.value[0],
            np.sqrt(found.baseline_variance[0]) / found.baseline[0],
        )
        # Fieller's interval is not in the middle of the delta method's, by the square of control's relative error.
        aside = float(2 * quantile(0.975) * control**2 / (2 * np.hypot(own, control)))
        for name, their in other.items():
            value = float((found.relative_difference if name == "relative" else found.difference)[0])
            width = ours[name][1] - ours[name][0]
            yield f"{case.kind} {name} value", abs(value - their["value"]) / width, 1e-9
            most = aside if name == "relative" else 1e-3
            for mine, end in zip(ours[name], their["interval"], strict=True):
                yield f"{case.kind} {name} interval", abs(mine - end) / width, most


def made_environment() -> str | None:
    """Makes the environment where it is not there yet; the reason where it cannot be made."""
    if (FOLDER / "made").is_file():
        return None
    python = FOLDER / "bin" / "python"
    for command in (
        [sys.executable, "-m", "venv", str(FOLDER)],
        [str(python), "-m", "pip", "install", "-q", *PACKAGES],
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        except subprocess.TimeoutExpired:
            return f"{Path(command[0]).name} took longer than {PATIENCE_S} s"
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    (FOLDER / "made").touch()
    return None


def main() -> int:
    """Every case; 1 if a number differs by more than it may."""
    if reason := made_environment():
        print(f"skipped: the environment for {', '.join(PACKAGES)} cannot be made: {reason}")
        return 0
    made = list(cases())
    done = subprocess.run(
        [str(FOLDER / "bin" / "python"), "-c", THEIRS],
        input=json.dumps([case.sums() for case in made]),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    if done.returncode:
        print(f"the other engines ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
        return 1
    worst: dict[str, tuple[float, float]] = {}
    for name, off, most in differences(made, json.loads(done.stdout)):
        worst[name] = max(worst.get(name, (0.0, most)), (off, most))
    for name, (off, most) in worst.items():
        print(f"{name:28} differs by {off:.1e} of the interval's width at most; allowed {most:.0e}")
    return int(any(off > most for off, most in worst.values()))


if __name__ == "__main__":
    sys.exit(main())
