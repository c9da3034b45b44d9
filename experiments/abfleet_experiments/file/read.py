"""From a text to a Config, with every mistake at once: the rules of the file as a whole."""

from dataclasses import replace
from datetime import timedelta
from typing import cast

from abfleet_experiments.bucketing import BUCKETS
from abfleet_experiments.config import (
    Config,
    EndedExperiment,
    Experiment,
    Holdout,
    Metric,
    MetricType,
    ModelTarget,
    Money,
    percent_text,
)
from abfleet_experiments.file import fields, keys
from abfleet_experiments.file.document import (
    Findings,
    Mapping,
    Node,
    Path,
    Scalar,
    ScalarKind,
    Sequence,
    cut_short,
    parse,
)
from abfleet_experiments.file.errors import ConfigErrors, shown
from abfleet_experiments.file.read_experiment import Known, read_experiment


def read(text: str, findings: Findings, fleet_text: str | None, fleet_findings: Findings) -> Config:
    """The configuration in a text, its targets replaced by those of a fleet text. Raises ConfigErrors."""
    config = _file(findings, parse(text, findings))
    targets = None if fleet_text is None else _fleet(fleet_findings, parse(fleet_text, fleet_findings))
    if findings.errors or fleet_findings.errors or config is None:
        raise ConfigErrors([*cut_short(findings.in_order()), *cut_short(fleet_findings.in_order())])
    if targets is None:
        return config
    models = {version: targets.get(version, model) for version, model in config.models.items()}
    return replace(config, models=models)


def _file(findings: Findings, root: Node | None) -> Config | None:
    values = fields.members(findings, root, (), keys.FILE)
    if values is None:
        return None
    _version(findings, values.get("version"))
    models = _models(findings, values.get("models"))
    default = fields.text(findings, values.get("default"), ("default",), pattern=keys.VERSION)
    known = Known(_named(values.get("models")), _named(values.get("metrics")) or frozenset())
    if default is not None and known.versions is not None and default not in known.versions:
        message = f"{shown(default)} is not one of the models{fields.suggestion(default, known.versions)}"
        findings.add(values["default"], ("default",), message)
    holdout = _holdout(findings, values.get("holdout"))
    metrics = _metrics(findings, values.get("metrics"))
    experiments = _experiments(findings, values.get("experiments"), known)
    _salts(findings, values, experiments, holdout)
    money = _money(findings, root, values, ())
    allowed = _log_attributes(findings, values.get("log_attributes"))
    concluded = _concluded(findings, values.get("concluded"), [one.name for one in experiments if one is not None])
    if findings.errors or default is None:
        return None
    ready = tuple(experiment for experiment in experiments if experiment is not None)
    return Config(default, models, ready, holdout or Holdout(), metrics, allowed, concluded, money)


def _concluded(findings: Findings, node: Node | None, running: list[str]) -> tuple[EndedExperiment, ...]:
    """The experiments that have ended; a name stands for one experiment, so none is given twice or runs again."""
    found: dict[str, EndedExperiment] = {}
    for item, path in fields.items(findings, node, ("concluded",), most=keys.MAX_CONCLUDED):
        values = fields.members(findings, item, path, keys.CONCLUSION) or {}
        name = fields.text(findings, values.get("experiment"), (*path, "experiment"), pattern=keys.NAME)
        winner = fields.text(findings, values.get("winner"), (*path, "winner"), pattern=keys.NAME)
        at = fields.instant(findings, values.get("at"), (*path, "at"))
        if name in found:
            findings.add(values["experiment"], (*path, "experiment"), f"{shown(name)} is given twice")
        elif name in running:
            place = f"experiments[{running.index(name)}]"
            message = f"{shown(name)} is also the name of {place}; an experiment that begins anew needs a new name"
            findings.add(values["experiment"], (*path, "experiment"), message)
        elif name is not None and winner is not None and at is not None:
            found[name] = EndedExperiment(name, winner, at)
    return tuple(found.values())


def _log_attributes(findings: Findings, node: Node | None) -> tuple[str, ...]:
    names: list[str] = []
    for item, path in fields.items(findings, node, ("log_attributes",), most=keys.MAX_ATTRIBUTES):
        name = fields.text(findings, item, path)
        if name in names:
            findings.add(item, path, f"{shown(name)} is given twice")
        elif name is not None:
            names.append(name)
    return tuple(names)


