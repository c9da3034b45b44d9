"""A made-up experiment whose shares grow in three phases, in daily sums over users who come back. Judges nothing."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import product
from typing import Final

import numpy as np
from abfleet_experiments.bucketing import BUCKETS
from abfleet_statistics.moments import Cross, Floats, Moments, proportions
from numpy.typing import NDArray

from abfleet_analysis.decision.evidence import Calendar, DataQuality, Evidence, MetricEvidence
from abfleet_analysis.decision.metrics import DEFAULT_WINDOW
from abfleet_analysis.periods import cells as cells_of
from abfleet_analysis.periods.cells import AllocationPeriod, Cell, Cells
from abfleet_analysis.simulation.plain_scenario import CONVERSION, LOOKS, PLAN

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class RampScenario:
    """10, 30 and 50 % in three phases, a base rate that drifts, and users who come back and act alike when they do.

    A tenth of the users come in most phases and convert often; the others come seldom and convert little.

    Attributes:
        drift: Factor of the conversion rate in each phase.
        lift: The treatment's, in every phase.
        shares: The treatment's, in each phase; they only grow.
        weekdays: How many come on each day of a week, relative to each other.
    """

    users: int = 120_000
    drift: tuple[float, ...] = (1.0, 0.7, 1.5)
    lift: float = 0.0
    days: tuple[int, ...] = (9, 9, 10)
    shares: tuple[float, float, float] = (0.1, 0.3, 0.5)
    weekdays: tuple[float, ...] = (1.0,) * 7

    def draw(self, random: np.random.Generator) -> Evidence:
        """Draws the users of one experiment, and returns their sums as evidence."""
        layout = _ramp_cells(self.days, self.shares)
        sums = _RampSums(len(layout.cells), self.days, self.shares, self.weekdays)
        for kind, (share, presence, conversion) in enumerate(((0.1, 0.8, 0.25), (0.9, 0.25, 0.02))):
            per_class = random.multinomial(int(self.users * share), np.diff([0.0, *self.shares, 1.0]))
            for ramp_class, users in enumerate(per_class):
                self._draw_class(random, layout, sums, int(users), ramp_class, presence, conversion)
            assert kind < 2
        return self._evidence(layout, sums)

    def _draw_class(
        self,
        random: np.random.Generator,
        layout: Cells,
        sums: "_RampSums",
        users: int,
        ramp_class: int,
        presence: float,
        conversion: float,
    ) -> None:
        """The users of one set of buckets and one kind: which phases they come in, and in which they convert."""
        patterns = [p for p in product((False, True), repeat=3) if any(p)]
        chances = [float(np.prod([presence if here else 1 - presence for here in p])) for p in patterns]
        counts = random.multinomial(users, [*chances, max(1 - sum(chances), 0.0)])[:-1]
        for pattern, count in zip(patterns, counts, strict=True):
            phases = [phase for phase, here in enumerate(pattern) if here]
            rates = [conversion * self.drift[phase] * (1 + self.lift * _TREATED[ramp_class][phase]) for phase in phases]
            results = list(product((0.0, 1.0), repeat=len(phases)))
            # Two thirds of a user's inclination is their own and the same in every phase.
            odds = _joint(rates, results)
            for result, number in zip(results, random.multinomial(int(count), odds), strict=True):
                if number:
                    sums.add(random, ramp_class, phases, result, int(number))

    def _evidence(self, layout: Cells, sums: "_RampSums") -> Evidence:
        times = [START + DAY * (day + 1) for day in range(LOOKS)] + [START + DAY * LOOKS]
        member, shares = _ramp_layout(self.days, self.shares)
        moments = sums.moments()
        new_users = np.concatenate([sums.new, np.zeros((1, *sums.new.shape[1:]))]).cumsum(axis=0)
        users = new_users.sum(axis=1)
        assert len(times) == len(users)
        return Evidence(
            groups=("control", "experiment"),
            weights=np.array([0.5, 0.5]),
            calendar=Calendar(LOOKS, LOOKS, int(PLAN.minimum / PLAN.look)),
            membership=member,
            shares=shares,
            new_users=new_users,
            users=users,
            newest_users=cells_of.in_newest(layout, moments.n[-1]),
            metrics=(MetricEvidence(CONVERSION, moments),),
            bad_events={},
            quality=DataQuality(users=int(users[-1].sum())),
        )


_TREATED: Final = ((1, 1, 1), (0, 1, 1), (0, 0, 1), (0, 0, 0))
"""Whether a class of buckets is in the treatment in each phase: those below each share, and those above all."""


@dataclass(frozen=True, slots=True)
class _RampSums:
    """Daily sums of the ramp, filled while one experiment is drawn. Changed only by `add`."""

    cells: int
    days: tuple[int, ...]
    shares: tuple[float, ...]
    weekdays: tuple[float, ...]
    n: Floats = field(init=False)
    y: Floats = field(init=False)
    new: Floats = field(init=False)
    cross: dict[tuple[int, int], Floats] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("n", "y", "new"):
            object.__setattr__(self, name, np.zeros((LOOKS, self.cells, 2)))

    def add(
        self,
        random: np.random.Generator,
        ramp_class: int,
        phases: list[int],
        result: tuple[float, ...],
        number: int,
    ) -> None:
        """Users of one kind who came in these phases with these results; the day of each visit is drawn."""
        days = self.days
        by_cell: list[list[tuple[int, int, int, int]]] = []
        for position, phase in enumerate(phases):
            first, group = sum(days[:phase]), _TREATED[ramp_class][phase]
            busy = np.array([self.weekdays[(first + day) % 7] for day in range(days[phase])])
            per_day = random.multinomial(number, busy / busy.sum())
            visits = []
            for day, count in enumerate(per_day):
                cell = _ramp_cell(days, self.shares, ramp_class, phase, first + day)
                self.n[first + day, cell, group] += count
                self.y[first + day, cell, group] += count * result[position]
                if position == 0:
                    self.new[first + day, cell, group] += count
                visits.append((first + day, cell, group, int(count)))
            by_cell.append(visits)
        for (one, first_phase), (two, second_phase) in _pairs(phases):
            if _TREATED[ramp_class][first_phase] == _TREATED[ramp_class][second_phase]:
                self._add_cross(by_cell[one], by_cell[two], result[one], result[two], number)

    def _add_cross(
        self,
        early: list[tuple[int, int, int, int]],
        late: list[tuple[int, int, int, int]],
        y: float,
        y2: float,
        of: int,
    ) -> None:
        """Users in both; the days of the two visits are independent, so the pairs of cells share them out."""
        early_cells: dict[int, int] = {}
        for _, cell, _, count in early:
            early_cells[cell] = early_cells.get(cell, 0) + count
        for first_cell, first_count in early_cells.items():
            for day, second_cell, group, count in late:
                both = count * first_count / of
                sums = self.cross.setdefault((first_cell, second_cell), np.zeros((4, LOOKS, 2)))
                sums[:, day, group] += (both, both * y, both * y2, both * y * y2)

    def moments(self) -> Moments:
        """The sums, cumulative, and once more for the moment of the report."""
        n, y = _cumulative_cells(self.n), _cumulative_cells(self.y)
        base = proportions(n, y)
        if not self.cross:
            return base
        keys = sorted(self.cross)
        stacked = np.stack([self.cross[key] for key in keys], axis=2)  # [4, looks, pairs, groups]
        total = np.concatenate([stacked.cumsum(axis=1), stacked.sum(axis=1, keepdims=True)], axis=1)
        none = np.zeros_like(total[0])
        cross = Cross(
            np.array([key[0] for key in keys]),
            np.array([key[1] for key in keys]),
            total[0],
            total[1],
            none,
            total[2],
            none,
            total[3],
            none,
            none,
            none,
        )
        return replace(base, cross=cross)


def _pairs(phases: list[int]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    listed = list(enumerate(phases))
    return [(one, two) for position, one in enumerate(listed) for two in listed[position + 1 :]]


def _joint(rates: list[float], results: list[tuple[float, ...]]) -> list[float]:
    """The chance of each set of results, when half of the users convert twice as often as the others."""
    chances = np.zeros(len(results))
    for factor in (2 / 3, 4 / 3):
        for index, result in enumerate(results):
            parts = [
                min(rate * factor, 1.0) if converted else 1 - min(rate * factor, 1.0)
                for rate, converted in zip(rates, result, strict=True)
            ]
            chances[index] += 0.5 * float(np.prod(parts))
    return list(chances / chances.sum())


@cache
def _ramp_cells(days: tuple[int, ...], shares: tuple[float, ...]) -> Cells:
    begins = [START + DAY * sum(days[:phase]) for phase in range(3)]
    periods = []
    for phase, (begin, share) in enumerate(zip(begins, shares, strict=True)):
        buckets: NDArray[np.int64] = (np.arange(BUCKETS) < share * BUCKETS).astype(np.int64)
        periods.append(AllocationPeriod(f"phase-{phase}", begin, np.array([1 - share, share]), "ramp", buckets))
    return cells_of.divide(periods, DEFAULT_WINDOW)


@cache
def _ramp_layout(days: tuple[int, ...], shares: tuple[float, ...]) -> tuple[Floats, Floats]:
    layout = _ramp_cells(days, shares)
    times = [START + DAY * (day + 1) for day in range(LOOKS)]
    times.append(times[-1])
    return cells_of.membership(layout, times), cells_of.expected_shares(layout, times)


@cache
def _ramp_cell(days: tuple[int, ...], shares: tuple[float, ...], ramp_class: int, phase: int, day: int) -> int:
    """The cell of a user of these buckets whose first exposure in the phase is on that day."""
    layout = _ramp_cells(days, shares)
    edges = (0.0, *shares, 1.0)
    bucket = int((edges[ramp_class] + edges[ramp_class + 1]) / 2 * BUCKETS)
    came = START + DAY * day + DAY / 2
    span = sum(limit <= came for limit in layout.limits(phase))
    return layout.cells.index(Cell(phase, int(layout.fates[phase, bucket]), span))


def _cumulative_cells(daily: Floats) -> Floats:
    total = daily.cumsum(axis=0)
    return np.concatenate([total, total[-1:]])
