"""How many users move from which group to which between two configurations.

The shares are exact, not sampled. Each salt gives a user a bucket, uniform and independent of the buckets under other
salts; an outcome is decided by asking one salt after the other. So the two configurations are walked together: when
either needs the bucket of a salt that is not known yet, the walk forks over all 10,000, those that no table of either
configuration tells apart taken together. Audiences are taken to match: the users whom they shut out are not
moved by anything. Overrides and calls without a user id are left aside.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import NamedTuple

from abfleet_experiments.allocate import table
from abfleet_experiments.allocation import allocation_in_force
from abfleet_experiments.assign import Assigner
from abfleet_experiments.bucketing import BUCKETS, layer_salt
from abfleet_experiments.config import Config


class Placement(NamedTuple):
    """A user's experiment and group, both None outside of experiments, and the version or versions that serve."""

    experiment: str | None
    group: str | None
    version: str

    def __str__(self) -> str:
        return f"{self.experiment}/{self.group}" if self.experiment else "no experiment"


@dataclass(frozen=True, slots=True)
class Flow:
    """The share of all users, 0 to 1, that goes from one placement to another, or stays."""

    before: Placement
    after: Placement
    share: Fraction


@dataclass(frozen=True, slots=True)
class Movement:
    """All flows, the largest first; their shares sum to 1."""

    flows: tuple[Flow, ...]

    @property
    def moved(self) -> Fraction:
        """Users whose experiment or group is another than before, or who enter or leave."""
        return self._sum(flow for flow in self.flows if flow.before[:2] != flow.after[:2])

    @property
    def entered(self) -> Fraction:
        """Users whom no experiment took before and one takes now."""
        return self._sum(flow for flow in self.flows if flow.before.group is None and flow.after.group is not None)

    @property
    def left(self) -> Fraction:
        """Users whom an experiment took before and none takes now."""
        return self._sum(flow for flow in self.flows if flow.before.group is not None and flow.after.group is None)

    @property
    def out_of_analysis(self) -> Fraction:
        """Users whose group in one and the same experiment changes: what they did before no longer counts."""
        return self._sum(
            flow
            for flow in self.flows
            if flow.before.experiment is not None
            and flow.before.experiment == flow.after.experiment
            and flow.before.group != flow.after.group
        )

    @property
    def version_changed(self) -> Fraction:
        """Users who are served by another version than before."""
        return self._sum(flow for flow in self.flows if flow.before.version != flow.after.version)

    def shares_before(self) -> Mapping[Placement, Fraction]:
        """Share of all users at each placement, before."""
        return self._shares((flow.before, flow.share) for flow in self.flows)

    def shares_after(self) -> Mapping[Placement, Fraction]:
        """Share of all users at each placement, after."""
        return self._shares((flow.after, flow.share) for flow in self.flows)

    @staticmethod
    def _sum(flows: Iterable[Flow]) -> Fraction:
        return sum((flow.share for flow in flows), Fraction(0))

    @staticmethod
    def _shares(places: Iterable[tuple[Placement, Fraction]]) -> Mapping[Placement, Fraction]:
        shares: dict[Placement, Fraction] = {}
        for place, share in places:
            shares[place] = shares.get(place, Fraction(0)) + share
        return shares


def movement(old: Config, old_at: datetime, new: Config, new_at: datetime) -> Movement:
    """The exact movement of all users from one configuration at an instant to another."""
    before, after = _Chain(old, old_at), _Chain(new, new_at)
    atoms = _atoms(before, after)
    counts: Counter[tuple[Placement, Placement, int]] = Counter()
    todo: list[tuple[dict[str, int], int]] = [({}, 1)]
    while todo:
        known, count = todo.pop()
        place_before, place_after = before.decide(known), after.decide(known)
        if isinstance(place_before, Placement) and isinstance(place_after, Placement):
            counts[place_before, place_after, len(known)] += count
            continue
        salt = place_before if isinstance(place_before, str) else place_after
        assert isinstance(salt, str)
        todo += [({**known, salt: bucket}, count * size) for bucket, size in atoms[salt]]
    shares: dict[tuple[Placement, Placement], Fraction] = {}
    for (place_before, place_after, depth), count in counts.items():
        pair = (place_before, place_after)
        shares[pair] = shares.get(pair, Fraction(0)) + Fraction(count, BUCKETS**depth)
    return _movement(shares)


