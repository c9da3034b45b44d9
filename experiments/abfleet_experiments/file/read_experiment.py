"""From the values of an experiment's keys to one Experiment: the rules between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from abfleet_process.declarations.nodes import Findings, Path, shown, suggestion

from abfleet_experiments.bucketing import BUCKETS
from abfleet_experiments.config import (
    INTERLEAVED,
    AnalysisPlan,
    Condition,
    Experiment,
    Group,
    Guardrail,
    InRange,
    MetricsPlan,
    OneOf,
    Presence,
    RampRow,
    percent_text,
    shares_text,
)
from abfleet_experiments.file import keys
from abfleet_experiments.file.read_autopilot import read_autopilot
from abfleet_experiments.file.read_exclude import read_exclude

Values = dict[str, Any]
"""Of a mapping's keys, each right by itself or None."""


@dataclass(frozen=True, slots=True)
class Known:
    """Names from elsewhere in the file.

    Attributes:
        versions: Of models; None if `models` could not be read, and then nothing is held against it.
        metrics: Of the file's own metrics.
    """

    versions: frozenset[str] | None
    metrics: frozenset[str]


def read_experiment(findings: Findings, values: Values, path: Path, known: Known) -> Experiment | None:
    """The experiment, or None if nothing of use can be said of it; mistakes go to the findings.

    With mistakes inside it is still given where name, layer and traffic are known, for the checks between experiments.
    """
    name, traffic, layer = values["name"], values["traffic"], values["layer"]
    interleaves = findings.given((*path, "interleave"))
    interleave = _interleave(findings, values, path, known) if interleaves else None
    groups = _groups(findings, values["groups"], (*path, "groups"), known)
    names = _group_names(values["groups"])
    if interleaves:
        groups, names = (Group(INTERLEAVED, "", BUCKETS),), (INTERLEAVED,)
    if names is not None:
        _check_overrides(findings, values["overrides"] or {}, (*path, "overrides"), names)
    ramp = _ramp(findings, values["ramp"] or [], (*path, "ramp"), names, traffic, groups, shares_given=not interleaves)
    metrics = MetricsPlan()
    if values["metrics"] is not None and not interleaves:
        metrics = _metrics_plan(findings, values["metrics"], (*path, "metrics"), known)
    plan = AnalysisPlan()
    if values["plan"] is not None:
        plan = _plan(findings, values["plan"], (*path, "plan"), minimum=not interleaves)
    exclude = read_exclude(findings, values["exclude"] or [], (*path, "exclude"), ramp)
    autopilot = None
    if not interleaves:
        autopilot = read_autopilot(findings, values["autopilot"], (*path, "autopilot"), traffic, values["groups"])
    audience = _audience(findings, values["audience"] or {}, (*path, "audience"))
    control = INTERLEAVED if interleaves else None
    if control is None and names is not None:
        control = _control(findings, values["groups"], (*path, "groups"))
    if name is None or traffic is None or layer is None:
        return None
    return Experiment(
        name=name,
        salt=values["salt"] or name,
        groups=groups,
        control=control or "",
        owner=values["owner"],
        hypothesis=values["hypothesis"],
        enabled=values["enabled"],
        layer=layer,
        traffic_bp=traffic,
        audience=audience,
        overrides=values["overrides"],
        ramp=ramp,
        metrics=metrics,
        plan=plan,
        exclude=exclude,
        autopilot=autopilot,
        interleave=interleave,
    )


def _interleave(findings: Findings, values: Values, path: Path, known: Known) -> tuple[str, str] | None:
    """The two versions, None if they are wrong; notes keys that have no meaning beside them."""
    for key, why in (
        ("metrics", "clicks on the items of each version decide"),
        ("autopilot", "there is no group to act on"),
    ):
        if findings.given((*path, key)):
            message = f"is not allowed with `interleave`, because {why}; leave it out"
            findings.add((*path, key), message, findings.key_node((*path, key)))
    given: list[str | None] = values["interleave"] or []
    for index, version in enumerate(given):
        if version is not None and known.versions is not None and version not in known.versions:
            message = f"{shown(version)} is not one of the models{suggestion(version, known.versions)}"
            findings.add((*path, "interleave", index), message)
    first, second = given if len(given) == 2 else (None, None)
    return None if first is None or second is None else (first, second)


