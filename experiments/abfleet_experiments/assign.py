"""Which group and which version a user gets, under one configuration at one instant.

The order of evaluation, first match wins:

1. no user id: the default version, `no_user_id`;
2. an override of an enabled experiment, the first in the file: `override`, whatever holdout, traffic, audience and
   ramp say;
3. the holdout: the default version, `holdout`;
4. the layers, in the order in which the file first names them: the slice that holds the user's layer bucket takes the
   user if its experiment is enabled, its traffic in force reaches that far, and the audience matches: `allocated`;
   else the next layer is asked;
5. the default version. The reason is `not_in_audience` if any slice held the user and its audience did not match (an
   attribute decided, and another request may be answered differently), else `not_in_traffic` (the buckets decided, or
   the experiment is disabled or not yet begun), or `no_experiment` if the file has none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from itertools import chain
from typing import Final, NamedTuple

import mmh3

from abfleet_experiments import audience
from abfleet_experiments.allocation import Allocation, allocation_in_force
from abfleet_experiments.bucketing import BUCKETS, layer_salt
from abfleet_experiments.config import Config, Experiment

NO_USER_ID: Final = "no_user_id"
OVERRIDE: Final = "override"
HOLDOUT: Final = "holdout"
ALLOCATED: Final = "allocated"
NOT_IN_AUDIENCE: Final = "not_in_audience"
NOT_IN_TRAFFIC: Final = "not_in_traffic"
NO_EXPERIMENT: Final = "no_experiment"
PINNED: Final = "pinned"
"""The caller named the version; nothing was assigned."""

FEW_LAYERS: Final = 4
"""To hash a user for each of so many costs about as much as to remember where the user was."""
REMEMBERED_USERS: Final = 65_536
"""Some 15 MB. Who comes again within as many users is not hashed again for every layer."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One possible result of the assignment, shared by all users who get it.

    Attributes:
        index: Its position in `Assigner.arms`.
        layer, experiment, group: None where no experiment takes the user.
        reason: One of the constants of this module.
        allocation: Id of the allocation in force; None without an experiment, and for an override before the first
            ramp row.
        propensity: The group's share then in force, 0 to 1; None where there is no allocation.
        model_version: The version that is to serve; "" with `interleave`.
        interleave: The two versions whose lists are to be one, the first as team A.
    """

    index: int
    layer: str | None
    experiment: str | None
    group: str | None
    reason: str
    allocation: str | None
    propensity: float | None
    model_version: str
    interleave: tuple[str, str] | None = None

    @property
    def served_by(self) -> str:
        """The version that is to serve, or both: `v1.2.3 + v1.3.0-beta`."""
        return self.model_version if self.interleave is None else " + ".join(self.interleave)


@dataclass(frozen=True, slots=True)
class AllocationEvent:
    """What the decision log says of an experiment when a configuration or a ramp row takes effect.

    Attributes:
        traffic: Percent of the layer's users that the experiment takes; 0 when it is disabled or not yet begun.
        weights: Group to percent; empty before the first ramp row.
    """

    experiment: str
    salt: str
    allocation: str | None
    traffic: float
    weights: Mapping[str, float]


class _Slot(NamedTuple):
    """An experiment that takes users now."""

    prefix: str
    arms: tuple[Arm, ...]  # one for each of the 10,000 buckets
    audience: audience.Test | None


class _Layer(NamedTuple):
    """A layer that takes users now. Without a prefix, one experiment has all its buckets, and no hash is needed."""

    prefix: str | None
    slots: tuple[_Slot | None, ...]  # one for each of the 10,000 buckets


class Assigner:
    """A configuration compiled for one instant. Immutable; make another when `next_change` has come.

    Attributes:
        arms: Every arm that `assign` can return; `arms[i].index == i`.
        allocations: What to log when this comes into force, in file order.
        next_change: When the next dated ramp row takes effect, or None.
    """

    __slots__ = (
        "_holdout",
        "_holdout_bp",
        "_holdout_prefix",
        "_layers",
        "_layers_of",
        "_no_user",
        "_nobody",
        "_overrides",
        "_refused",
        "allocations",
        "arms",
        "next_change",
    )

    def __init__(self, config: Config, at: datetime) -> None:
        arms = _Arms(config)
        in_force = {experiment.name: allocation_in_force(experiment, at) for experiment in config.experiments}
        self._no_user = arms.default(NO_USER_ID)
        self._holdout_bp = config.holdout.percent_bp
        self._holdout_prefix = f"{config.holdout.salt}:"
        self._refused = arms.default(NOT_IN_AUDIENCE)
        self._nobody = arms.default(NOT_IN_TRAFFIC if config.experiments else NO_EXPERIMENT)
        self._layers = _layers(config, in_force, arms)
        self._layers_of: Callable[[str], tuple[_Layer, ...]] | None = None
        if len(self._layers) > FEW_LAYERS:
            self._layers_of = lru_cache(REMEMBERED_USERS)(partial(_layers_of, self._layers))
        self._overrides = _overrides(config, in_force, arms)
        self._holdout = arms.default(HOLDOUT)
        self.arms: Final = tuple(arms.made)
        self.allocations: Final = tuple(
            _event(experiment, in_force[experiment.name]) for experiment in config.experiments
        )
        self.next_change: Final = config.next_change(at)

    def assign(self, user_id: str, attributes: Mapping[str, str]) -> tuple[Arm, int | None]:
        """The arm of a user, and the bucket under the experiment's salt, or None where no experiment takes the user.

        `user_id` is valid UTF-8 without control characters, empty if absent. An override has a bucket too: the one
        that would have decided.
        """
        if not user_id:
            return self._no_user, None
        if self._overrides and (forced := self._overrides.get(user_id)) is not None:
            arm, salt_prefix = forced
            return arm, mmh3.hash(salt_prefix + user_id, 0, False) * BUCKETS >> 32
        if self._holdout_bp and mmh3.hash(self._holdout_prefix + user_id, 0, False) * BUCKETS >> 32 < self._holdout_bp:
            return self._holdout, None
        nobody = self._nobody
        layers = self._layers if self._layers_of is None else self._layers_of(user_id)
        for prefix, slots in layers:
            slot = slots[0 if prefix is None else mmh3.hash(prefix + user_id, 0, False) * BUCKETS >> 32]
            if slot is None:
                continue
            salt_prefix, arms, in_audience = slot
            if in_audience is None or in_audience(attributes):
                user_bucket = mmh3.hash(salt_prefix + user_id, 0, False) * BUCKETS >> 32
                return arms[user_bucket], user_bucket
            nobody = self._refused
        return nobody, None


def _layers_of(layers: tuple[_Layer, ...], user_id: str) -> tuple[_Layer, ...]:
    """The layers that can still decide for a user: those up to the first slot that takes everybody."""
    concerned: list[_Layer] = []
    for prefix, slots in layers:
        slot = slots[0 if prefix is None else mmh3.hash(prefix + user_id, 0, False) * BUCKETS >> 32]
        if slot is not None:
            concerned.append(_Layer(None, (slot,)))
            if slot.audience is None:
                break
    return tuple(concerned)


class _Arms:
    """Makes the arms, each with its index. Lives only while an Assigner is built."""

    def __init__(self, config: Config) -> None:
        self._default = config.default
        self.made: list[Arm] = []

    def default(self, reason: str) -> Arm:
        """The arm of users whom no experiment takes, for this reason."""
        return self._add(Arm(len(self.made), None, None, None, reason, None, None, self._default))

    def group(self, experiment: Experiment, group: int, allocation: Allocation | None, *, reason: str) -> Arm:
        """The arm of a group under an allocation; without one it has no propensity."""
        name, model = experiment.groups[group].name, experiment.groups[group].model
        identity, propensity = (allocation.id, allocation.weights_bp[group] / BUCKETS) if allocation else (None, None)
        duel = experiment.interleave
        return self._add(
            Arm(len(self.made), experiment.layer, experiment.name, name, reason, identity, propensity, model, duel)
        )

    def _add(self, arm: Arm) -> Arm:
        self.made.append(arm)
        return arm


def _layers(config: Config, in_force: Mapping[str, Allocation | None], arms: _Arms) -> tuple[_Layer, ...]:
    """The layers in order of first appearance, without those that take nobody now."""
    slots: dict[str, list[_Slot | None]] = {}
    for experiment in config.experiments:
        layer = slots.setdefault(experiment.layer, [])
        allocation = in_force[experiment.name]
        taking = allocation.traffic_bp if allocation and experiment.enabled else 0
        slot = _slot(experiment, allocation, arms) if allocation and taking else None
        layer += [slot] * taking + [None] * (experiment.traffic_bp - taking)
    layers = []
    for name, filled in slots.items():
        if any(slot is not None for slot in filled):
            whole = len(filled) == BUCKETS and all(slot is filled[0] for slot in filled)
            table = (filled[0],) if whole else (*filled, *[None] * (BUCKETS - len(filled)))
            layers.append(_Layer(None if whole else f"{layer_salt(name)}:", table))
    return tuple(layers)


def _slot(experiment: Experiment, allocation: Allocation, arms: _Arms) -> _Slot:
    """An experiment's table of arms, from the runs of its allocation."""
    by_group = {
        group: arms.group(experiment, group, allocation, reason=ALLOCATED)
        for group, weight_bp in enumerate(allocation.weights_bp)
        if weight_bp
    }
    table = tuple(chain.from_iterable([by_group[run.group]] * (run.end - run.start) for run in allocation.runs))
    return _Slot(f"{experiment.salt}:", table, audience.compiled(experiment.audience))


