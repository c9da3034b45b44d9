"""What the analysis of an interleaving promises: how often it is wrong, and with how few users it is right.

`./run prove interleaving [--runs N] [--data FOLDER]` draws

- interleavings without a preference, 28 looks, lists alike in a third of the calls, places that are looked at less the
  lower they are: as they come, with users who click a lot, with few users, and with a version that dies or that fails
  for the most active users. One is called preferred in at most 5 % of 1,000 runs each, and none is refused;
- a pair of real rankings, v1.2.3 and the same with each ninth item from v1.4.0-rc1, from its second on, shown to people
  who click as `abfleet traffic` has it. The true change of clicks per list is known, and with it the users that an A/B
  test needs for a power of 80 %, which 300 A/B tests confirm. As many interleavings with a twentieth of these users
  prefer the better ranking as often. Beside it the same with each fifth item, from the third on, which shifts the items
  that both have, so that their teams are chance: it is shown, and not promised;
- a version with better lists that dies, 300 runs: the estimate is what it is without the death;
- three interleavings in files, through the command.

People are those of MovieLens latest-small where FOLDER has it, who like what they watched later. Without, they are the
built-in ones with a taste that v1.4.0-rc1 knows more of: they like 33 % of its twenty best, and 12 % of other items.
Exit code 1 where something is not as promised.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from abfleet_analysis.decision.ab_estimate import ab_estimate
from abfleet_analysis.decision.evidence import Calendar
from abfleet_analysis.decision.preference import ClickSums, PreferenceEvidence, judge_preference
from abfleet_analysis.decision.verdicts import Verdict
from abfleet_analysis.power import users_needed
from abfleet_analysis.simulation.interleaving_scenario import LOOKS, PLAN, InterleavingScenario, preferences_of
from abfleet_experiments.bucketing import bucket
from abfleet_experiments.team_draft import draft
from abfleet_models.registry import Registry
from abfleet_models.runs import OpenedModel
from abfleet_statistics.sequential import boundaries
from numpy.typing import NDArray

from abfleet.traffic.behaviour import CLICK_LIKED, CLICK_OTHER, POSITION_BIAS
from abfleet.traffic.population import Person, built_in, from_movielens
from tests.analysis.interleaved_log import Drawn, file_text
from tests.proofs.outside import above

Floats = NDArray[np.float64]
MODELS: Final = Path(__file__).resolve().parents[2] / "models"
PLACES: Final = 10
COINS: Final = PLACES // 2
NINTH, FIFTH = (9, 1), (5, 2)
"""Each so-many-th item of a mixed list is from the other ranking, of which so many are left out at the top."""
CALLS: Final = 2.0
"""Lists of a user, on average; one at least."""
LIKED_BEST, LIKED_OTHER = 0.33, 0.12
PEOPLE: Final = 600
FEWER: Final = 20
"""Times as few users as an A/B test needs."""
POWER: Final = 0.80
NULLS: Final = {
    "as they come": InterleavingScenario(),
    "users who click a lot": InterleavingScenario(users=400, calls=60, click=0.3, spread=0.8),
    "30 users": InterleavingScenario(users=30, calls=40, click=0.2),
    "one version dies on day 3": InterleavingScenario(dies=3),
    "one version fails for the most active": InterleavingScenario(fails=0.7),
}


# --- without a preference ---------------------------------------------------------------------------------------------


def verdicts(scenario: InterleavingScenario, runs: int, seed: int = 1) -> tuple[int, int]:
    """How many runs prefer a version at any look, and how many refuse."""
    preferred = refused = 0
    for run in range(runs):
        decision, _ = judge_preference(scenario.draw(np.random.default_rng([seed, run])), PLAN, shown=False)
        said = {verdict for verdict, _ in decision.history}
        preferred += Verdict.PREFER in said
        refused += Verdict.REFUSE in said or decision.verdict is Verdict.REFUSE
    return preferred, refused


def without_a_preference(runs: int) -> bool:
    """Whether every kind keeps the promise; prints the shares."""
    held = True
    for name, scenario in NULLS.items():
        preferred, refused = verdicts(scenario, runs)
        wrong = above(preferred, runs, 0.05) or above(refused, runs, 0.005)
        held &= not wrong
        print(
            f"no preference, {name:38} preferred {preferred / runs:.2%}, refused {refused / runs:.2%}"
            f"{'  ABOVE' if wrong else ''}",
            flush=True,
        )
    return held


# --- a pair of real rankings ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rankings as people meet them. Ten places each.

    Attributes:
        alone: float64[2, people, places], probability of a click on each place of each ranking's own list.
        merged: float64[people, 32, places], the same of the list that five coins draft. teams: int8, likewise: 1 and -1
            for the first and the second ranking's items, 0 for nobody's.
    """

    alone: Floats
    merged: Floats
    teams: NDArray[np.int8]

    @property
    def rates(self) -> tuple[float, float]:
        """Clicks per list of each."""
        first, second = self.alone.sum(axis=2).mean(axis=1)
        return float(first), float(second)

    @property
    def lift(self) -> float:
        """The true relative change of clicks per list from the first to the second."""
        return self.rates[1] / self.rates[0] - 1


