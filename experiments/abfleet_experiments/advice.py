"""Remarks on configurations that are valid and probably mistaken.

An attribute that a treatment can change must not decide who is in the experiment: the groups would lose and gain
different users, and comparing them would say little. The file does not tell where attributes come from, so their names
are read: quantities and words of behaviour are taken for changeable, what is fixed before the request is not.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from abfleet_experiments.config import Config, Experiment, InRange, OipModel

_BEHAVIOUR: Final = re.compile(
    r"(^|[_.-])(active|activity|basket|bought|cart|churn\w*|clicks?|clicked|conver\w+|count|days?|engage\w*|favou?rites?|freq\w*|"
    r"last|level|likes?|loyal\w*|orders?|plays?|plan|points?|premium|purchas\w*|ratings?|recency|revenue|scores?|segment|"
    r"sessions?|spen[dt]\w*|streak|subscri\w*|tenure|tier|views?|viewed|visits?|watch\w*|wishlist)($|[_.-]|[0-9])",
    re.IGNORECASE,
)
ALIASES: Final = frozenset({"production", "staging"})
"""Names of the registry that lead to another version tomorrow."""
_FIXED: Final = re.compile(r"(^|[_.-])(age|api|app|birth\w*|build|sdk|version|year)($|[_.-])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Advice:
    """One remark; `key_path` as in errors, `message` what may go wrong and what to do instead."""

    key_path: str
    message: str

    def __str__(self) -> str:
        return f"{self.key_path}: {self.message}"


def advice(config: Config) -> tuple[Advice, ...]:
    """All remarks on a configuration, in file order."""
    return (
        *_targets(config),
        *_salts(config),
        *(a for i, e in enumerate(config.experiments) for a in _experiment(i, e)),
        *_shadow(config),
    )


def changeable(attribute: str, *, quantity: bool) -> bool:
    """Whether a treatment could change an attribute, as far as its name tells."""
    if _FIXED.search(attribute):
        return False
    return quantity or _BEHAVIOUR.search(attribute) is not None


def _experiment(index: int, experiment: Experiment) -> Iterator[Advice]:
    path = f"experiments[{index}]"
    for condition in experiment.audience:
        if changeable(condition.attribute, quantity=isinstance(condition, InRange)):
            yield Advice(
                f"{path}.audience.{condition.attribute}",
                f"a treatment may change `{condition.attribute}`, which then selects the users who are compared; "
                "use an "
                "attribute that is fixed before the experiment, or send the value from before it",
            )
    for number, version in enumerate(experiment.versions):
        if version in ALIASES:
            where = f"groups[{number}].model" if experiment.interleave is None else f"interleave[{number}]"
            yield Advice(
                f"{path}.{where}",
                f"`{version}` is an alias: when it moves to another version, what users get changes in "
                "the middle of the experiment, and no allocation records it; name the version instead",
            )
    for row, ramp in enumerate(experiment.ramp):
        if ramp.traffic_bp == 0 and row == len(experiment.ramp) - 1:
            yield Advice(f"{path}.ramp[{row}].traffic", "the last row takes no users; write `enabled: false` instead")
    weights = {group.name: group.weight_bp for group in experiment.groups}
    forced = {name for name in experiment.overrides.values() if not weights[name]}
    for name in sorted(forced):
        yield Advice(
            f"{path}.overrides",
            f"`{name}` has weight 0, so the file comes into force without waiting for workers of its version",
        )
    if len(experiment.groups) > 1 and weights[experiment.control] == 0 and experiment.enabled:
        yield Advice(
            f"{path}.groups", f"the control `{experiment.control}` has weight 0, so there is nothing to compare with"
        )


def _salts(config: Config) -> Iterator[Advice]:
    first: dict[str, str] = {}
    for index, experiment in enumerate(config.experiments):
        if experiment.salt in first:
            yield Advice(
                f"experiments[{index}].salt",
                f"`{experiment.salt}` is also the salt of `{first[experiment.salt]}`, so the groups of the two "
                "experiments correlate; give each its own salt",
            )
        first.setdefault(experiment.salt, experiment.name)


def _targets(config: Config) -> Iterator[Advice]:
    owner: dict[tuple[str, OipModel | None], str] = {}
    for version, model in config.models.items():
        for target in model.target:
            if (first := owner.setdefault((target, model.oip), version)) != version:
                why = "a worker serves one version" if model.oip is None else "both are the same model of that server"
                yield Advice(f'models["{version}"].target', f"`{target}` is also a target of `{first}`; {why}")


def _shadow(config: Config) -> Iterator[Advice]:
    served = {config.default, *(version for one in config.experiments if one.enabled for version in one.versions)}
    for index, shadow in enumerate(config.shadow):
        if shadow.of and not served.intersection(shadow.of):
            listed = ", ".join(f"`{version}`" for version in shadow.of)
            yield Advice(
                f"shadow[{index}].of",
                f"no user gets {listed}, so `{shadow.model}` is compared only where a caller of ModelInfer names it; "
                "name a version that users get",
            )
        elif served == {shadow.model}:
            yield Advice(
                f"shadow[{index}].model",
                f"`{shadow.model}` serves all users, so there is no other version to compare it with",
            )
