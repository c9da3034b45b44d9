"""From a node to one Experiment: the rules inside an experiment."""

from dataclasses import dataclass
from datetime import datetime

from abfleet_experiments.bucketing import BUCKETS, user_id_problem
from abfleet_experiments.config import (
    DEFAULT_LAYER,
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
)
from abfleet_experiments.file import fields, keys
from abfleet_experiments.file.document import Findings, Mapping, Node, Path, Scalar, ScalarKind, Sequence
from abfleet_experiments.file.errors import shown
from abfleet_experiments.file.read_exclude import read_exclude


@dataclass(frozen=True, slots=True)
class Known:
    """Names from elsewhere in the file.

    Attributes:
        versions: Of models; None if `models` could not be read, and then nothing is held against it.
        metrics: Of the file's own metrics.
    """

    versions: frozenset[str] | None
    metrics: frozenset[str]


def read_experiment(findings: Findings, node: Node, path: Path, known: Known) -> Experiment | None:
    """The experiment, or None if nothing of use can be said of it; mistakes go to the findings.

    With mistakes inside it is still given where name, layer and traffic are known, for the checks between experiments.
    """
    values = fields.members(findings, node, path, keys.EXPERIMENT)
    if values is None:
        return None
    name = fields.text(findings, values.get("name"), (*path, "name"), pattern=keys.NAME)
    owner = fields.text(findings, values.get("owner"), (*path, "owner"), longest=256)
    hypothesis = fields.text(findings, values.get("hypothesis"), (*path, "hypothesis"), longest=4096)
    enabled = fields.boolean(findings, values.get("enabled"), (*path, "enabled"))
    salt = fields.text(findings, values.get("salt"), (*path, "salt"))
    layer = fields.text(findings, values.get("layer"), (*path, "layer"), pattern=keys.NAME)
    traffic = BUCKETS if "traffic" not in values else fields.percent(findings, values["traffic"], (*path, "traffic"))
    groups = _groups(findings, values.get("groups"), (*path, "groups"), known)
    names = _group_names(values.get("groups"))
    audience = _audience(findings, values.get("audience"), (*path, "audience"))
    overrides = _overrides(findings, values.get("overrides"), (*path, "overrides"), names)
    ramp = _ramp(findings, values.get("ramp"), (*path, "ramp"), names, traffic, groups)
    metrics = _metrics_plan(findings, values.get("metrics"), (*path, "metrics"), known)
    plan = _plan(findings, values.get("plan"), (*path, "plan"))
    exclude = read_exclude(findings, values.get("exclude"), (*path, "exclude"), ramp)
    control = _control(findings, values.get("groups"), (*path, "groups"))
    if name is None or traffic is None or ("layer" in values and layer is None):
        return None
    return Experiment(
        name=name,
        salt=salt or name,
        groups=groups,
        control=control or "",
        owner=owner,
        hypothesis=hypothesis,
        enabled=enabled is not False,
        layer=layer or DEFAULT_LAYER,
        traffic_bp=traffic,
        audience=audience,
        overrides=overrides,
        ramp=ramp,
        metrics=metrics,
        plan=plan,
        exclude=exclude,
    )


def _group_names(node: Node | None) -> tuple[str, ...] | None:
    """The names of the groups whatever else is wrong with them; None if not all can be read."""
    if not isinstance(node, Sequence):
        return None
    entries = [item.entries.get("name") if isinstance(item, Mapping) else None for item in node.items]
    return tuple(entry[1].text for entry in entries if entry and isinstance(entry[1], Scalar)) if all(entries) else None


