"""Why a user gets a version: the decisions of assign, one by one, in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import mmh3
from abfleet_process.counting import counted

from abfleet_experiments import audience
from abfleet_experiments.allocation import allocation_in_force
from abfleet_experiments.assign import Arm, Assigner
from abfleet_experiments.bucketing import bucket, layer_salt
from abfleet_experiments.config import Config, Experiment, percent_text, time_text


@dataclass(frozen=True, slots=True)
class ExplanationStep:
    """One decision.

    Attributes:
        about: `user_id`, `override`, `holdout`, `layer`, `experiment` or `default`.
        text: What was asked and what the answer was.
        salt, hash, bucket: Of the decision, where it is one of buckets.
    """

    about: str
    text: str
    salt: str | None = None
    hash: int | None = None
    bucket: int | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decisions in order, and where they lead."""

    steps: tuple[ExplanationStep, ...]
    arm: Arm
    bucket: int | None


def explain(config: Config, at: datetime, user_id: str, attributes: Mapping[str, str]) -> Explanation:
    """How a user's version is found at an instant, as `Assigner.assign` finds it."""
    arm, user_bucket = Assigner(config, at).assign(user_id, attributes)
    return Explanation(tuple(_steps(config, at, user_id, attributes)), arm, user_bucket)


def _steps(config: Config, at: datetime, user_id: str, attributes: Mapping[str, str]) -> list[ExplanationStep]:
    steps: list[ExplanationStep] = []
    if not user_id:
        return [ExplanationStep("user_id", f"the call has none, so {config.default} serves it")]
    for experiment in config.experiments:
        if experiment.enabled and user_id in experiment.overrides:
            group = experiment.group(experiment.overrides[user_id])
            served = " and ".join(experiment.interleave or (group.model,))
            text = f"{experiment.name} forces this user into {group.name}, served by {served}; left out of analysis"
            return [*steps, _hashed("override", experiment.salt, user_id, text)]
    if config.holdout.percent_bp:
        step = _hashed("holdout", config.holdout.salt, user_id, "")
        held = bucket(config.holdout.salt, user_id) < config.holdout.percent_bp
        verdict = f"so {config.default} serves this user" if held else "so the user is not held out"
        limit = config.holdout.percent_bp
        steps.append(
            ExplanationStep(
                "holdout", f"{counted(limit, 'bucket')} held out, {verdict}", step.salt, step.hash, step.bucket
            )
        )
        if held:
            return steps
    for layer in dict.fromkeys(experiment.layer for experiment in config.experiments):
        taken = _layer_steps(config, at, user_id, attributes, layer=layer, steps=steps)
        if taken:
            return steps
    steps.append(ExplanationStep("default", f"no experiment takes this user, so {config.default} serves them"))
    return steps


def _layer_steps(
    config: Config,
    at: datetime,
    user_id: str,
    attributes: Mapping[str, str],
    *,
    layer: str,
    steps: list[ExplanationStep],
) -> bool:
    """Adds the decisions of one layer; whether it takes the user."""
    salt = layer_salt(layer)
    user_bucket, start = bucket(salt, user_id), 0
    for experiment in config.experiments:
        if experiment.layer != layer:
            continue
        end = start + experiment.traffic_bp
        if start <= user_bucket < end:
            text = f"{layer}: buckets {start} to {end - 1} are the slice of {experiment.name}"
            steps.append(_hashed("layer", salt, user_id, text))
            return _experiment_steps(experiment, at, user_id, attributes, offset=user_bucket - start, steps=steps)
        start = end
    steps.append(_hashed("layer", salt, user_id, f"{layer}: this bucket is in no experiment's slice"))
    return False


def _experiment_steps(
    experiment: Experiment,
    at: datetime,
    user_id: str,
    attributes: Mapping[str, str],
    *,
    offset: int,
    steps: list[ExplanationStep],
) -> bool:
    name = experiment.name
    allocation = allocation_in_force(experiment, at)
    if not experiment.enabled:
        steps.append(ExplanationStep("experiment", f"{name} is not enabled"))
        return False
    if allocation is None:
        begins = time_text(experiment.ramp[0].at)
        steps.append(ExplanationStep("experiment", f"{name} takes no users before its first ramp row, at {begins}"))
        return False
    if offset >= allocation.traffic_bp:
        share = percent_text(allocation.traffic_bp)
        text = (
            f"{name} now takes {share} % of the layer's users, the first "
            f"{counted(allocation.traffic_bp, 'bucket')} of its slice"
        )
        steps.append(ExplanationStep("experiment", text))
        return False
    for condition in experiment.audience:
        value = attributes.get(condition.attribute)
        sent = "but it was not sent" if value is None else f"and it is `{value[:64]}`"
        holds = audience.holds(condition, attributes)
        text = (
            f"{name} requires that {audience.describe(condition)}, {sent}: {'matches' if holds else 'does not match'}"
        )
        steps.append(ExplanationStep("experiment", text))
        if not holds:
            return False
    user_bucket = bucket(experiment.salt, user_id)
    run = next(run for run in allocation.runs if run.start <= user_bucket < run.end)
    group = experiment.groups[run.group]
    share = percent_text(allocation.weights_bp[run.group])
    served = f"which {group.model} serves"
    if experiment.interleave is not None:
        served = f"whose lists {' and '.join(experiment.interleave)} draft in turn"
    text = f"{name}: buckets {run.start} to {run.end - 1} are {group.name} ({share} %), {served}"
    steps.append(_hashed("experiment", experiment.salt, user_id, text))
    return True


def _hashed(about: str, salt: str, user_id: str, text: str) -> ExplanationStep:
    return ExplanationStep(about, text, salt, mmh3.hash(f"{salt}:{user_id}", 0, False), bucket(salt, user_id))
