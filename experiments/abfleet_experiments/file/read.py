"""From a text to a Config, with every mistake at once: the rules of the file as a whole, beyond those of each key."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from abfleet_process.declarations.keys import Kind
from abfleet_process.declarations.nodes import Findings, Path, shown, suggestion

from abfleet_experiments.bucketing import BUCKETS
from abfleet_experiments.config import (
    Config,
    EndedExperiment,
    Experiment,
    Holdout,
    LoggedOutputs,
    Metric,
    ModelTarget,
    Money,
    OipModel,
    Shadow,
    percent_text,
)
from abfleet_experiments.file import keys
from abfleet_experiments.file.document import parse
from abfleet_experiments.file.errors import ConfigErrors, config_errors
from abfleet_experiments.file.read_experiment import Known, read_experiment


def read(text: str, name: str, fleet_text: str | None, fleet_name: str) -> Config:
    """The configuration in a text, its targets replaced by those of a fleet text. Raises ConfigErrors."""
    findings, fleet_findings = Findings(), Findings()
    config = _config(findings, _values(findings, text, keys.FILE))
    fleet = {} if fleet_text is None else _values(fleet_findings, fleet_text, keys.FLEET)
    if findings or fleet_findings or config is None or fleet is None:
        raise ConfigErrors([*config_errors(name, findings), *config_errors(fleet_name, fleet_findings)])
    elsewhere = fleet.get("models") or {}
    moved = {v: _moved(model, elsewhere[v]) if v in elsewhere else model for v, model in config.models.items()}
    return replace(config, models=moved)


def _values(findings: Findings, text: str, section: Kind) -> dict[str, Any] | None:
    """The value of each key by itself."""
    root = parse(text, findings)
    values: dict[str, Any] | None = None if root is None else section.read(findings, root, ())
    for version, model in ((values or {}).get("models") or {}).items():
        if model is not None:
            _protocol(findings, model["protocol"], ("models", version))
    return values


def _protocol(findings: Findings, protocol: str | None, path: Path) -> None:
    """`model` and `version` are what a server of the Open Inference Protocol is asked for."""
    if protocol == "oip" and not findings.given((*path, "model")):
        findings.add(path, "the protocol `oip` needs `model`, the name that the servers have for the model")
    elif protocol == "abfleet" or not findings.given((*path, "protocol")):
        for name in ("model", "version"):
            place: Path = (*path, name)
            if findings.given(place):
                findings.add(place, "is allowed with `protocol: oip` only", findings.key_node(place))


def _config(findings: Findings, values: dict[str, Any] | None) -> Config | None:
    if values is None:
        return None
    versions = None if values["models"] is None else frozenset(values["models"])
    default = values["default"]
    if default is not None and versions is not None and default not in versions:
        findings.add(("default",), f"{shown(default)} is not one of the models{suggestion(default, versions)}")
    holdout = Holdout() if values["holdout"] is None else _holdout(values["holdout"])
    metrics = _metrics(findings, values["metrics"] or {})
    known = Known(versions, frozenset(values["metrics"] or {}))
    experiments = _experiments(findings, values["experiments"] or [], known)
    _salts(findings, experiments, holdout)
    _logged_items(findings, experiments, values)
    money = _money(findings, values, ())
    names = [None if experiment is None else experiment.name for experiment in experiments]
    concluded = _concluded(findings, values["concluded"] or [], names)
    shadow = _shadow(findings, values["shadow"] or [], versions)
    if findings:
        return None
    ready = tuple(experiment for experiment in experiments if experiment is not None)
    allowed = tuple(values["log_attributes"])
    given = values["models"]
    models = {version: replace(_server(given[version]), log=_logged(given[version]["log"])) for version in given}
    return Config(
        default,
        models,
        ready,
        holdout,
        metrics,
        allowed,
        concluded,
        money,
        values["name"],
        _logged(values["log"]) or LoggedOutputs(),
        shadow,
    )


def _moved(model: ModelTarget, elsewhere: dict[str, Any]) -> ModelTarget:
    """A version whose servers are where a fleet file says, and speak what that says, if it says anything."""
    server = _server(elsewhere)
    return replace(model, target=server.target, oip=server.oip if elsewhere["protocol"] else model.oip)


def _server(model: dict[str, Any]) -> ModelTarget:
    """Where a version's servers are and what they speak, for values without mistakes."""
    target = model["target"]
    oip = OipModel(model["model"], model["version"] or "") if model["protocol"] == "oip" else None
    return ModelTarget((target,) if isinstance(target, str) else tuple(target), oip=oip)


def _logged(values: dict[str, Any] | None) -> LoggedOutputs | None:
    return None if values is None else LoggedOutputs(values["items"], tuple(values["outputs"]))


def _holdout(values: dict[str, Any]) -> Holdout:
    return Holdout(values["percent"] or 0, values["salt"] or Holdout().salt)


def _concluded(
    findings: Findings, given: Sequence[dict[str, Any] | None], running: Sequence[str | None]
) -> tuple[EndedExperiment, ...]:
    """The experiments that have ended; a name stands for one experiment, so none is given twice or runs again."""
    found: dict[str, EndedExperiment] = {}
    for index, values in enumerate(given):
        if values is None:
            continue
        name, path = values["experiment"], ("concluded", index, "experiment")
        if name in found:
            findings.add(path, f"{shown(name)} is given twice")
        elif name is not None and name in running:
            place = f"experiments[{running.index(name)}]"
            message = f"{shown(name)} is also the name of {place}; a new experiment needs a new name"
            findings.add(path, message)
        elif None not in values.values():
            found[name] = EndedExperiment(**values)
    return tuple(found.values())