def movement_of(users: Iterable[str], old: Assigner, new: Assigner, attributes: Mapping[str, str]) -> Movement:
    """The movement of these very users, who all have these attributes; ValueError if there are none."""
    counts: Counter[tuple[Placement, Placement]] = Counter()
    for user_id in users:
        before, after = old.assign(user_id, attributes)[0], new.assign(user_id, attributes)[0]
        counts[
            Placement(before.experiment, before.group, before.served_by),
            Placement(after.experiment, after.group, after.served_by),
        ] += 1
    total = counts.total()
    if not total:
        raise ValueError("there are no users to count")
    return _movement({pair: Fraction(count, total) for pair, count in counts.items()})


def _movement(shares: Mapping[tuple[Placement, Placement], Fraction]) -> Movement:
    flows = (Flow(before, after, share) for (before, after), share in shares.items())
    return Movement(tuple(sorted(flows, key=lambda flow: (-flow.share, str(flow.before), str(flow.after)))))


class _Experiment(NamedTuple):
    salt: str
    groups: bytes  # group index of each bucket
    places: tuple[Placement, ...]  # of each group


class _Chain:
    """A configuration at an instant as a list of decisions, each by the bucket of one salt."""

    def __init__(self, config: Config, at: datetime) -> None:
        self._nowhere = Placement(None, None, config.default)
        self._holdout = config.holdout
        self._experiments: list[_Experiment] = []
        slots: dict[str, list[int]] = {}
        for experiment in config.experiments:
            layer = slots.setdefault(layer_salt(experiment.layer), [])
            allocation = allocation_in_force(experiment, at)
            taking = allocation.traffic_bp if allocation and experiment.enabled else 0
            layer += [len(self._experiments)] * taking + [-1] * (experiment.traffic_bp - taking)
            if allocation and taking:
                places = tuple(
                    Placement(experiment.name, one.name, experiment.served_by(one)) for one in experiment.groups
                )
                self._experiments.append(_Experiment(experiment.salt, table(allocation.runs), places))
        self._layers = {salt: [*filled, *[-1] * (BUCKETS - len(filled))] for salt, filled in slots.items()}

    def tables(self) -> Iterable[tuple[str, list[int] | bytes]]:
        """Every table of 10,000 that something is decided by, with its salt."""
        limit = self._holdout.percent_bp
        yield self._holdout.salt, [0] * limit + [1] * (BUCKETS - limit)
        yield from self._layers.items()
        for experiment in self._experiments:
            yield experiment.salt, experiment.groups

    def decide(self, known: Mapping[str, int]) -> Placement | str:
        """Where a user with these buckets is, or the salt whose bucket is needed to say."""
        if self._holdout.percent_bp:
            if self._holdout.salt not in known:
                return self._holdout.salt
            if known[self._holdout.salt] < self._holdout.percent_bp:
                return self._nowhere
        for salt, slots in self._layers.items():
            if salt not in known:
                return salt
            if (number := slots[known[salt]]) >= 0:
                experiment = self._experiments[number]
                if experiment.salt not in known:
                    return experiment.salt
                return experiment.places[experiment.groups[known[experiment.salt]]]
        return self._nowhere


def _atoms(*chains: _Chain) -> dict[str, list[tuple[int, int]]]:
    """For each salt the sets of buckets that no table tells apart: one bucket of each set, and the set's size."""
    tables: dict[str, list[list[int] | bytes]] = {}
    for chain in chains:
        for salt, decided in chain.tables():
            tables.setdefault(salt, []).append(decided)
    atoms = {}
    for salt, columns in tables.items():
        sizes = Counter(zip(*columns, strict=True))
        one_of_each = dict(zip(zip(*columns, strict=True), range(BUCKETS), strict=True))
        atoms[salt] = [(one_of_each[row], size) for row, size in sizes.items()]
    return atoms
