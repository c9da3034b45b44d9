"""What an edit would do: who moves now, who will at each dated row, and what to think of it. Changes nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

from abfleet_experiments.advice import advice
from abfleet_experiments.config import Config, Experiment, percent_text, time_text
from abfleet_experiments.movement import Flow, Movement, Placement, movement


@dataclass(frozen=True, slots=True)
class Scheduled:
    """What a ramp row of the new configuration moves when its time comes."""

    at: datetime
    movement: Movement


@dataclass(frozen=True, slots=True)
class PlanWarning:
    """Something to know before going on.

    Attributes:
        kind: A fixed word: `model_changed`, `salt_changed`, `treatment_loses_users`, `weights_without_ramp`,
            `groups_changed`, `control_changed`, `slice_moved`, `audience_changed`, `holdout_changed`,
            `default_changed`, `past_row_changed`, `experiment_removed`, `exclude_changed`, `shadow_changed` or
            `advice`.
        experiment: The experiment it is about; None for the file as a whole.
    """

    kind: str
    experiment: str | None
    message: str

    def __str__(self) -> str:
        return f"{self.experiment}: {self.message}" if self.experiment else self.message


@dataclass(frozen=True, slots=True)
class EditPlan:
    """The effect of putting a new configuration in the place of an old one at an instant.

    Attributes:
        now: The movement of all users at that instant.
        later: What the new configuration's ramp rows will move, in order of time.
        matching_only: Whether the shares are of the users who match every audience, as far as those cannot be known.
    """

    at: datetime
    old_revision: str
    new_revision: str
    now: Movement
    later: tuple[Scheduled, ...]
    warnings: tuple[PlanWarning, ...]
    matching_only: bool

    def as_dict(self) -> dict[str, object]:
        """The plan as plain JSON values; shares are percents of all users."""
        return {
            "at": time_text(self.at),
            "old_revision": self.old_revision,
            "new_revision": self.new_revision,
            "matching_only": self.matching_only,
            **_movement_dict(self.now),
            "later": [{"at": time_text(step.at), **_movement_dict(step.movement)} for step in self.later],
            "warnings": [{"kind": w.kind, "experiment": w.experiment, "message": w.message} for w in self.warnings],
        }


def plan(old: Config, new: Config, at: datetime, *, now: Movement | None = None) -> EditPlan:
    """What replacing one configuration by another at an instant does.

    `now` is the movement if it was counted over known users; else that of all users, exact from the buckets.
    """
    moving = now or movement(old, at, new, at)
    later = []
    before = at
    while (time := new.next_change(before)) is not None:
        later.append(Scheduled(time, movement(new, before, new, time)))
        before = time
    warnings = tuple(_warnings(old, new, at, moving))
    audiences = any(experiment.audience for config in (old, new) for experiment in config.experiments)
    matching_only = now is None and audiences
    return EditPlan(at, old.revision, new.revision, moving, tuple(later), warnings, matching_only)


def share_text(share: Fraction) -> str:
    """A share of users in percent, to three places: `3.12 %`; what is not 0 never reads as 0."""
    if 0 < share < Fraction(1, 100_000):
        return "< 0.001 %"
    return f"{float(share * 100):.3f}".rstrip("0").rstrip(".") + " %"


def _movement_dict(moving: Movement) -> dict[str, object]:
    return {
        "moved": _percent(moving.moved),
        "entered": _percent(moving.entered),
        "left": _percent(moving.left),
        "out_of_analysis": _percent(moving.out_of_analysis),
        "version_changed": _percent(moving.version_changed),
        "flows": [
            {"from": _place_dict(flow.before), "to": _place_dict(flow.after), "share": _percent(flow.share)}
            for flow in moving.flows
        ],
    }


def _percent(share: Fraction) -> float:
    return round(float(share * 100), 6)


def _place_dict(place: Placement) -> dict[str, str | None]:
    return {"experiment": place.experiment, "group": place.group, "model_version": place.version}


def _warnings(old: Config, new: Config, at: datetime, moving: Movement) -> Iterator[PlanWarning]:
    if old.default != new.default:
        message = (
            f"the default changes from {old.default} to {new.default}: it serves everyone whom no experiment takes"
        )
        yield PlanWarning("default_changed", None, message)
    if old.holdout != new.holdout and (old.holdout.percent_bp or new.holdout.percent_bp):
        kept = old.holdout.salt == new.holdout.salt
        message = "the holdout changes" if kept else "the salt of the holdout changes: other users are held out"
        yield PlanWarning("holdout_changed", None, message)
    starts_before, starts_after = _slice_starts(old), _slice_starts(new)
    for experiment in new.experiments:
        was = next((other for other in old.experiments if other.name == experiment.name), None)
        if was is None:
            continue
        yield from _randomisation_warnings(was, experiment)
        yield from _group_warnings(was, experiment, at)
        if was.layer != experiment.layer or starts_before[was.name] != starts_after[experiment.name]:
            start, end = (percent_text(starts[experiment.name]) for starts in (starts_before, starts_after))
            message = (
                f"its slice of layer {experiment.layer} now begins at {end} % instead of {start} %, because the "
                "experiments above it in the layer changed: it takes other users than before"
            )
            yield PlanWarning("slice_moved", experiment.name, message)
        yield from _loss_warnings(was, moving)
        if was.exclude != experiment.exclude:
            message = (
                "reports leave out other calls than before (`exclude`). No user moves, and routers change nothing. "
                "A window that was chosen after a look voids the error rates of the next report"
            )
            yield PlanWarning("exclude_changed", experiment.name, message)
    for was in old.experiments:
        if all(was.name != experiment.name for experiment in new.experiments):
            yield PlanWarning("experiment_removed", was.name, f"is no longer in the file; its users get {new.default}")
    if old.shadow != new.shadow:
        yield PlanWarning("shadow_changed", None, _shadow_text(new))
    for remark in advice(new):
        yield PlanWarning("advice", None, str(remark))


def _shadow_text(config: Config) -> str:
    if not config.shadow:
        return "shadow calls are switched off; no user moves"
    asked = ", ".join(
        f"{one.model} with {percent_text(one.percent_bp)} % of the calls of {', '.join(one.of) or 'all other versions'}"
        for one in config.shadow
    )
    return f"shadow calls go to {asked}; no user sees the answers, and no user moves"


def _slice_starts(config: Config) -> dict[str, int]:
    """Where in its layer each experiment's slice begins, in basis points."""
    ends: dict[str, int] = {}
    starts = {}
    for experiment in config.experiments:
        starts[experiment.name] = ends.get(experiment.layer, 0)
        ends[experiment.layer] = starts[experiment.name] + experiment.traffic_bp
    return starts