def _shadow(
    findings: Findings, given: Sequence[dict[str, Any] | None], versions: frozenset[str] | None
) -> tuple[Shadow, ...]:
    """The versions in the shadow of others, each of them given once; none is compared with itself."""
    found: dict[str, Shadow] = {}
    for index, values in enumerate(given):
        if values is None:
            continue
        model, of, path = values["model"], tuple(values["of"] or ()), ("shadow", index)
        named: list[tuple[Path, str]] = [] if model is None else [((*path, "model"), model)]
        named += [((*path, "of", place), version) for place, version in enumerate(of) if version is not None]
        for place, version in named:
            if versions is not None and version not in versions:
                findings.add(place, f"{shown(version)} is not one of the models{suggestion(version, versions)}")
        if model in of:
            findings.add((*path, "of"), f"{shown(model)} is the `model` itself; name other versions")
        if model in found:
            findings.add((*path, "model"), f"{shown(model)} is given twice")
        elif model is not None and values["percent"] is not None:
            found[model] = Shadow(model, values["percent"], of)
    return tuple(found.values())


def _money(findings: Findings, values: dict[str, Any], path: Path) -> Money | None:
    """`currency` and `rates` of a mapping, which are its values."""
    currency, rates = values["currency"], values["rates"]
    if currency is not None and currency in (rates or {}):
        place: Path = (*path, "rates", currency)
        message = "is the `currency` itself, whose rate is always 1; leave it out"
        findings.add(place, message, findings.key_node(place))
    if findings.given((*path, "rates")) and not findings.given((*path, "currency")):
        findings.add((*path, "currency"), "is missing: `rates` convert other currencies into it")
    return None if currency is None else Money(currency, rates or {})


def _metrics(findings: Findings, given: dict[str, dict[str, Any] | None]) -> dict[str, Metric]:
    metrics = {}
    for name, values in given.items():
        path: Path = ("metrics", name)
        if name in keys.METRICS:
            findings.add(path, "is a built-in metric; choose another name", findings.key_node(path))
        if values is not None:
            metrics[name] = _metric(findings, values, path)
    return metrics


def _metric(findings: Findings, values: dict[str, Any], path: Path) -> Metric:
    kind, over = values["type"], values["over"]
    if kind == "ratio":
        if not findings.given((*path, "over")):
            findings.add(path, "a `ratio` needs `over`, the outcome type that it divides by")
        if findings.given((*path, "winsorise")):
            findings.add((*path, "winsorise"), "is not allowed for a `ratio`, because it would cut whole users")
        if over is not None and over == values["outcome"]:
            findings.add((*path, "over"), "must differ from `outcome`, or the ratio would always be 1")
    elif kind is not None and findings.given((*path, "over")):
        findings.add((*path, "over"), f"is allowed for the type `ratio` only, and this metric is a {kind}")
    for name in ("currency", "rates"):
        if kind not in (None, "mean") and findings.given((*path, name)):
            message = f"is allowed for the type `mean` only, which adds up values, and this metric is a {kind}"
            findings.add((*path, name), message)
    return Metric(
        kind,
        values["outcome"],
        values["window"],
        values["winsorise"],
        values["direction"],
        values["margin"],
        over,
        _money(findings, values, path),
    )


def _experiments(findings: Findings, given: Sequence[dict[str, Any] | None], known: Known) -> list[Experiment | None]:
    """The experiments, None for one that is wrong; notes names used twice, and layers given away more than whole."""
    experiments = []
    names: dict[str, int] = {}
    layers: dict[str, int] = {}
    for index, values in enumerate(given):
        path: Path = ("experiments", index)
        experiment = None if values is None else read_experiment(findings, values, path, known)
        experiments.append(experiment)
        if experiment is None:
            continue
        if experiment.name in names:
            first = f"experiments[{names[experiment.name]}]"
            findings.add((*path, "name"), f"{shown(experiment.name)} is already the name of {first}")
        names.setdefault(experiment.name, index)
        before = layers.get(experiment.layer, 0)
        layers[experiment.layer] = before + experiment.traffic_bp
        if before + experiment.traffic_bp > BUCKETS:
            left = percent_text(max(0, BUCKETS - before))
            message = (
                f"{percent_text(experiment.traffic_bp)} is more than the {left} percent left of layer "
                f"{shown(experiment.layer)} by the experiments above"
            )
            findings.add((*path, "traffic"), message)
    return experiments


def _logged_items(findings: Findings, experiments: Sequence[Experiment | None], values: dict[str, Any]) -> None:
    """Of two versions that are interleaved, `log` names the output with the items for both, or for neither."""
    models, whole = values["models"] or {}, (values["log"] or {}).get("items")
    for index, experiment in enumerate(experiments):
        if experiment is None or experiment.interleave is None:
            continue
        owns = [(models.get(version) or {}).get("log") for version in experiment.interleave]
        items = [whole if own is None else own["items"] for own in owns]
        if None in items and items != [None, None]:
            place = items.index(None)
            message = (
                f"{shown(experiment.interleave[place])} has no output with items for ModelInfer, and "
                f"{shown(experiment.interleave[1 - place])} has; name one in its `log`"
            )
            findings.add(("experiments", index, "interleave", place), message)


def _salts(findings: Findings, experiments: Sequence[Experiment | None], holdout: Holdout) -> None:
    """One hash must never decide two things: the users in and out of a holdout would then be those of one group."""
    for index, experiment in enumerate(experiments):
        if experiment is None:
            continue
        path, salt = ("experiments", index, "salt"), experiment.salt
        if salt == holdout.salt:
            message = f"{shown(salt)} is also the salt of the holdout; each needs its own, or the two correlate"
            findings.add(path, message)
        if salt.startswith("layer/"):
            findings.add(path, f"{shown(salt)} begins with `layer/`, which is reserved for layers")