def _group_names(given: Sequence[Values | None] | None) -> tuple[str, ...] | None:
    """The names of the groups whatever else is wrong with them; None if not all can be read."""
    names = [one and one["name"] for one in given or ()]
    return None if given is None or None in names else tuple(str(name) for name in names)


def _groups(findings: Findings, given: Sequence[Values | None] | None, path: Path, known: Known) -> tuple[Group, ...]:
    """The groups if all of them are right, else none."""
    groups: list[Group] = []
    for index, values in enumerate(given or ()):
        if values is None:
            continue
        name, model, weight = values["name"], values["model"], values["weight"]
        if any(name == group.name for group in groups):
            findings.add((*path, index, "name"), f"{shown(name)} is already the name of another group")
        if model is not None and known.versions is not None and model not in known.versions:
            message = f"{shown(model)} is not one of the models{suggestion(model, known.versions)}"
            findings.add((*path, index, "model"), message)
        if None not in (name, model, weight):
            groups.append(Group(name, model, weight))
    if len(groups) < len(given or ()) or not groups:
        return ()
    if sum(group.weight_bp for group in groups) != BUCKETS:
        listed = shares_text([(group.name, group.weight_bp) for group in groups])
        findings.add(path, f"weights must sum to 100 percent: {listed}")
    return tuple(groups)


def _control(findings: Findings, given: Sequence[Values], path: Path) -> str | None:
    """The name of the baseline: the group marked `control: true`, else the one named control, else the only one."""
    named = [values["name"] for values in given]
    marked = [values["name"] for values in given if values["control"]]
    if "control" in named and "control" not in marked:
        index = named.index("control")
        denied = given[index]["control"] is False and findings.given((*path, index, "control"))
        marked += [] if denied else ["control"]
    if len(marked) == 1:
        return str(marked[0])
    if not marked and len(named) == 1:
        return str(named[0])
    if named:
        what = f"{', '.join(marked)} are" if marked else "none is"
        findings.add(path, f"exactly one group must be named `control` or have `control: true`; {what}")
    return None


def _audience(findings: Findings, given: Values, path: Path) -> tuple[Condition, ...]:
    conditions = [
        _condition(findings, attribute, value, (*path, attribute))
        for attribute, value in sorted(given.items())
        if value is not None
    ]
    return tuple(conditions)


def _condition(findings: Findings, attribute: str, value: Any, path: Path) -> Condition:
    if isinstance(value, str):
        return OneOf(attribute, (value,))
    if isinstance(value, list):
        return OneOf(attribute, tuple(sorted({one for one in value if one is not None})))
    if "present" in value:
        return Presence(attribute, value["present"])
    low, high = value["min"], value["max"]
    if low is not None and high is not None and low > high:
        findings.add(path, f"`min` {low:g} is above `max` {high:g}, which nobody matches")
    return InRange(attribute, low, high)


def _check_overrides(findings: Findings, given: Values, path: Path, groups: tuple[str, ...]) -> None:
    for user_id, group in given.items():
        if group is not None and group not in groups:
            message = f"{shown(group)} is not a group of the experiment{suggestion(group, groups)}"
            findings.add((*path, user_id), message)


def _ramp(
    findings: Findings,
    given: Sequence[Values | None],
    path: Path,
    names: tuple[str, ...] | None,
    traffic: int | None,
    groups: tuple[Group, ...],
    *,
    shares_given: bool,
) -> tuple[RampRow, ...]:
    """The rows that have no mistake. Each row is checked as far as what is right of it goes: all mistakes at once.

    shares_given: Whether a row has shares of groups; without, one group has all users.
    """
    rows: list[RampRow] = []
    weights: tuple[int, ...] | None = None
    above: datetime | None = None
    for index, values in enumerate(given):
        here = (*path, index)
        weights = None
        if values is None:
            continue
        at = values["at"]
        if at is not None and above is not None and at <= above:
            findings.add((*here, "at"), "must be later than the time of the row above", findings.node(here))
        above = at or above
        if names is None:
            continue
        own = BUCKETS if traffic is None else traffic
        taken, weights = _ramp_row(findings, values, here, names if shares_given else (), own)
        weights = weights if shares_given else (BUCKETS,)
        if at is not None and taken is not None and weights is not None:
            rows.append(RampRow(at, taken, weights))
    if groups and weights is not None and weights != tuple(g.weight_bp for g in groups):
        wanted = ", ".join(f"{g.name} {percent_text(bp)}" for g, bp in zip(groups, weights, strict=True))
        message = f"the last row and the groups' weights must be equal; here: {wanted}"
        findings.add((*path, len(given) - 1), message)
    return tuple(rows)


