"""The experiments file as frozen values. Knows what the file means, not how it is written, read or watched.

Shares are whole basis points (`_bp`, hundredths of a percent): numbers of buckets, so that nothing is rounded.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, NamedTuple

from abfleet_experiments.bucketing import BUCKETS

DEFAULT_LAYER: Final = "default"
INTERLEAVED: Final = "interleaved"
"""The one group of an experiment that interleaves two versions."""
DEFAULT_NAME: Final = "recommender"
"""Of the model, for callers of `ModelInfer`."""
DEFAULT_HOLDOUT_SALT: Final = "holdout"
DEFAULT_WINDOW: Final = timedelta(days=7)
"""How long after a user's first exposure an outcome counts."""


@dataclass(frozen=True, slots=True)
class LoggedOutputs:
    """What the decision log has of an answer to `ModelInfer`.

    Attributes:
        items: Name of the output whose elements are items; None for none.
        outputs: Names of the outputs whose numbers are logged.
    """

    items: str | None = None
    outputs: tuple[str, ...] = ()


class OipModel(NamedTuple):
    """What a server of the Open Inference Protocol calls a model.

    Attributes:
        version: "" for the one that the server chooses.
    """

    model: str
    version: str = ""


@dataclass(frozen=True, slots=True)
class ModelTarget:
    """Where the servers of one model version are, how they are asked, and what is logged of its answers.

    Attributes:
        target: One or more of `dns:///host:port`, `host:port` and `unix:path`; a DNS name may be many replicas.
        log: None: as the file's `log` says.
        oip: What the servers call the version; None where they are workers of abfleet.
    """

    target: tuple[str, ...]
    log: LoggedOutputs | None = None
    oip: OipModel | None = None


@dataclass(frozen=True, slots=True)
class OneOf:
    """Holds when the attribute is present and equal to one of the values, as text."""

    attribute: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InRange:
    """Holds when the attribute is a decimal number from `minimum` to `maximum`, both included; None is no bound."""

    attribute: str
    minimum: float | None
    maximum: float | None


@dataclass(frozen=True, slots=True)
class Presence:
    """Holds when the attribute was sent with the request (or was not, if `present` is false), whatever its value."""

    attribute: str
    present: bool


Condition = OneOf | InRange | Presence


@dataclass(frozen=True, slots=True)
class Group:
    """One arm of an experiment: the users with its share of buckets, served by its model version.

    Attributes:
        model: "" where two versions serve the group together.
    """

    name: str
    model: str
    weight_bp: int


@dataclass(frozen=True, slots=True)
class RampRow:
    """The shares that take effect at an instant.

    Attributes:
        at: When, in UTC.
        traffic_bp: Part of the layer's users the experiment takes from then on; at most the experiment's own traffic.
        weights_bp: One share for each group, in the order of the groups.
    """

    at: datetime
    traffic_bp: int
    weights_bp: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ExcludedWindow:
    """A window of time that analysis leaves out, [begin, end).

    Attributes:
        begin, end: In UTC.
        why: What happened then.
    """

    begin: datetime
    end: datetime
    why: str


@dataclass(frozen=True, slots=True)
class Guardrail:
    """A metric that must not get worse by more than a margin.

    Attributes:
        margin: Relative change tolerated, 0.10 is 10 %; None is the metric's default.
        points: For `error_rate`: how much more of all users is tolerated at least, 0.01 is 1 in 100; None is 0.002, or
            nothing where there is a margin.
        threshold_ms: For response times: what counts as slow; None learns it from control.
        outages_per_day: For error_rate: outages of a treatment that are tolerated; None is 1.
    """

    name: str
    margin: float | None = None
    threshold_ms: float | None = None
    points: float | None = None
    outages_per_day: float | None = None


@dataclass(frozen=True, slots=True)
class MetricsPlan:
    """What an experiment is judged by."""

    primary: str = "ctr"
    guardrails: tuple[Guardrail, ...] = (Guardrail("error_rate"),)
    secondary: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AnalysisPlan:
    """What an experiment is sized for.

    Attributes:
        effect: Smallest relative change of the primary metric worth finding; 0.10 is 10 %.
        power: Probability to find an effect of that size.
        horizon: When the experiment ends at the latest, from its first exposure.
        look: Time between two looks.
        minimum: No version is shipped before this.
    """

    effect: float = 0.10
    power: float = 0.8
    horizon: timedelta = timedelta(days=28)
    look: timedelta = timedelta(days=1)
    minimum: timedelta = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Money:
    """The currency that values are added up in.

    Attributes:
        currency: An ISO 4217 code. Values without one are in it.
        rates: Other currencies: how much of `currency` one unit is. Values in any further one are left out.
    """

    currency: str
    rates: Mapping[str, float] = field(default_factory=dict)


