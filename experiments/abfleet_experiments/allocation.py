"""The allocation of an experiment at an instant: its shares, its buckets and its id."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from abfleet_experiments.allocate import BucketRange, fold
from abfleet_experiments.bucketing import BUCKETS
from abfleet_experiments.config import Experiment


@dataclass(frozen=True, slots=True)
class Allocation:
    """A period with one set of weights, traffic and salt; analysis compares inside allocations.

    Attributes:
        id: 12 hex digits over salt, traffic, weights and buckets. The buckets are part of it, because two ramps may
            reach the same weights on different ways, and then a bucket's group need not be the same.
        traffic_bp: Part of the layer's users that the experiment takes.
        weights_bp: Share of each group, in the order of the groups.
        runs: The buckets of each group.
    """

    id: str
    traffic_bp: int
    weights_bp: tuple[int, ...]
    runs: tuple[BucketRange, ...]


def allocation_in_force(experiment: Experiment, at: datetime) -> Allocation | None:
    """What divides an experiment's users at an instant, enabled or not; None before the first row of its ramp."""
    row = experiment.row_in_force(at)
    if row is None:
        return None
    rows = [past.weights_bp for past in experiment.ramp if past.at <= at] or [row.weights_bp]
    runs = fold(rows, control=experiment.control_index)
    weights = dict(zip((group.name for group in experiment.groups), row.weights_bp, strict=True))
    identity = _identity(experiment.salt, row.traffic_bp, weights, runs)
    return Allocation(identity, row.traffic_bp, row.weights_bp, runs)


def split_of(
    identity: str, salt: str, traffic_bp: int, weights_bp: Mapping[str, int], control: str
) -> tuple[BucketRange, ...] | None:
    """The buckets of an allocation of which the log has id and shares, groups in the file's order.

    None where they are not those of a plain split: in a ramp they depend on the rows before, which no log has.
    """
    rows = [list(weights_bp.values())]
    if control not in weights_bp or sum(rows[0]) != BUCKETS or min(rows[0]) < 0:
        return None
    runs = fold(rows, control=list(weights_bp).index(control))
    return runs if _identity(salt, traffic_bp, weights_bp, runs) == identity else None


def _identity(salt: str, traffic_bp: int, weights_bp: Mapping[str, int], runs: Sequence[BucketRange]) -> str:
    names = list(weights_bp)
    described = {
        "salt": salt,
        "traffic_bp": traffic_bp,
        "weights_bp": {name: weight for name, weight in weights_bp.items() if weight},
        "runs": [[run.start, run.end, names[run.group]] for run in runs],
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]