def people_of(data: Path | None) -> list[Person]:
    """MovieLens' people, or the built-in ones."""
    return from_movielens(data, 610) if data is not None else built_in(PEOPLE, 1)


def ranked(version: str, people: Sequence[Person]) -> list[list[int]]:
    """The whole list of each, as the version publishes it."""
    model = OpenedModel(Registry(MODELS).resolve(version))
    longest = max(len(person.history) for person in people)
    found: list[list[int]] = []
    for begin in range(0, len(people), 256):
        part = people[begin : begin + 256]
        history = np.zeros((len(part), longest), np.int64)
        for row, person in enumerate(part):
            history[row, longest - len(person.history) :] = person.history
        found += model.answer(history)[0].tolist()
    return found


def mixed(first: Sequence[int], other: Sequence[int], step: int, skipped: int) -> list[int]:
    """The first ranking, with the other's best item that is not there yet in each place of so many."""
    found: list[int] = []
    while len(found) < len(first) // 2:
        source = other[skipped:] if len(found) % step == step - 1 else first
        found.append(next(item for item in source if item not in found))
    return found


@cache
def pair_of(data: Path | None, step: int, skipped: int) -> Pair:
    """v1.2.3 and a mixed ranking."""
    people = people_of(data)
    firsts, bests = ranked("v1.2.3", people), ranked("v1.4.0-rc1", people)
    alone = np.zeros((2, len(people), PLACES))
    merged, teams = np.zeros((len(people), 2**COINS, PLACES)), np.zeros((len(people), 2**COINS, PLACES), np.int8)
    letters = {"A": 1, "B": -1, "=": 0}
    for row, person in enumerate(people):
        likes = person.likes if data is not None else _taste(person.user_id, frozenset(bests[row][:20]))
        second = mixed(firsts[row], bests[row], step, skipped)
        alone[:, row] = _clicks(firsts[row], likes), _clicks(second, likes)
        for coins in range(2**COINS):
            one = draft(firsts[row], second, PLACES, lambda pair, coins=coins: bool(coins >> pair & 1))  # type: ignore[misc]
            merged[row, coins] = _clicks(one.items, likes)
            teams[row, coins] = [letters[letter] for letter in one.teams]
    return Pair(alone, merged, teams)


def _taste(user: str, best: frozenset[int]):  # type: ignore[no-untyped-def]
    return lambda item: bucket(user, f"taste/{item}") < 10_000 * (LIKED_BEST if item in best else LIKED_OTHER)


def _clicks(items, likes) -> Floats:  # type: ignore[no-untyped-def]
    places = zip(range(1, PLACES + 1), items, strict=False)
    return np.array([place**-POSITION_BIAS * (CLICK_LIKED if likes(item) else CLICK_OTHER) for place, item in places])


@dataclass(frozen=True, slots=True)
class Visits:
    """Calls of users who come over 28 days: whose each is, who that is of the people, and on which day."""

    user: NDArray[np.int64]
    person: NDArray[np.int64]
    day: NDArray[np.int64]

    @classmethod
    def drawn(cls, random: np.random.Generator, users: int, people: int) -> "Visits":
        """So many users, each like one of the people, with CALLS lists on average from their first day on."""
        who, first = random.integers(0, people, users), random.integers(0, LOOKS, users)
        user = np.repeat(np.arange(users), random.geometric(1 / CALLS, users))
        return cls(user, who[user], random.integers(first[user], LOOKS))


