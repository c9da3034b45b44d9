"""How often an experiment that gains a second treatment on the way concludes wrongly, where no treatment has an effect.

`./run prove joining-treatment [RUNS]` draws RUNS experiments (2,000 by default) of four weeks for each day on which a
second treatment joins the first, and for two that look first: at the end of which day the first treatment is behind by
half a standard error, or is ahead by one. Users come once, and are compared inside the two allocations. An experiment
counts if any treatment was to be shipped, or rolled back, at any look. Exit code 1 where the exact 99 % interval lies
wholly above 2.5 %.
"""

import sys
from collections.abc import Iterator
from typing import Final

import numpy as np
from abfleet_analysis.decision.decide import decide
from abfleet_analysis.decision.evidence import Calendar, DataQuality, Evidence, MetricEvidence
from abfleet_analysis.decision.verdicts import Verdict
from abfleet_analysis.simulation.plain_scenario import CONVERSION, LOOKS, PLAN
from abfleet_statistics.moments import Floats, proportions

from tests.proofs.outside import above

RUNS: Final = 2_000
USERS_A_DAY: Final = 4_000
RATE: Final = 0.05
WEIGHTS: Final = np.array([[0.5, 0.5, 0.0], [0.34, 0.33, 0.33]])
"""Before the second treatment joins, and after."""
BOUND: Final = 0.025
BEHIND, AHEAD = -0.5, 1.0
DAYS: Final = (0, 3, 7, 14, 21, 26, LOOKS)
"""On which the second one joins: from the start, on the way, and never."""
COUNTED: Final = {"shipped": (Verdict.SHIP, Verdict.CHECK_FIRST), "rolled back": (Verdict.ROLL_BACK,)}


def drawn(random: np.random.Generator, join: float, *, looking: bool = False) -> Evidence:
    """An experiment without an effect. join: The day; or, where somebody is `looking` from day 3 on, the z of the first
    treatment that makes them add another one: as high as that if it is positive, as low if negative."""
    users, converted = _first_days(random) if looking else (np.zeros((0, 3)), np.zeros((0, 3)))
    day = _day_of(users, converted, join) if looking else int(join)
    sizes, counts = np.zeros((2, LOOKS, 2, 3))
    for period, days in enumerate((range(day), range(day, LOOKS))):
        for one in days:
            sizes[one, period] = random.multinomial(USERS_A_DAY, WEIGHTS[period])
            counts[one, period] = random.binomial(sizes[one, period].astype(int), RATE)
    if looking:  # what was looked at is what is judged
        sizes[:day, 0], counts[:day, 0] = users[:day], converted[:day]
    weighted = np.array([[True, True, look >= day] for look in range(LOOKS + 1)])
    moments = proportions(_cumulative(sizes), _cumulative(counts))
    new_users = _cumulative(sizes)
    return Evidence(
        groups=("control", "first", "second"),
        weights=WEIGHTS[int(day < LOOKS)],
        weighted=weighted,
        calendar=Calendar(LOOKS, LOOKS, int(PLAN.minimum / PLAN.look)),
        membership=np.broadcast_to(np.eye(2), (LOOKS + 1, 2, 2)),
        shares=np.broadcast_to(WEIGHTS, (LOOKS + 1, 2, 3)),
        new_users=new_users,
        users=new_users.sum(axis=1),
        metrics=(MetricEvidence(CONVERSION, moments),),
        bad_events={},
        quality=DataQuality(users=int(new_users[-1].sum())),
    )


def _first_days(random: np.random.Generator) -> tuple[Floats, Floats]:
    """Users and conversions of each day while there is one treatment: float64[looks, groups] each."""
    users = random.multinomial(USERS_A_DAY, WEIGHTS[0], size=LOOKS)
    return users.astype(np.float64), random.binomial(users, RATE).astype(np.float64)


def _day_of(users: Floats, converted: Floats, wanted: float) -> int:
    """The first day from the third on after which z of the first treatment is beyond what is wanted."""
    n, y = users.cumsum(axis=0), converted.cumsum(axis=0)
    rate = y / np.maximum(n, 1)
    z = (rate[:, 1] - rate[:, 0]) / np.sqrt(RATE * (1 - RATE) * (1 / n[:, 0] + 1 / n[:, 1]))
    beyond = np.flatnonzero((z * np.sign(wanted) >= abs(wanted)) & (np.arange(LOOKS) >= 2))
    return int(beyond[0]) + 1 if len(beyond) else LOOKS


def _cumulative(daily: Floats) -> Floats:
    total = daily.cumsum(axis=0)
    return np.concatenate([total, total[-1:]])


def counted(join: float, runs: int, *, looking: bool = False) -> dict[str, int]:
    """In how many runs any treatment was to be shipped, and rolled back."""
    found = dict.fromkeys(COUNTED, 0)
    for run in range(runs):
        decision = decide(drawn(np.random.default_rng([7, run]), join, looking=looking), PLAN, measured=False)
        said = {verdict for verdict, _ in decision.history}
        for name, verdicts in COUNTED.items():
            found[name] += bool(said & set(verdicts))
    return found


def cells(runs: int) -> Iterator[tuple[str, dict[str, int]]]:
    """All cells, with their counts."""
    for day in DAYS:
        yield f"joined on day {day}" if day < LOOKS else "one treatment", counted(day, runs)
    for name, z in (("behind", BEHIND), ("ahead", AHEAD)):
        yield f"joined when the first was {name}", counted(z, runs, looking=True)


def main(arguments: list[str] | None = None) -> int:
    """Prints every cell; 0 if each keeps the bound."""
    given = sys.argv[1:] if arguments is None else arguments
    runs = int(given[0]) if given else RUNS
    broken = 0
    for name, found in cells(runs):
        wrong = [what for what, count in found.items() if above(count, runs, BOUND)]
        broken += len(wrong)
        rates = ", ".join(f"{what} {count / runs:.2%}" for what, count in found.items())
        print(f"{name:36} {rates}{'  ABOVE 2.5 %' if wrong else ''}", flush=True)
    print(f"{broken} rates are above {BOUND:.1%}" if broken else f"held: at most {BOUND:.1%} each")
    return int(bool(broken))


if __name__ == "__main__":
    raise SystemExit(main())
