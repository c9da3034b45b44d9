"""Few users: three times the errors of 20,000, and a ramp of 2,000 who come back, through the decision.

`./run prove rare-harm [RUNS]` draws RUNS experiments (1,000 by default) of each. With 1 % of control's users having
errors and three times as many of the treatment's, over 28 daily looks, the guardrail has to find it within a day of
what it took before causes in common were told apart: in half of the runs by day 7 where groups are even, by day 9 at
70/20/10, and at 95/5 in half of the runs at all. A ramp of 1, 10 and 50 % without an effect, with quiet weekends, a
base rate that drifts and users who come back, is rolled back in at most 5 %. Exit code 1 where one of these is missed.
"""

import sys
from dataclasses import dataclass

import numpy as np
from abfleet_analysis.decision.evidence import BadEvents, Blocks
from abfleet_analysis.decision.guardrail_paths import guardrail_path
from abfleet_analysis.decision.verdicts import Verdict
from abfleet_analysis.simulation.scenarios import RampScenario
from abfleet_analysis.simulation.simulate import runs_of
from abfleet_statistics.outages import DAY_US

from tests.proofs.outages import ACTS, BLOCK_US, DAYS, HORIZON, NOBODY_OUT
from tests.proofs.outside import BACK_BOUND, above

RUNS = 1_000
USERS = 20_000
ERRORS = 0.01
RATIO = 3
RAMP = RampScenario(users=2_000, shares=(0.01, 0.10, 0.50), weekdays=(1.0, 1.0, 1.0, 1.0, 1.0, 0.4, 0.4))


@dataclass(frozen=True, slots=True)
class Harm:
    """Three times the errors, and by which day half of the runs must have found it; 28 is the last."""

    split: str
    weights: tuple[float, ...]
    by_day: int


HARMS = (
    Harm("50/50", (0.5, 0.5), 7),
    Harm("70/20/10", (0.7, 0.2, 0.1), 9),
    Harm("95/5", (0.95, 0.05), 28),
)


def days_until_found(weights: tuple[float, ...], runs: int, *, seed: int = 1) -> list[float]:
    """The day whose look knows of it in each run, infinite where none does.

    First errors come at any time, one user's without the next one's, as a log has them; nothing is out.
    """
    random, days = np.random.default_rng(seed), np.arange(HORIZON) * BLOCK_US // DAY_US
    rates = USERS * ERRORS / HORIZON * np.array([weights[0], RATIO * weights[1]])
    blocks = Blocks((np.arange(HORIZON) + 1) * BLOCK_US - 1, BLOCK_US, 0, HORIZON)
    shares = np.broadcast_to([weights[0], weights[1]], (HORIZON, 2))
    found = []
    for _ in range(runs):
        counts = random.poisson(rates, (HORIZON, 2)).astype(np.float64)
        path = guardrail_path(BadEvents(days, counts, shares, blocks), 1, DAYS, NOBODY_OUT)
        acts = np.flatnonzero(path.log_e[:DAYS] >= ACTS)
        found.append(acts[0] + 1.0 if len(acts) else np.inf)
    return found


def rolled_back(runs: int, *, seed: int = 1) -> tuple[int, int]:
    """Runs of the small ramp that are ever rolled back, and shipped."""
    histories = [decision.groups[0].history for decision in runs_of(RAMP.draw, runs=runs, seed=seed)]
    return sum(Verdict.ROLL_BACK in one for one in histories), sum(Verdict.SHIP in one for one in histories)


def main(arguments: list[str]) -> int:
    """All of it; 1 if a bound is missed."""
    runs, failed = int(arguments[0]) if arguments else RUNS, 0
    for harm in HARMS:
        days = days_until_found(harm.weights, runs)
        median = float(np.median(days))
        failed += median > harm.by_day
        share = float(np.mean(np.isfinite(days)))
        print(
            f"3 x errors, {harm.split}: found in {share:.1%} of {runs:,}, half of them by day {median:.0f}", flush=True
        )
    back, ship = rolled_back(runs)
    failed += above(back, runs, BACK_BOUND)
    print(f"ramp 1/10/50 of 2,000 users: rolled back {back / runs:.2%}, shipped {ship / runs:.2%} of {runs:,}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