MetricType = Literal["mean", "count", "proportion", "ratio"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of the file's own, over outcomes of one type.

    Attributes:
        type: `mean` (of a user's summed values), `count` (outcomes a user), `proportion` (users with one or more) or
            `ratio` (outcomes over outcomes of the type `over`).
        window: How long after the first exposure an outcome still counts.
        winsorise: Quantile at which a user's value is cut, 1 for none; None leaves it to the analysis.
        margin: Relative change tolerated where the metric is a guardrail; None is the experiment's `plan.effect`.
        money: The currency of a `mean`; None is the file's.
    """

    type: MetricType
    outcome: str
    window: timedelta = DEFAULT_WINDOW
    winsorise: float | None = None
    direction: Literal["up", "down"] = "up"
    margin: float | None = None
    over: str | None = None
    money: Money | None = None


@dataclass(frozen=True, slots=True)
class Holdout:
    """The percentage of all users whom no experiment takes, and the salt that decides who they are."""

    percent_bp: int = 0
    salt: str = DEFAULT_HOLDOUT_SALT


@dataclass(frozen=True, slots=True)
class AutopilotRamp:
    """How `abfleet autopilot` raises an experiment's traffic.

    Attributes:
        traffic_bp: The steps, ascending; none is above the experiment's own traffic.
        hold: How long each step is in force at least.
        users: How many users each group must have in a step before the next.
        detect: A guardrail must have been able to find this ratio of bad events in the step; None asks for nothing.
    """

    traffic_bp: tuple[int, ...]
    hold: timedelta = timedelta(hours=24)
    users: int = 1000
    detect: float | None = None


Halting = Literal["guardrails", "harm", "broken_data"]


@dataclass(frozen=True, slots=True)
class Autopilot:
    """What `abfleet autopilot` may do with an experiment by itself.

    Attributes:
        halt: What it halts a treatment for.
        absent: It does so where a treatment answers nothing for so long while control does; zero: never.
        ramp: None: traffic is not raised.
        conclude: `ship` concludes with a winner once the verdict says so.
    """

    halt: tuple[Halting, ...] = ("guardrails", "harm")
    absent: timedelta = timedelta(minutes=10)
    ramp: AutopilotRamp | None = None
    conclude: Literal["never", "ship"] = "never"


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment; see docs/configuration.md for each key.

    Attributes:
        traffic_bp: The slice of its layer that it owns. A ramp row may take a smaller part of it.
        groups: With `interleave` the one group `interleaved`.
        control: Name of the group that the others are compared with.
        interleave: The two versions whose lists its users get as one, team A's first; None: each group has its own.
        ramp: Rows in ascending order of time; empty means that the groups' weights are in force, always.
        exclude: In ascending order of time, none of them touching the inside of another.
        autopilot: None: nothing acts by itself.
    """

    name: str
    salt: str
    groups: tuple[Group, ...]
    control: str
    owner: str | None = None
    hypothesis: str | None = None
    enabled: bool = True
    layer: str = DEFAULT_LAYER
    traffic_bp: int = BUCKETS
    audience: tuple[Condition, ...] = ()
    overrides: Mapping[str, str] = field(default_factory=dict)
    ramp: tuple[RampRow, ...] = ()
    metrics: MetricsPlan = MetricsPlan()
    plan: AnalysisPlan = AnalysisPlan()
    exclude: tuple[ExcludedWindow, ...] = ()
    autopilot: Autopilot | None = None
    interleave: tuple[str, str] | None = None

    def served_by(self, group: Group) -> str:
        """The version that serves a group, or both where two do: `v1.2.3 + v1.3.0-beta`."""
        return " + ".join(self.interleave or (group.model,))

    @property
    def versions(self) -> tuple[str, ...]:
        """The versions that serve its users: of each group, in order, or the two that are interleaved."""
        return self.interleave or tuple(group.model for group in self.groups)

    @property
    def control_index(self) -> int:
        """Position of the control among the groups."""
        return next(index for index, group in enumerate(self.groups) if group.name == self.control)

    def group(self, name: str) -> Group:
        """The group of that name; KeyError if there is none."""
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(name)

    def row_in_force(self, at: datetime) -> RampRow | None:
        """The shares in force at an instant, whether the experiment is enabled or not; None before the first row."""
        if not self.ramp:
            return RampRow(datetime.min.replace(tzinfo=UTC), self.traffic_bp, tuple(g.weight_bp for g in self.groups))
        past = [row for row in self.ramp if row.at <= at]
        return past[-1] if past else None


@dataclass(frozen=True, slots=True)
class Shadow:
    """A version that is asked with a sample of calls after they are answered; its answers go to the log alone.

    Attributes:
        percent_bp: Part of the calls, by their request ids.
        of: The versions whose calls these are; empty: of all but `model`.
    """

    model: str
    percent_bp: int
    of: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EndedExperiment:
    """An experiment that has ended and left the file.

    Attributes:
        winner: Name of the group whose version became the default, or with `interleave` of that version.
        at: When, in UTC.
    """

    experiment: str
    winner: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Config:
    """One whole configuration.

    Attributes:
        default: Version that serves everyone whom no experiment takes, and the fallback of all others.
        models: Version to its workers, in file order.
        experiments: In file order, which is the order of evaluation.
        log_attributes: Names of the request attributes that may be written to the decision log.
        concluded: Experiments that have ended, in file order; none of them is among `experiments`.
        money: The currency of `revenue_per_user` and of own metrics that name none; None: the most frequent counts.
        name: Of the model, for callers of `ModelInfer`.
        log: What is logged of answers to `ModelInfer`, where a version does not say.
        shadow: Versions that are asked in the shadow of others, in file order.
        revision: The first 12 hex digits of the sha256 of the effective configuration, with defaults filled in;
            comments, notation and the order of keys where it has no meaning leave it unchanged. So does where servers
            are and what they speak, in this file or in a fleet file: whoever has the experiments file alone names the
            revision that routers name. And so do `exclude` and `autopilot`, which routers have nothing to do with.
    """

    default: str
    models: Mapping[str, ModelTarget]
    experiments: tuple[Experiment, ...] = ()
    holdout: Holdout = Holdout()
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    log_attributes: tuple[str, ...] = ()
    concluded: tuple[EndedExperiment, ...] = ()
    money: Money | None = None
    name: str = DEFAULT_NAME
    log: LoggedOutputs = LoggedOutputs()
    shadow: tuple[Shadow, ...] = ()
    revision: str = field(init=False)

    def __post_init__(self) -> None:
        decides = {**effective(self), "models": sorted(self.models)}
        text = json.dumps(decides, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        object.__setattr__(self, "revision", hashlib.sha256(text.encode()).hexdigest()[:12])

    def experiment(self, name: str) -> Experiment:
        """The experiment of that name; KeyError if there is none."""
        for experiment in self.experiments:
            if experiment.name == name:
                return experiment
        raise KeyError(name)

    def logged_outputs(self, version: str) -> LoggedOutputs:
        """What is logged of this version's answers to `ModelInfer`; KeyError if the file has no such version."""
        own = self.models[version].log
        return self.log if own is None else own

    def versions_in_use(self, at: datetime) -> frozenset[str]:
        """The default, and every version that an enabled experiment gives a share above 0 at that instant."""
        versions = {self.default}
        for experiment in self.experiments:
            row = experiment.row_in_force(at)
            if not experiment.enabled or row is None or not row.traffic_bp:
                continue
            if experiment.interleave is not None:
                versions.update(experiment.interleave)
                continue
            shares = zip(experiment.groups, row.weights_bp, strict=True)
            versions.update(group.model for group, weight_bp in shares if weight_bp)
        return frozenset(versions)

    def next_change(self, at: datetime) -> datetime | None:
        """When the next ramp row of an enabled experiment takes effect after an instant."""
        times = (row.at for experiment in self.experiments if experiment.enabled for row in experiment.ramp)
        return min((time for time in times if time > at), default=None)


def percent_text(basis_points: int) -> str:
    """A share as a person writes it: 7000 is `70`, 1250 is `12.5`, 1 is `0.01`."""
    whole, rest = divmod(basis_points, 100)
    return f"{whole}.{rest:02d}".rstrip("0") if rest else str(whole)


def shares_text(weights: Sequence[tuple[str, int]]) -> str:
    """Shares of groups, in basis points, for a message, and what they sum to."""
    listed = ", ".join(f"{name} {percent_text(weight)}" for name, weight in weights[:10])
    more = ", …" if len(weights) > 10 else ""
    return f"{listed}{more}, which is {percent_text(sum(weight for _, weight in weights))} together"


def time_text(at: datetime) -> str:
    """An instant as the file writes it, in UTC: `2026-11-08T00:00:00Z`."""
    return at.astimezone(UTC).isoformat(timespec="microseconds" if at.microsecond else "seconds").replace("+00:00", "Z")


def effective(config: Config) -> dict[str, object]:
    """The configuration as plain JSON values, all defaults filled in; the revision is of all but targets.

    Without `exclude` and `autopilot`: a new revision is one that routers put in force, and they do nothing with these.
    """
    return {
        "version": 1,
        "default": config.default,
        "models": {version: _effective_target(model) for version, model in config.models.items()},
        "holdout": {"percent_bp": config.holdout.percent_bp, "salt": config.holdout.salt},
        "experiments": [_effective_experiment(experiment) for experiment in config.experiments],
        "metrics": {
            name: [
                m.type,
                m.outcome,
                m.window.total_seconds(),
                m.winsorise,
                m.direction,
                m.margin,
                *([m.over] if m.over else []),
                *([_effective_money(m.money)] if m.money else []),
            ]
            for name, m in config.metrics.items()
        },
        "log_attributes": sorted(config.log_attributes),
        # Left out where there is none, so that files from before this key keep their revision.
        **(
            {"concluded": [[c.experiment, c.winner, time_text(c.at)] for c in config.concluded]}
            if config.concluded
            else {}
        ),
        **(_effective_money(config.money) if config.money else {}),
        **({"name": config.name} if config.name != DEFAULT_NAME else {}),
        **({"log": _effective_log(config.log)} if config.log != LoggedOutputs() else {}),
        **({"model_logs": logs} if (logs := _effective_logs(config)) else {}),
        **({"shadow": [[s.model, s.percent_bp, list(s.of)] for s in config.shadow]} if config.shadow else {}),
    }


def _effective_target(model: ModelTarget) -> list[object]:
    return [*model.target, *([] if model.oip is None else [list(model.oip)])]


def _effective_log(logged: LoggedOutputs) -> list[object]:
    return [logged.items, list(logged.outputs)]


def _effective_logs(config: Config) -> dict[str, list[object]]:
    return {version: _effective_log(model.log) for version, model in config.models.items() if model.log is not None}


def _effective_money(money: Money) -> dict[str, object]:
    return {"currency": money.currency, "rates": dict(money.rates)}


def _effective_experiment(experiment: Experiment) -> dict[str, object]:
    plan, metrics = experiment.plan, experiment.metrics
    return {
        "name": experiment.name,
        "owner": experiment.owner,
        "hypothesis": experiment.hypothesis,
        "enabled": experiment.enabled,
        "salt": experiment.salt,
        "layer": experiment.layer,
        "traffic_bp": experiment.traffic_bp,
        "audience": [_effective_condition(condition) for condition in experiment.audience],
        "overrides": dict(experiment.overrides),
        "groups": [[group.name, group.model, group.weight_bp] for group in experiment.groups],
        "control": experiment.control,
        "ramp": [[time_text(row.at), row.traffic_bp, list(row.weights_bp)] for row in experiment.ramp],
        "metrics": {
            "primary": metrics.primary,
            "guardrails": [
                [
                    g.name,
                    g.margin,
                    g.threshold_ms,
                    *([] if g.points is None else [g.points]),
                    *([] if g.outages_per_day is None else [{"outages_per_day": g.outages_per_day}]),
                ]
                for g in metrics.guardrails
            ],
            "secondary": list(metrics.secondary),
        },
        "plan": {
            "effect": plan.effect,
            "power": plan.power,
            "horizon_s": plan.horizon.total_seconds(),
            "look_s": plan.look.total_seconds(),
            "minimum_s": plan.minimum.total_seconds(),
        },
        **({} if experiment.interleave is None else {"interleave": list(experiment.interleave)}),
    }


def _effective_condition(condition: Condition) -> list[object]:
    match condition:
        case OneOf(attribute, values):
            return [attribute, "one_of", *values]
        case InRange(attribute, minimum, maximum):
            return [attribute, "in_range", minimum, maximum]
        case Presence(attribute, present):
            return [attribute, "present", present]