def _overrides(config: Config, in_force: Mapping[str, Allocation | None], arms: _Arms) -> Mapping[str, tuple[Arm, str]]:
    """Forced users, each with an arm and the salt's prefix.

    The first experiment of the file that names a user wins; a disabled one forces nobody.
    """
    forced: dict[str, tuple[Arm, str]] = {}
    for experiment in config.experiments:
        made: dict[str, tuple[Arm, str]] = {}
        for user_id, name in experiment.overrides.items() if experiment.enabled else ():
            if user_id in forced:
                continue
            if name not in made:
                index = next(i for i, group in enumerate(experiment.groups) if group.name == name)
                arm = arms.group(experiment, index, in_force[experiment.name], reason=OVERRIDE)
                made[name] = (arm, f"{experiment.salt}:")
            forced[user_id] = made[name]
    return forced


def _event(experiment: Experiment, allocation: Allocation | None) -> AllocationEvent:
    if allocation is None:
        return AllocationEvent(experiment.name, experiment.salt, None, 0.0, {})
    weights = {g.name: bp / 100 for g, bp in zip(experiment.groups, allocation.weights_bp, strict=True)}
    traffic = allocation.traffic_bp / 100 if experiment.enabled else 0.0
    return AllocationEvent(experiment.name, experiment.salt, allocation.id, traffic, weights)
