"""The files that our router reads: experiments and fleets, of any shape. Knows their format, not their reader."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mmh3

VERSIONS = ("v1.2.3", "v1.3.0-beta", "v1.4.0-rc1")
GROUPS = ("control", "experiment", "canary")
WEIGHTS = (70, 20, 10)
SALT = "homepage-ranking-2026-11"


@dataclass(frozen=True, slots=True)
class Shape:
    """How large the experiments file is; the split over the three versions is 70/20/10 whatever the shape."""

    experiments: int = 1
    layered: bool = False
    """Each experiment in a layer of its own: the last takes all users, the others 2 %. Else slices of one layer."""
    overrides: int = 0
    groups: int = 3


PLAIN = Shape()


def group_of(user_id: str) -> int:
    """Returns the index of the user's group in a file of the plain shape."""
    bucket = mmh3.hash(f"{SALT}:{user_id}", 0, signed=False) * 10_000 >> 32
    return 0 if bucket < 7_000 else 1 if bucket < 9_000 else 2


def write_experiments(path: Path, shape: Shape = PLAIN) -> Path:
    """Writes an experiments file of that shape (JSON, which is YAML too, and quick to load)."""
    experiments = []
    left = 10_000
    for number in range(shape.experiments):
        last = number == shape.experiments - 1
        traffic = left if last and not shape.layered else 10_000 // shape.experiments
        left -= traffic
        name = "homepage-ranking" if number == 0 else f"experiment-{number}"
        experiment = {
            "name": name,
            "salt": SALT if number == 0 else f"{name}-salt",
            "groups": _groups(shape.groups),
        }
        if shape.layered:
            experiment["layer"] = f"layer-{number}"
            experiment["traffic"] = 100 if last else 2
        else:
            experiment["traffic"] = traffic / 100
        if number == 0 and shape.overrides:
            experiment["overrides"] = {f"qa-{user}": "control" for user in range(shape.overrides)}
        experiments.append(experiment)
    document = {
        "version": 1,
        "default": VERSIONS[0],
        "models": {version: {"target": f"dns:///worker-{at}:50061"} for at, version in enumerate(VERSIONS)},
        "experiments": experiments,
    }
    path.write_text(json.dumps(document, indent=1))
    return path


def write_fleet(path: Path, ports: Mapping[str, Sequence[int]]) -> Path:
    """Writes a fleet file: version -> ports of its replicas on the loopback interface."""
    models = {version: {"target": [f"127.0.0.1:{port}" for port in replicas]} for version, replicas in ports.items()}
    path.write_text(json.dumps({"version": 1, "models": models}, indent=1))
    return path


def _groups(count: int) -> list[dict[str, object]]:
    """Returns `count` groups, a third for each version, whose weights sum to the version's share."""
    groups: list[dict[str, object]] = []
    for at, version in enumerate(VERSIONS):
        members = count // 3 + (at < count % 3)
        share, used = WEIGHTS[at] * 100, 0
        for member in range(members):
            hundredths = share - used if member == members - 1 else share // members
            used += hundredths
            name = GROUPS[at] if member == 0 else f"{GROUPS[at]}-{member}"
            groups.append({"name": name, "model": version, "weight": hundredths / 100})
    return groups