def _money(findings: Findings, node: Node | None, values: dict[str, Node], path: Path) -> Money | None:
    """`currency` and `rates` of a mapping, which are its values."""
    currency = fields.text(findings, values.get("currency"), (*path, "currency"), pattern=keys.CURRENCY)
    rates: dict[str, float] = {}
    for name, (key, value) in (fields.mapping(findings, values.get("rates"), (*path, "rates")) or {}).items():
        place: Path = (*path, "rates", name)
        fields.text(findings, key, place, pattern=keys.CURRENCY)
        if name == currency:
            findings.add(key, place, "is the `currency` itself, of which one unit is 1; leave it out")
        rule = f"how much of {currency or 'the currency'} one {name} is: a number above 0 and below 1,000,000,000"
        if (rate := fields.number(findings, value, place, low=0, high=1e9, rule=rule)) is not None:
            rates[name] = rate
    if "rates" in values and "currency" not in values:
        findings.add(node, (*path, "currency"), "is missing: `rates` say how much of it one unit of another is")
    return None if currency is None else Money(currency, rates)


def _fleet(findings: Findings, root: Node | None) -> dict[str, ModelTarget]:
    values = fields.members(findings, root, (), keys.FLEET) or {}
    _version(findings, values.get("version"))
    return _models(findings, values.get("models"))


def _version(findings: Findings, node: Node | None) -> None:
    if node is not None and not (isinstance(node, Scalar) and node.kind is ScalarKind.NUMBER and node.text == "1"):
        findings.add(node, ("version",), f"must be 1, not {fields.kind_text(node)}")


def _named(node: Node | None) -> frozenset[str] | None:
    """The keys of a mapping, whatever their values; None if there is no mapping to know them from."""
    return frozenset(node.entries) if isinstance(node, Mapping) else None


def _models(findings: Findings, node: Node | None) -> dict[str, ModelTarget]:
    models = {}
    entries = fields.mapping(findings, node, ("models",))
    if entries is not None and not entries:
        findings.add(node, ("models",), "is empty; it needs at least the default version")
    for version, (key, value) in (entries or {}).items():
        path: Path = ("models", version)
        fields.text(findings, key, path, pattern=keys.VERSION)
        target = (fields.members(findings, value, path, keys.MODEL) or {}).get("target")
        models[version] = ModelTarget(_targets(findings, target, (*path, "target")))
    return models


def _targets(findings: Findings, node: Node | None, path: Path) -> tuple[str, ...]:
    if not isinstance(node, Sequence):
        one = None if node is None else fields.target(findings, node, path)
        return () if one is None else (one,)
    if not node.items:
        findings.add(node, path, "is empty; it needs at least one address")
    seen: list[str] = []
    for item, item_path in fields.items(findings, node, path, most=1000):
        target = fields.target(findings, item, item_path)
        if target in seen:
            findings.add(item, item_path, f"{shown(target)} is given twice")
        elif target is not None:
            seen.append(target)
    return tuple(seen)


def _holdout(findings: Findings, node: Node | None) -> Holdout | None:
    values = fields.members(findings, node, ("holdout",), keys.HOLDOUT)
    if values is None:
        return None
    percent = fields.percent(findings, values.get("percent"), ("holdout", "percent"))
    salt = fields.text(findings, values.get("salt"), ("holdout", "salt"))
    return Holdout(percent or 0, salt or Holdout().salt)


def _metrics(findings: Findings, node: Node | None) -> dict[str, Metric]:
    metrics = {}
    for name, (key, value) in (fields.mapping(findings, node, ("metrics",)) or {}).items():
        path: Path = ("metrics", name)
        fields.text(findings, key, path, pattern=keys.NAME)
        if name in keys.METRICS:
            findings.add(key, path, "is a built-in metric; choose another name")
        if (metric := _metric(findings, value, path)) is not None:
            metrics[name] = metric
    return metrics


