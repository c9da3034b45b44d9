"""A registry's offline metrics and catalogue sizes of its versions. Reads only."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from abfleet_models.errors import RegistryError
from abfleet_models.registry import ModelVersion, Registry


@dataclass(frozen=True, slots=True)
class Offline:
    """One version. `items`: how many its catalogue has; None where metadata.json does not count them."""

    metrics: tuple[tuple[str, float], ...]
    items: int | None


@dataclass(frozen=True, slots=True)
class OfflineFacts:
    """All that could be read, by version, archived ones too; `problems` says what could not."""

    versions: dict[str, Offline]
    problems: tuple[str, ...]


def offline_facts(folder: Path) -> OfflineFacts:
    """The facts of every version of a registry. A version that cannot be read becomes a line of `problems`."""
    registry = Registry(folder)
    found: dict[str, Offline] = {}
    problems: list[str] = []
    try:
        readers: dict[str, Callable[[str], ModelVersion]] = {}
        readers |= dict.fromkeys(registry.archived_versions(), registry.archived)
        readers |= dict.fromkeys(registry.versions(), registry.resolve)
    except RegistryError as error:
        return OfflineFacts({}, (str(error),))
    for name, read in readers.items():
        try:
            version = read(name)
            metrics = version.metrics()
        except RegistryError as error:
            problems.append(str(error))
            continue
        counts = dict(version.manifest.training.counts)
        found[name] = Offline(metrics.values if metrics is not None else (), counts.get("items"))
    return OfflineFacts(found, tuple(problems))