def _groups(findings: Findings, node: Node | None, path: Path, known: Known) -> tuple[Group, ...]:
    """The groups if all of them are right, else none."""
    items = fields.items(findings, node, path, most=keys.MAX_GROUPS)
    if isinstance(node, Sequence) and not items:
        findings.add(node, path, "is empty; an experiment needs at least one group")
    groups: list[Group] = []
    for item, item_path in items:
        values = fields.members(findings, item, item_path, keys.GROUP) or {}
        name = fields.text(findings, values.get("name"), (*item_path, "name"), pattern=keys.NAME)
        model = fields.text(findings, values.get("model"), (*item_path, "model"), pattern=keys.VERSION)
        weight = fields.percent(findings, values.get("weight"), (*item_path, "weight"))
        fields.boolean(findings, values.get("control"), (*item_path, "control"))
        if name in keys.RESERVED_GROUPS:
            findings.add(
                values["name"], (*item_path, "name"), f"{shown(name)} is a key of ramp rows; choose another name"
            )
        if any(name == group.name for group in groups):
            findings.add(values["name"], (*item_path, "name"), f"{shown(name)} is already the name of another group")
        if model is not None and known.versions is not None and model not in known.versions:
            message = f"{shown(model)} is not one of the models{fields.suggestion(model, known.versions)}"
            findings.add(values["model"], (*item_path, "model"), message)
        if name is not None and model is not None and weight is not None:
            groups.append(Group(name, model, weight))
    if node is None or len(groups) < len(items) or not groups:
        return ()
    if sum(group.weight_bp for group in groups) != BUCKETS:
        listed = fields.shares([(group.name, group.weight_bp) for group in groups])
        findings.add(node, path, f"weights must sum to 100 percent: {listed}")
    return tuple(groups)


def _control(findings: Findings, node: Node | None, path: Path) -> str | None:
    """The name of the baseline: the group marked `control: true`, else the one named control, else the only one."""
    if not isinstance(node, Sequence):
        return None
    named: list[str] = []
    marked: list[str] = []
    unmarked: list[str] = []
    for item in node.items:
        entries = item.entries if isinstance(item, Mapping) else {}
        name, mark = (entries[key][1] if key in entries else None for key in ("name", "control"))
        if not isinstance(name, Scalar):
            return None
        named.append(name.text)
        if isinstance(mark, Scalar) and mark.text in ("true", "false"):
            (marked if mark.text == "true" else unmarked).append(name.text)
    if "control" in named and "control" not in unmarked and "control" not in marked:
        marked.append("control")
    if len(marked) == 1:
        return marked[0]
    if not marked and len(named) == 1:
        return named[0]
    if named:
        what = f"{', '.join(marked)} are" if marked else "none is"
        findings.add(node, path, f"exactly one group must be named `control` or have `control: true`; {what}")
    return None


def _audience(findings: Findings, node: Node | None, path: Path) -> tuple[Condition, ...]:
    entries = fields.mapping(findings, node, path)
    if entries is not None and not entries:
        findings.add(node, path, "is empty; leave it out to take everyone")
    if entries is not None and len(entries) > keys.MAX_ATTRIBUTES:
        findings.add(node, path, f"has {len(entries)} conditions; at most {keys.MAX_ATTRIBUTES} are allowed")
    conditions = []
    for attribute, (key, value) in sorted((entries or {}).items()):
        if not 1 <= len(attribute.encode(errors="replace")) <= 256:
            findings.add(key, (*path, attribute), "the name of an attribute must be 1 to 256 bytes")
        if (condition := _condition(findings, attribute, value, (*path, attribute))) is not None:
            conditions.append(condition)
    return tuple(conditions)


def _condition(findings: Findings, attribute: str, node: Node, path: Path) -> Condition | None:
    if isinstance(node, Sequence):
        if not node.items:
            findings.add(node, path, "is an empty list, which nobody matches")
        found = [fields.attribute_value(findings, item, (*path, i)) for i, item in enumerate(node.items)]
        return OneOf(attribute, tuple(sorted({value for value in found if value is not None})))
    if not isinstance(node, Mapping):
        value = fields.attribute_value(findings, node, path)
        return None if value is None else OneOf(attribute, (value,))
    if "present" in node.entries:
        values = fields.members(findings, node, path, keys.PRESENCE) or {}
        present = fields.boolean(findings, values.get("present"), (*path, "present"))
        return None if present is None else Presence(attribute, present)
    values = fields.members(findings, node, path, keys.RANGE) or {}
    low = fields.number(findings, values.get("min"), (*path, "min"), rule="a number")
    high = fields.number(findings, values.get("max"), (*path, "max"), rule="a number")
    if not node.entries:
        findings.add(node, path, "is empty; give `min`, `max` or `present`")
    if low is not None and high is not None and low > high:
        findings.add(node, path, f"`min` {low:g} is above `max` {high:g}, which nobody matches")
    return InRange(attribute, low, high)