def users_for_ab(pair: Pair) -> int:
    """Users that an A/B test needs, by the formula of `abfleet power`, from the true moments of users' clicks."""
    alone = pair.alone[0]
    rate, lists = pair.rates[0], CALLS
    spread = float((alone * (1 - alone)).sum(axis=1).mean())  # of a list, given the person
    per_person = alone.sum(axis=1)
    second_moment = CALLS * (2 * CALLS - 1)  # of a geometric number of lists
    variance = (lists * spread + second_moment * float(np.square(per_person - rate).mean())) / lists**2
    need = users_needed(
        baseline=rate,
        variance=variance,
        effect=abs(pair.lift),
        power=POWER,
        control_share=0.5,
        treatment_share=0.5,
        treatments=1,
        plan=PLAN,
    )
    return round(need.planned)


def ab_ships(pair: Pair, users: int, random: np.random.Generator) -> bool:
    """Whether an A/B test with so many users finds the second ranking better at any look."""
    visits = Visits.drawn(random, users, len(pair.merged))
    group = random.integers(0, 2, users)
    clicked = (random.random((len(visits.user), PLACES)) < pair.alone[group[visits.user], visits.person]).sum(axis=1)
    y, z = np.zeros((users, LOOKS)), np.zeros((users, LOOKS))
    np.add.at(y, (visits.user, visits.day), clicked)
    np.add.at(z, (visits.user, visits.day), 1)
    y, z = y.cumsum(axis=1), z.cumsum(axis=1)
    rates, variances = [], []
    for side in (0, 1):
        mine = group == side
        rate = y[mine].sum(axis=0) / z[mine].sum(axis=0)
        there = (z[mine] > 0).sum(axis=0)
        influence = np.square(y[mine] - rate * z[mine]).sum(axis=0) / np.square(z[mine].sum(axis=0))
        rates.append(rate)
        variances.append(influence * there / np.maximum(there - 1, 1))
    error = np.sqrt(variances[0] + variances[1])
    fractions = [(look + 1) / LOOKS for look in range(LOOKS)]
    bound = boundaries(0.025, fractions, np.maximum.accumulate(np.square(rates[0] / error)).tolist())
    with np.errstate(invalid="ignore"):  # on the first days nobody may have clicked
        return bool(((rates[1] - rates[0]) / error >= bound).any())


def interleaved(pair: Pair, users: int, random: np.random.Generator) -> PreferenceEvidence:
    """An interleaving with so many users."""
    visits = Visits.drawn(random, users, len(pair.merged))
    coins = random.integers(0, 2**COINS, len(visits.user))
    team = pair.teams[visits.person, coins]
    clicked = random.random(team.shape) < pair.merged[visits.person, coins]
    each = (clicked * team).sum(axis=1)
    credits = np.zeros((users, LOOKS))
    np.add.at(credits, (visits.user, visits.day), each)
    first = np.full(users, LOOKS)
    np.minimum.at(first, visits.user, visits.day)
    came = np.bincount(first, minlength=LOOKS + 1)[:LOOKS].cumsum()
    came = np.concatenate([came, came[-1:]])
    sums = [np.bincount(visits.user, what, minlength=users) for what in (np.ones_like(each), clicked.sum(axis=1), each)]
    by_name = dict(zip("zyc", sums, strict=True))
    a, b = int((clicked & (team > 0)).sum()), int((clicked & (team < 0)).sum())
    return PreferenceEvidence(
        versions=("v1.2.3", "mixed"),
        calendar=Calendar(LOOKS, LOOKS, 1),
        preferences=preferences_of(credits),
        users=came,
        differing=came,
        first_picks=np.zeros((LOOKS + 1, 2), np.int64),
        clicks=ClickSums(
            a,
            b,
            int(clicked.sum()) - a - b,
            users=users,
            z=float(sums[0].sum()),
            **{pair: float((by_name[pair[0]] * by_name[pair[1]]).sum()) for pair in ("yy", "yz", "zz", "cc", "cz")},
        ),
    )


def preferring(pair: Pair, users: int, runs: int, seed: int = 3) -> tuple[int, int, list[tuple[float, float]]]:
    """How many interleavings prefer the mixed ranking, and the first one; and the A/B users that each suggests."""
    found, suggested = [], []
    for run in range(runs):
        evidence = interleaved(pair, users, np.random.default_rng([seed, run]))
        found.append(judge_preference(evidence, PLAN, shown=False)[0].version)
        estimate = ab_estimate(evidence.clicks, PLAN)
        suggested.append(estimate.users if estimate is not None else (np.inf, np.inf))
    return found.count("mixed"), found.count("v1.2.3"), suggested