def _randomisation_warnings(was: Experiment, now: Experiment) -> Iterator[PlanWarning]:
    if was.salt != now.salt:
        message = (
            f"the salt changes from `{was.salt}` to `{now.salt}`: all users are randomised anew, and results start over"
        )
        yield PlanWarning("salt_changed", now.name, message)
    if was.audience != now.audience:
        yield PlanWarning("audience_changed", now.name, "the audience changes: other users than before are compared")
    if was.control != now.control:
        message = f"the control changes from `{was.control}` to `{now.control}`: buckets move differently than before"
        yield PlanWarning("control_changed", now.name, message)


def _group_warnings(was: Experiment, now: Experiment, at: datetime) -> Iterator[PlanWarning]:
    if was.interleave != now.interleave:
        before, after = (" and ".join(one.interleave or ("no versions",)) for one in (was, now))
        message = (
            f"it interleaved {before} and now {after}: earlier and later calls compare different things; begin a new "
            "experiment instead"
        )
        yield PlanWarning("model_changed", now.name, message)
        return
    models = {group.name: group.model for group in was.groups}
    for group in now.groups:
        if models.get(group.name, group.model) != group.model:
            message = (
                f"the version of `{group.name}` changes from {models[group.name]} to {group.model} in the middle of "
                "the experiment, so its results mix two versions; begin a new experiment instead"
            )
            yield PlanWarning("model_changed", now.name, message)
    treatments_before = [group.name for group in was.groups if group.name != was.control]
    treatments_now = [group.name for group in now.groups if group.name != now.control]
    if treatments_now[: len(treatments_before)] != treatments_before:
        message = (
            "a treatment was removed, renamed or reordered, and the order decides the buckets; keep it in its place "
            "with weight 0"
        )
        yield PlanWarning("groups_changed", now.name, message)
    past_before = [row for row in was.ramp if row.at <= at]
    past_now = [row for row in now.ramp if row.at <= at]
    if past_before and past_now[: len(past_before)] != past_before:
        yield PlanWarning(
            "past_row_changed",
            now.name,
            "a past ramp row was changed or removed, and past rows decide the buckets too; restore it",
        )
    elif not now.ramp and {g.name: g.weight_bp for g in was.groups} != {g.name: g.weight_bp for g in now.groups}:
        many = " With three or more treatments this moves more users than needed." if len(treatments_now) > 2 else ""
        message = f"the weights are edited without a ramp row, so no history is kept.{many} `abfleet ramp` writes a row"
        yield PlanWarning("weights_without_ramp", now.name, message)


def _loss_warnings(was: Experiment, moving: Movement) -> Iterator[PlanWarning]:
    for group in was.groups:
        if group.name == was.control:
            continue
        losses: list[Flow] = [
            flow
            for flow in moving.flows
            if flow.before[:2] == (was.name, group.name) and flow.after[:2] != flow.before[:2]
        ]
        if losses:
            where = ", ".join(f"{share_text(flow.share)} to {flow.after}" for flow in losses[:5])
            message = f"the treatment `{group.name}` loses users: {where} (percent of all users)"
            yield PlanWarning("treatment_loses_users", was.name, message)