def _overrides(findings: Findings, node: Node | None, path: Path, groups: tuple[str, ...] | None) -> dict[str, str]:
    overrides = {}
    for user_id, (key, value) in (fields.mapping(findings, node, path) or {}).items():
        here = (*path, user_id)
        if key.kind is not ScalarKind.TEXT:
            fields.text(findings, key, here)
        elif (problem := user_id_problem(user_id)) is not None:
            findings.add(key, here, f"the user id {problem}")
        if isinstance(value, Scalar) and value.kind is ScalarKind.TEXT and groups is not None and value.text in groups:
            overrides[user_id] = value.text
        elif (group := fields.text(findings, value, here, pattern=keys.NAME)) is not None and groups is not None:
            findings.add(
                value, here, f"{shown(group)} is not a group of the experiment{fields.suggestion(group, groups)}"
            )
    return overrides


def _ramp(
    findings: Findings,
    node: Node | None,
    path: Path,
    names: tuple[str, ...] | None,
    traffic: int | None,
    groups: tuple[Group, ...],
) -> tuple[RampRow, ...]:
    rows: list[RampRow] = []
    last: datetime | None = None
    items = fields.items(findings, node, path, most=keys.MAX_RAMP_ROWS)
    for item, item_path in items:
        row = _ramp_row(findings, item, item_path, names, BUCKETS if traffic is None else traffic)
        if row is None:
            continue
        if last is not None and row.at <= last:
            findings.add(item, (*item_path, "at"), "must be later than the time of the row above")
        last = row.at
        rows.append(row)
    if groups and rows and len(rows) == len(items) and rows[-1].weights_bp != tuple(g.weight_bp for g in groups):
        wanted = ", ".join(f"{g.name} {percent_text(bp)}" for g, bp in zip(groups, rows[-1].weights_bp, strict=True))
        findings.add(items[-1][0], items[-1][1], f"the last row and the groups' weights must be equal; here: {wanted}")
    return tuple(rows)


def _ramp_row(
    findings: Findings, node: Node, path: Path, names: tuple[str, ...] | None, traffic: int
) -> RampRow | None:
    if names is None:
        return None
    group_keys = [keys.Key(name, {}, "Share of the group.") for name in names]
    values = fields.members(findings, node, path, [*keys.RAMP_ROW, *group_keys])
    if values is None:
        return None
    at = fields.instant(findings, values.get("at"), (*path, "at"))
    taken = traffic if "traffic" not in values else fields.percent(findings, values["traffic"], (*path, "traffic"))
    weights = [fields.percent(findings, values[n], (*path, n)) if n in values else 0 for n in names]
    if taken is not None and taken > traffic:
        message = f"{percent_text(taken)} is more than the experiment's own `traffic` of {percent_text(traffic)}"
        findings.add(values["traffic"], (*path, "traffic"), message)
    known = tuple(weight for weight in weights if weight is not None)
    if at is None or taken is None or len(known) < len(weights):
        return None
    if sum(known) != BUCKETS:
        findings.add(
            node, path, f"shares must sum to 100 percent: {fields.shares(list(zip(names, known, strict=True)))}"
        )
        return None
    return RampRow(at, taken, known)


