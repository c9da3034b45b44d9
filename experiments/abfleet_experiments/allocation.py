"""The allocation of an experiment at an instant: its shares, its buckets and its id."""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime

from abfleet_experiments.allocate import BucketRange, fold
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
    names = [group.name for group in experiment.groups]
    identity = {
        "salt": experiment.salt,
        "traffic_bp": row.traffic_bp,
        "weights_bp": {name: weight for name, weight in zip(names, row.weights_bp, strict=True) if weight},
        "runs": [[run.start, run.end, names[run.group]] for run in runs],
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return Allocation(digest[:12], row.traffic_bp, row.weights_bp, runs)