def _metric(findings: Findings, node: Node, path: Path) -> Metric | None:
    values = fields.members(findings, node, path, keys.METRIC)
    if values is None:
        return None
    kind = fields.one_of(findings, values.get("type"), (*path, "type"), keys.METRIC_TYPES)
    outcome = fields.text(findings, values.get("outcome"), (*path, "outcome"), pattern=keys.NAME)
    over = fields.text(findings, values.get("over"), (*path, "over"), pattern=keys.NAME)
    if kind == "ratio":
        if "over" not in values:
            findings.add(node, path, "a `ratio` needs `over`, the outcome type that it divides by")
        if "winsorise" in values:
            findings.add(
                values["winsorise"],
                (*path, "winsorise"),
                "is not allowed for a `ratio`, because it would cut whole users",
            )
        if over is not None and over == outcome:
            findings.add(values["over"], (*path, "over"), "must differ from `outcome`, or the ratio would always be 1")
    elif kind is not None and "over" in values:
        findings.add(
            values["over"], (*path, "over"), f"is allowed for the type `ratio` only, and this metric is a {kind}"
        )
    for name in ("currency", "rates"):
        if kind not in (None, "mean") and name in values:
            message = f"is allowed for the type `mean` only, which adds up values, and this metric is a {kind}"
            findings.add(values[name], (*path, name), message)
    window = fields.duration(findings, values.get("window"), (*path, "window"))
    rule = "a quantile from 0.5 to 1, which cuts nothing"
    winsorise = fields.number(
        findings, values.get("winsorise"), (*path, "winsorise"), low=0.4999, high=1.000_000_1, rule=rule
    )
    direction = fields.one_of(findings, values.get("direction"), (*path, "direction"), ("up", "down"))
    rule = "a relative change above 0 and below 10 (0.10 is 10 %)"
    margin = fields.number(findings, values.get("margin"), (*path, "margin"), low=0, high=10, rule=rule)
    if kind is None or outcome is None:
        return None
    return Metric(
        cast(MetricType, kind),  # one_of has seen to it
        outcome,
        window or timedelta(days=7),
        winsorise,
        "down" if direction == "down" else "up",
        margin,
        over,
        _money(findings, node, values, path),
    )


def _experiments(findings: Findings, node: Node | None, known: Known) -> list[Experiment | None]:
    """The experiments, None for one that is wrong; notes names used twice, and layers given away more than whole."""
    experiments = []
    names: dict[str, int] = {}
    layers: dict[str, int] = {}
    for item, path in fields.items(findings, node, ("experiments",), most=keys.MAX_EXPERIMENTS):
        experiment = read_experiment(findings, item, path, known)
        experiments.append(experiment)
        if experiment is None or not isinstance(item, Mapping):
            continue
        if experiment.name in names:
            first = f"experiments[{names[experiment.name]}]"
            findings.add(
                item.entries["name"][1], (*path, "name"), f"{shown(experiment.name)} is already the name of {first}"
            )
        names.setdefault(experiment.name, int(path[-1]))
        before = layers.get(experiment.layer, 0)
        layers[experiment.layer] = before + experiment.traffic_bp
        if before + experiment.traffic_bp > BUCKETS:
            place = item.entries["traffic"][1] if "traffic" in item.entries else item
            left = percent_text(max(0, BUCKETS - before))
            message = (
                f"{percent_text(experiment.traffic_bp)} is more than the {left} percent left of layer "
                f"{shown(experiment.layer)} by the experiments above"
            )
            findings.add(place, (*path, "traffic"), message)
    return experiments


def _salts(
    findings: Findings, values: dict[str, Node], experiments: list[Experiment | None], holdout: Holdout | None
) -> None:
    """One hash must never decide two things: the users in and out of a holdout would then be those of one group."""
    node = values.get("experiments")
    for index, experiment in enumerate(experiments):
        if experiment is None or not isinstance(node, Sequence):
            continue
        item, path = node.items[index], ("experiments", index, "salt")
        if isinstance(item, Mapping) and "salt" in item.entries:
            item = item.entries["salt"][1]
        if experiment.salt == (holdout or Holdout()).salt:
            findings.add(
                item,
                path,
                f"{shown(experiment.salt)} is also the salt of the holdout; each needs its own, or the two correlate",
            )
        if experiment.salt.startswith("layer/"):
            findings.add(item, path, f"{shown(experiment.salt)} begins with `layer/`, which is reserved for layers")