def _metrics_plan(findings: Findings, node: Node | None, path: Path, known: Known) -> MetricsPlan:
    default = MetricsPlan()
    values = fields.members(findings, node, path, keys.METRICS_PLAN)
    if values is None:
        return default
    primary = _metric_name(findings, values.get("primary"), (*path, "primary"), known, judged=True)
    guardrails: list[Guardrail] = []
    for item, item_path in fields.items(findings, values.get("guardrails"), (*path, "guardrails")):
        guardrail = _guardrail(findings, item, item_path, known)
        if guardrail is not None and any(guardrail.name == other.name for other in guardrails):
            findings.add(item, item_path, f"{shown(guardrail.name)} is given twice")
        elif guardrail is not None:
            guardrails.append(guardrail)
    secondary = [
        _metric_name(findings, item, item_path, known, judged=False)
        for item, item_path in fields.items(findings, values.get("secondary"), (*path, "secondary"))
    ]
    return MetricsPlan(
        primary or default.primary,
        tuple(guardrails) if "guardrails" in values else default.guardrails,
        tuple(name for name in secondary if name is not None),
    )


def _guardrail(findings: Findings, node: Node, path: Path, known: Known) -> Guardrail | None:
    if not isinstance(node, Mapping):
        name = _metric_name(findings, node, path, known, judged=True)
        return None if name is None else Guardrail(name)
    values = fields.members(findings, node, path, keys.GUARDRAIL) or {}
    name = _metric_name(findings, values.get("name"), (*path, "name"), known, judged=True)
    rule = "a relative change above 0 and below 10 (0.10 is 10 %)"
    margin = fields.number(findings, values.get("margin"), (*path, "margin"), low=0, high=10, rule=rule)
    rule = "milliseconds above 0 and below 3600000"
    threshold = fields.number(
        findings, values.get("threshold_ms"), (*path, "threshold_ms"), low=0, high=3.6e6, rule=rule
    )
    if threshold is not None and name is not None and not name.startswith("response_time"):
        findings.add(values["threshold_ms"], (*path, "threshold_ms"), "is allowed for response times only")
    rule = "a share of users above 0 and below 1 (0.01 is 1 in 100)"
    points = fields.number(findings, values.get("points"), (*path, "points"), low=0, high=1, rule=rule)
    if points is not None and name is not None and name != "error_rate":
        findings.add(values["points"], (*path, "points"), "is allowed for `error_rate` only")
    rule = "outages a day above 0 and below 1000"
    outages = fields.number(
        findings, values.get("outages_per_day"), (*path, "outages_per_day"), low=0, high=1000, rule=rule
    )
    if outages is not None and name is not None and name != "error_rate":
        findings.add(values["outages_per_day"], (*path, "outages_per_day"), "is allowed for error_rate only")
    return None if name is None else Guardrail(name, margin, threshold, points, outages)


def _metric_name(findings: Findings, node: Node | None, path: Path, known: Known, *, judged: bool) -> str | None:
    name = fields.text(findings, node, path, pattern=keys.NAME)
    if name is None:
        return None
    metrics = known.metrics | frozenset(keys.METRICS)
    if name not in metrics:
        findings.add(node, path, f"{shown(name)} is not a metric{fields.suggestion(name, metrics)}")
    elif judged and name in keys.DESCRIPTIVE_METRICS:
        findings.add(
            node, path, f"{shown(name)} cannot be a primary metric or a guardrail; it may be one of `secondary`"
        )
    return name


def _plan(findings: Findings, node: Node | None, path: Path) -> AnalysisPlan:
    default = AnalysisPlan()
    values = fields.members(findings, node, path, keys.PLAN)
    if values is None:
        return default
    rule = "a relative change above 0 and below 10 (0.10 is 10 %)"
    effect = fields.number(findings, values.get("effect"), (*path, "effect"), low=0, high=10, rule=rule)
    rule = "a probability from 0.5 to 0.99"
    power = fields.number(findings, values.get("power"), (*path, "power"), low=0.4999999, high=0.9900001, rule=rule)
    horizon = fields.duration(findings, values.get("horizon"), (*path, "horizon")) or default.horizon
    look = fields.duration(findings, values.get("look"), (*path, "look")) or default.look
    minimum = fields.duration(findings, values.get("minimum"), (*path, "minimum")) or default.minimum
    for key, value in (("look", look), ("minimum", minimum)):
        if value > horizon:
            findings.add(values.get(key, node), (*path, key), "is longer than the `horizon`")
    return AnalysisPlan(effect or default.effect, power or default.power, horizon, look, minimum)