def a_pair(runs: int, data: Path | None, step: int, skipped: int) -> bool:
    """Whether a twentieth of an A/B test's users do; prints what was found."""
    pair = pair_of(data, step, skipped)
    needed = users_for_ab(pair)
    ships = sum(ab_ships(pair, needed, np.random.default_rng([2, run])) for run in range(runs))
    print(
        f"each {step}th item mixed in: clicks per list {pair.rates[0]:.4f} and {pair.rates[1]:.4f}, a true change of "
        f"{pair.lift:+.2%}; an A/B test needs {needed:,} users, and finds it in {ships / runs:.1%} of {runs} runs",
        flush=True,
    )
    held = needed >= 20_000 and 0.03 <= pair.lift <= 0.10
    for fewer in (FEWER // 4, FEWER // 2, FEWER, 2 * FEWER):
        right, wrong, suggested = preferring(pair, needed // fewer, runs)
        print(
            f"  {needed // fewer:,} users, 1/{fewer}: the better one is preferred in {right / runs:.1%}, the other in "
            f"{wrong / runs:.1%}; users of an A/B test that the report suggests: "
            f"{' to '.join(f'{one:,.0f}' for one in np.median(suggested, axis=0))} (medians)",
            flush=True,
        )
        if fewer == FEWER:
            held &= right >= ships - 3 * (2 * runs * POWER * (1 - POWER)) ** 0.5 and wrong == 0
    return held


# --- a version that dies ----------------------------------------------------------------------------------------------


def a_death(runs: int) -> bool:
    """Whether the estimate is the same, at the look before the death; prints both."""
    alive = InterleavingScenario(users=3_000, calls=12, lift=0.3)
    found = []
    for scenario in (alive, replace(alive, dies=9), replace(alive, fails=0.7)):
        values, refused = [], 0
        for run in range(runs):
            decision, result = judge_preference(scenario.draw(np.random.default_rng([4, run])), PLAN, shown=False)
            refused += decision.verdict is Verdict.REFUSE
            values.append((result.values[8], result.values[-1]))
        found.append((np.array(values), refused))
    (whole, _), (dying, refused), (failing, refused_too) = found
    error = float(np.hypot(whole[:, 0].std(), dying[:, 1].std()) / np.sqrt(runs))
    print(
        f"a version dies after look 9: the value is {dying[:, 1].mean():+.4f} at the end; without the death it was "
        f"{whole[:, 0].mean():+.4f} at look 9 (± {error:.4f}); refused {refused} of {runs}\n"
        f"a version fails for the most active users: {failing[:, 1].mean():+.4f} at the end, without "
        f"{whole[:, 1].mean():+.4f}, both for the same version; refused {refused_too}",
        flush=True,
    )
    same = abs(dying[:, 1].mean() - whole[:, 0].mean()) < 4 * error
    return same and refused == refused_too == 0 and failing[:, 1].mean() < 0


# --- in files ---------------------------------------------------------------------------------------------------------


def in_files() -> bool:
    """Whether the command says of logs what was drawn; prints each verdict."""
    held = True
    wanted = (({"lean": 0.5}, None), ({"lean": 0.68}, "v2"), ({"lean": 0.32, "died": 6}, "v1"))
    for seed, (drawn, version) in enumerate(wanted):
        with tempfile.TemporaryDirectory() as folder:
            logs = Path(folder) / "logs"
            logs.mkdir()
            Drawn(users=400, seed=seed, **drawn).log.write(logs)  # type: ignore[arg-type]
            file = Path(folder) / "experiments.yaml"
            file.write_text(file_text("8d"))
            flags = ("--json", "--logs", str(logs), "--experiments", str(file))
            command = [sys.executable, "-m", "abfleet", "analyze", *flags]
            (report,) = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["experiments"]
        decision = report["decision"]
        held &= decision["version"] == version and decision["verdict"] != "refuse"
        print(
            f"in files, {drawn}: {decision['verdict']} {decision['version'] or ''} - {decision['reasons'][0]}",
            flush=True,
        )
    return held


def main(arguments: list[str] | None = None) -> int:
    """Prints every part; 0 if all is as promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--runs", type=int, default=1_000, help="of each kind without a preference; a third of the rest"
    )
    parser.add_argument("--data", type=Path, help="folder of MovieLens latest-small")
    given = parser.parse_args(arguments)
    third = max(given.runs * 3 // 10, 1)
    held = [without_a_preference(given.runs), a_pair(third, given.data, *NINTH), a_death(third), in_files()]
    a_pair(third, given.data, *FIFTH)
    print("held" if all(held) else "NOT HELD")
    return int(not all(held))


if __name__ == "__main__":
    raise SystemExit(main())
