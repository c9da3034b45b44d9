"""A made-up interleaving: users who come again and again, and click from the top of merged lists down. Draws arrays.

Each user has an appetite of their own, for lists and for clicks, so that a few click a lot and change sides from look
to look. A list has ten items, which two versions drafted; position k is examined with probability 1/k^0.6, as
`abfleet traffic` has it. In a third of the lists the versions agree; others begin with the same items.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from abfleet_experiments.config import AnalysisPlan
from abfleet_statistics.moments import Floats
from abfleet_statistics.preference import Preferences
from numpy.typing import NDArray

from abfleet_analysis.decision.evidence import Calendar, DataQuality
from abfleet_analysis.decision.preference import ClickSums, InterleavedCalls, PreferenceEvidence
from abfleet_analysis.simulation.plain_scenario import LOOKS

VERSIONS: Final = ("one", "other")
PLACES: Final = 10
EXAMINED: Final[Floats] = np.arange(1, PLACES + 1, dtype=np.float64) ** -0.6
"""How likely a place is looked at, from the top down."""
LONGEST_PREFIX: Final = 4
PLAN: Final = AnalysisPlan()


@dataclass(frozen=True, slots=True)
class InterleavingScenario:
    """One kind of interleaving.

    Attributes:
        users: Who come within 28 days. calls: Lists of a user over the whole time, on average.
        click: Probability of a click on an item that is looked at, on average. lift: By how much an item of the other
            version is clicked more often.
        spread: Standard deviation of the logarithm of users' appetites.
        identical: Share of lists in which the versions agree.
        dies: The day, from 0, from which on the second version answers nothing; None: never.
        fails: Share of its answers that the second version fails for the more active half of the users.
    """

    users: int = 2_000
    calls: float = 12.0
    click: float = 0.05
    lift: float = 0.0
    spread: float = 1.2
    identical: float = 1 / 3
    dies: int | None = None
    fails: float = 0.0

    def draw(self, random: np.random.Generator) -> PreferenceEvidence:
        """The evidence of one interleaving of 28 days."""
        user, day = self._calls(random)
        merged = day < (LOOKS if self.dies is None else self.dies)
        if self.fails:
            number = np.bincount(user, minlength=self.users)
            merged &= (number <= np.median(number))[user] | (random.random(len(user)) >= self.fails)
        fallbacks = int((~merged).sum())
        everyone = _first_days(user, day, self.users)
        user, day = user[merged], day[merged]
        same = random.random(len(user)) < self.identical
        team = _teams(random, len(user))
        team[same] = 0
        eager = self.click * random.lognormal(-(self.spread**2) / 2, self.spread, self.users)
        chance = np.minimum(eager[user, None], 1.0) * EXAMINED * np.where(team < 0, 1 + self.lift, 1.0)
        clicked = random.random(chance.shape) < chance
        credits = np.zeros((self.users, LOOKS))
        np.add.at(credits, (user, day), (team * clicked).sum(axis=1))
        differs = (team != 0).any(axis=1)
        picks = np.take_along_axis(team, (team != 0).argmax(axis=1)[:, None], axis=1)[:, 0]
        return PreferenceEvidence(
            versions=VERSIONS,
            calendar=Calendar(LOOKS, LOOKS, 1),
            preferences=preferences_of(credits),
            users=_and_now(everyone),
            differing=_and_now(_first_days(user[differs], day[differs], self.users)),
            first_picks=_and_now(
                np.stack([np.bincount(day[picks == side], minlength=LOOKS).cumsum() for side in (1, -1)], axis=1)
            ),
            calls=InterleavedCalls(len(user), int((~differs).sum()), fallbacks),
            clicks=_sums(user, clicked, team, self.users),
            quality=DataQuality(users=int(everyone[-1])),
        )

    def _calls(self, random: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of each call the user and the day."""
        appetite = random.lognormal(-(self.spread**2) / 2, self.spread, self.users)
        number = 1 + random.poisson((self.calls - 1) * appetite)
        user = np.repeat(np.arange(self.users), number)
        first = random.integers(0, LOOKS, self.users)
        return user, random.integers(first[user], LOOKS)


def preferences_of(credits: Floats) -> Preferences:
    """Who prefers what at each look, and at the moment of the report. credits: float64[users, looks], of each day."""
    sign = np.sign(credits.cumsum(axis=1)).astype(np.float32)
    sign = np.concatenate([sign, sign[:, -1:]], axis=1)
    together = (sign.T @ sign).astype(np.float64)
    return Preferences((sign > 0).sum(axis=0), (sign < 0).sum(axis=0), together)


def _teams(random: np.random.Generator, lists: int) -> NDArray[np.int8]:
    """1 and -1 for each place that a team has, 0 for the items that both lists begin with: int8[lists, places]."""
    coins = np.where(random.random((lists, PLACES // 2)) < 0.5, 1, -1).astype(np.int8)
    team = np.stack([coins, -coins], axis=2).reshape(lists, PLACES)
    prefix = random.integers(0, LONGEST_PREFIX + 1, lists)
    team[np.arange(PLACES) < prefix[:, None]] = 0
    return team


def _sums(user: NDArray[np.int64], clicked: NDArray[np.bool_], team: NDArray[np.int8], users: int) -> ClickSums:
    each = {
        "z": np.bincount(user, minlength=users).astype(np.float64),
        "y": np.bincount(user, clicked.sum(axis=1), minlength=users),
        "c": np.bincount(user, (team * clicked).sum(axis=1), minlength=users),
    }
    there = each["z"] > 0
    first, second = int((clicked & (team > 0)).sum()), int((clicked & (team < 0)).sum())
    return ClickSums(
        first=first,
        second=second,
        nobodys=int(clicked.sum()) - first - second,
        users=int(there.sum()),
        z=float(each["z"].sum()),
        yy=float(each["y"] @ each["y"]),
        yz=float(each["y"] @ each["z"]),
        zz=float(each["z"] @ each["z"]),
        cc=float(each["c"] @ each["c"]),
        cz=float(each["c"] @ each["z"]),
    )


def _first_days(user: NDArray[np.int64], day: NDArray[np.int64], users: int) -> NDArray[np.int64]:
    """Different users up to each day: int64[looks]."""
    first = np.full(users, LOOKS)
    np.minimum.at(first, user, day)
    return np.bincount(first, minlength=LOOKS + 1)[:LOOKS].cumsum()


def _and_now(path: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([path, path[-1:]])
