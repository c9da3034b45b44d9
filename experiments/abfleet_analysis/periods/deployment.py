"""What the experiments file says of where versions run: which one everybody falls back to, and how many replicas."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from abfleet_experiments.config import Config, Experiment


@dataclass(frozen=True, slots=True)
class Deployment:
    """What guardrails need to know of groups besides the log.

    Attributes:
        replicas: Of each group's version; None where it is not known. Empty if nothing is.
        default_control: Whether control is the version that answers when another does not, so that the log does not say
            why control failed; also where nobody knows, since that holds less against a treatment.
    """

    replicas: tuple[int | None, ...] = ()
    default_control: bool = True

    def pair(self, group: int) -> tuple[int, int] | None:
        """Replicas of a treatment and of control, if both are known."""
        if not self.replicas:
            return None
        treatment, control = self.replicas[group], self.replicas[0]
        return None if treatment is None or control is None else (treatment, control)


def deployment_of(config: Config | None, experiment: Experiment | None, groups: Sequence[str]) -> Deployment:
    """The groups' deployment by the file as it is now; of groups that it does not know nothing is known."""
    if config is None or experiment is None:
        return Deployment()
    models = {group.name: group.model for group in experiment.groups}
    replicas = tuple(
        replicas_in(config.models[models[name]].target) if name in models and models[name] in config.models else None
        for name in groups
    )
    return Deployment(replicas, models.get(groups[0], config.default) == config.default)


def replicas_in(target: Sequence[str]) -> int | None:
    """How many replicas a target is: each entry of a list, and one address. A single name may stand for many."""
    if any(entry.startswith("dns:///") for entry in target):
        return None
    return len(target) if len(target) > 1 or _one_place(target[0]) else None


def _one_place(entry: str) -> bool:
    if entry.startswith("unix:"):
        return True
    try:
        ipaddress.ip_address(entry.rpartition(":")[0].strip("[]"))
    except ValueError:
        return False
    return True