def _ramp_row(
    findings: Findings, values: Values, path: Path, names: tuple[str, ...], traffic: int
) -> tuple[int | None, tuple[int, ...] | None]:
    """Traffic and shares of a row in basis points; None for what is wrong."""
    allowed = [*(key.name for key in keys.RAMP_ROW.keys), *names]
    for name in values:
        if name not in allowed:
            here = (*path, name)
            findings.add(here, f"is not a known key{suggestion(name, allowed)}", findings.key_node(here))
    taken = values["traffic"] if findings.given((*path, "traffic")) else traffic
    weights = [values.get(name, 0) for name in names]
    if taken is not None and taken > traffic:
        message = f"{percent_text(taken)} is more than the experiment's own `traffic` of {percent_text(traffic)}"
        findings.add((*path, "traffic"), message)
    if None in weights or not names:
        return taken, None
    if sum(weights) != BUCKETS:
        listed = shares_text(list(zip(names, weights, strict=True)))
        findings.add(path, f"shares must sum to 100 percent: {listed}")
        return taken, None
    return taken, tuple(weights)


def _metrics_plan(findings: Findings, values: Values, path: Path, known: Known) -> MetricsPlan:
    _check_metric(findings, values["primary"], (*path, "primary"), known, judged=True)
    guardrails: list[Guardrail] = []
    for index, value in enumerate(values["guardrails"] or ()):
        here = (*path, "guardrails", index)
        guardrail = _guardrail(findings, value, here, known)
        if any(guardrail.name == other.name for other in guardrails):
            findings.add(here, f"{shown(guardrail.name)} is given twice")
        elif guardrail.name:
            guardrails.append(guardrail)
    for index, name in enumerate(values["secondary"] or ()):
        _check_metric(findings, name, (*path, "secondary", index), known, judged=False)
    return MetricsPlan(values["primary"], tuple(guardrails), tuple(values["secondary"] or ()))


def _guardrail(findings: Findings, value: str | Values | None, path: Path, known: Known) -> Guardrail:
    """The guardrail; one without a name if that is wrong."""
    if not isinstance(value, dict):
        _check_metric(findings, value, path, known, judged=True)
        return Guardrail(value or "")
    name = value["name"]
    _check_metric(findings, name, (*path, "name"), known, judged=True)
    for key, metric, which in (
        ("threshold_ms", "response_time", "response times"),
        ("points", "error_rate", "`error_rate`"),
        ("outages_per_day", "error_rate", "error_rate"),
    ):
        if value[key] is not None and name is not None and not name.startswith(metric):
            findings.add((*path, key), f"is allowed for {which} only")
    return Guardrail(**value | {"name": name or ""})


def _check_metric(findings: Findings, name: str | None, path: Path, known: Known, *, judged: bool) -> None:
    if name is None:
        return
    metrics = known.metrics | frozenset(keys.METRICS)
    if name not in metrics:
        findings.add(path, f"{shown(name)} is not a metric{suggestion(name, metrics)}")
    elif judged and name in keys.DESCRIPTIVE_METRICS:
        findings.add(path, f"{shown(name)} cannot be a primary metric or a guardrail; it may be one of `secondary`")


def _plan(findings: Findings, values: Values, path: Path, *, minimum: bool) -> AnalysisPlan:
    """minimum: Whether it holds a verdict back, so that it must be within the horizon."""
    plan = AnalysisPlan(**{key: value for key, value in values.items() if value is not None})
    for key, value in (("look", plan.look), *([("minimum", plan.minimum)] if minimum else [])):
        if value > plan.horizon:
            findings.add((*path, key), "is longer than the `horizon`")
    return plan
