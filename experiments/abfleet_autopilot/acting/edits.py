"""An act as a change of the configuration. Pure."""

from datetime import datetime, timedelta
from typing import Final

from abfleet_experiments import change
from abfleet_experiments.config import Config, Experiment

from abfleet_autopilot.acts import Action, IntendedAction

SOON: Final = timedelta(seconds=60)


def changed(config: Config, act: IntendedAction, at: datetime) -> Config:
    """The configuration after an act at a moment of whole seconds. Raises ChangeError where it makes no sense."""
    if act.action is Action.HALT:
        assert act.group is not None
        return change.halted(config, act.experiment, act.group, at=at)
    if act.action is Action.CONCLUDE:
        assert act.group is not None
        return change.concluded(config, act.experiment, winner=act.group, at=at)
    experiment = config.experiment(act.experiment)
    if experiment.ramp:
        at = max(at, experiment.ramp[-1].at + timedelta(seconds=1))
    return change.ramped(config, act.experiment, {}, traffic_bp=act.traffic_bp, at=at, now=at)


def is_done(config: Config, act: IntendedAction, at: datetime) -> bool:
    """Whether the configuration is as an act wants it, whoever made it so; by rows of SOON too, as clocks differ."""
    at += SOON
    found = next((one for one in config.experiments if one.name == act.experiment), None)
    if found is None:
        return True  # it has ended: nothing of it is served any more
    if act.action is Action.HALT:
        assert act.group is not None
        return not found.enabled or not _share(found, act.group, at)
    if act.action is Action.CONCLUDE:
        return False
    row = found.row_in_force(at)
    return row is not None and act.traffic_bp is not None and row.traffic_bp >= act.traffic_bp


def _share(experiment: Experiment, group: str, at: datetime) -> int:
    """The largest that a group has, now or by a later row."""
    place = next((n for n, one in enumerate(experiment.groups) if one.name == group), None)
    row = experiment.row_in_force(at)
    rows = [*([row] if row is not None else []), *(later for later in experiment.ramp if later.at > at)]
    return 0 if place is None else max((one.weights_bp[place] for one in rows), default=0)


def shares_of(config: Config, act: IntendedAction, at: datetime) -> dict[str, object]:
    """What the experiment has at a moment, for the action's `before` and `after`."""
    found = next((one for one in config.experiments if one.name == act.experiment), None)
    if found is None:
        return {"default": config.default}
    row = found.row_in_force(at)
    weights = {} if row is None else dict(zip((g.name for g in found.groups), row.weights_bp, strict=True))
    return {
        "enabled": found.enabled,
        "traffic": 0.0 if row is None else row.traffic_bp / 100,
        "weights": {name: share / 100 for name, share in weights.items()},
    }
