"""The changes that people make to a running experiment, as one configuration to the next. Knows no text and no file."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from abfleet_process.declarations.nodes import suggestion

from abfleet_experiments.bucketing import BUCKETS
from abfleet_experiments.config import (
    Config,
    EndedExperiment,
    Experiment,
    RampRow,
    percent_text,
    shares_text,
    time_text,
)


class ChangeError(ValueError):
    """The change makes no sense for this configuration; `problems` say why and what is allowed, a line each."""

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


def ramped(
    config: Config,
    name: str,
    weights_bp: Mapping[str, int],
    *,
    traffic_bp: int | None,
    at: datetime,
    now: datetime,
    drop_later: bool = False,
) -> Config:
    """With a ramp row more: from `at` on these shares, and this traffic (None keeps it), are in force.

    The row is the last one; rows of that time or later are in its way unless `drop_later` gives them up.

    Groups that are not named keep their share, except that control, if not named, takes the rest. An experiment without
    ramp first gets a row for what is in force already, dated midnight UTC of the day before `now`: past on every
    router's clock, and what the new row moves the fewest users from.
    """
    experiment = _experiment(config, name)
    unknown = unknown_groups(experiment, weights_bp)
    problems = [*unknown]
    if drop_later and experiment.ramp:
        try:
            experiment = _without_rows_from(experiment, at)
        except ChangeError as error:
            problems += error.problems
    shares_after, shares_problem = _shares_after(experiment, weights_bp)
    problems += [shares_problem] if shares_problem and not unknown else []
    rows = experiment.ramp or (_first_row(experiment, now),)
    if at <= rows[-1].at and not (drop_later and experiment.ramp):
        last = time_text(rows[-1].at)
        problems.append(
            f"{time_text(at)} must be later than the last ramp row, at {last}; --drop-later removes later rows"
        )
    if problems:
        raise ChangeError(*problems)
    row = RampRow(at, rows[-1].traffic_bp if traffic_bp is None else traffic_bp, shares_after)
    if row.weights_bp == rows[-1].weights_bp and row.traffic_bp == rows[-1].traffic_bp:
        raise ChangeError("the last row already has these shares and this traffic; nothing to change")
    groups = tuple(replace(g, weight_bp=bp) for g, bp in zip(experiment.groups, shares_after, strict=True))
    owned = max(experiment.traffic_bp, row.traffic_bp)
    return _with(config, replace(experiment, groups=groups, ramp=(*rows, row), traffic_bp=owned))


def enabled(config: Config, name: str, *, on: bool) -> Config:
    """With the experiment switched on or off; off, it takes nobody and keeps its slice."""
    experiment = _experiment(config, name)
    if experiment.enabled is on:
        raise ChangeError(f"`{name}` is already {'running' if on else 'halted'}")
    return _with(config, replace(experiment, enabled=on))


def halted(config: Config, name: str, group: str, *, at: datetime) -> Config:
    """With one treatment's share taken to 0 from an instant on, and control taking it; nobody else moves.

    Rows of later stay, without that share. Where no treatment is left the experiment is switched off; where there was
    only one, that is all, and its share stays in the file for when it is resumed.
    """
    experiment = _treatment(config, name, group)
    mine, control = _places(experiment, group)
    if len(experiment.groups) == 2:
        return enabled(config, name, on=False)
    row = experiment.row_in_force(at)
    if row is None or not row.weights_bp[mine]:
        raise ChangeError(f"`{group}` has no share in `{name}` at {time_text(at)}")

    def without(weights: tuple[int, ...]) -> tuple[int, ...]:
        after = list(weights)
        after[control], after[mine] = after[control] + after[mine], 0
        return tuple(after)

    changed = _from_then_on(experiment, at, without)
    left = any(share for row in changed.ramp if row.at >= at for n, share in enumerate(row.weights_bp) if n != control)
    return _with(config, replace(changed, enabled=changed.enabled and left))


def given_back(config: Config, name: str, group: str | None, *, at: datetime) -> Config:
    """With the experiment switched on, and with the share that a halted treatment had, which control gives.

    One that interleaves has no treatment: it is switched on, and that is all.

    group: None: nothing but switching on, where that gives some treatment a share; else each that had one.
    """
    experiment = _experiment(config, name) if group is None else _treatment(config, name, group)
    if experiment.interleave is not None:
        return enabled(config, name, on=True)
    row = experiment.row_in_force(at)
    weights = () if row is None else row.weights_bp
    shares = {g.name: bp for g, bp in zip(experiment.groups, weights, strict=False) if g.name != experiment.control}
    wanted = list(shares) if group is None else [group]
    some = any(shares.get(one) for one in wanted)
    if some and not experiment.enabled:
        return enabled(config, name, on=True)
    back = {one: share for one in wanted if not shares.get(one) and (share := _former_share(experiment, one, at))}
    if not back:
        raise ChangeError(f"`{group or name}` {'is already running' if some else 'has had no share before'}")
    places = [g.name for g in experiment.groups]

    def with_share(weights: tuple[int, ...]) -> tuple[int, ...]:
        after = dict(zip(places, weights, strict=True))
        for one, share in back.items():
            if not after[one]:
                after[one], after[experiment.control] = share, after[experiment.control] - share
        if after[experiment.control] < 0:
            listed = ", ".join(f"{one} {percent_text(share)}" for one, share in back.items())
            raise ChangeError(f"control has too little to give back {listed}; say the shares with `abfleet ramp`")
        return tuple(after.values())

    changed = _from_then_on(experiment, at, with_share) if back else experiment
    return _with(config, replace(changed, enabled=True))


def concluded(config: Config, name: str, *, winner: str, at: datetime) -> Config:
    """Without the experiment, with the model of its winning group as the default, and with a note of that.

    winner: A group; of one that interleaves, a version.
    at: When it is concluded; the file keeps whole seconds.
    """
    experiment = _experiment(config, name)
    models = {group.name: group.model for group in experiment.groups}
    if experiment.interleave is not None:
        models = {version: version for version in experiment.interleave}
    if winner not in models:
        what = "a group" if experiment.interleave is None else "a version"
        raise ChangeError(f"`{winner}` is not {what} of `{name}`{suggestion(winner, list(models))}")
    rest = tuple(other for other in config.experiments if other.name != name)
    conclusion = EndedExperiment(name, winner, at.astimezone(UTC).replace(microsecond=0))
    return replace(
        config,
        default=models[winner],
        experiments=rest,
        concluded=(*config.concluded, conclusion),
    )


def _experiment(config: Config, name: str) -> Experiment:
    try:
        return config.experiment(name)
    except KeyError:
        names = [experiment.name for experiment in config.experiments]
        raise ChangeError(f"`{name}` is not an experiment of the file{suggestion(name, names)}") from None


def _treatment(config: Config, name: str, group: str) -> Experiment:
    experiment = _experiment(config, name)
    if problems := unknown_groups(experiment, [group]):
        raise ChangeError(*problems)
    if group == experiment.control:
        raise ChangeError(f"`{group}` is the control of `{name}`, whom nobody replaces; halt the experiment instead")
    return experiment


def _places(experiment: Experiment, group: str) -> tuple[int, int]:
    """Of a group and of control."""
    return [one.name for one in experiment.groups].index(group), experiment.control_index


def _former_share(experiment: Experiment, group: str, at: datetime) -> int:
    """The last share above 0 that a group had before an instant; 0: it never had one."""
    place, _ = _places(experiment, group)
    return next(
        (row.weights_bp[place] for row in reversed(experiment.ramp) if row.at <= at and row.weights_bp[place]), 0
    )


def _from_then_on(
    experiment: Experiment, at: datetime, change: Callable[[tuple[int, ...]], tuple[int, ...]]
) -> Experiment:
    """With a row at an instant whose shares, and those of all later rows, are changed; traffic stays as it is.

    A row of that second or later than the last one in force is not in its way: the new one is a second after it.
    """
    rows = experiment.ramp or (_first_row(experiment, at),)
    past = [row for row in rows if row.at <= at]
    if not past:
        raise ChangeError(f"`{experiment.name}` has no ramp row before {time_text(at)}")
    at = max(at, past[-1].at + timedelta(seconds=1))
    later = [replace(row, weights_bp=change(row.weights_bp)) for row in rows[len(past) :] if row.at > at]
    changed = (*past, RampRow(at, past[-1].traffic_bp, change(past[-1].weights_bp)), *later)
    groups = tuple(
        replace(group, weight_bp=bp) for group, bp in zip(experiment.groups, changed[-1].weights_bp, strict=True)
    )
    return replace(experiment, ramp=changed, groups=groups)


def _first_row(experiment: Experiment, now: datetime) -> RampRow:
    """What is in force without a ramp, dated midnight UTC of the day before: past on every router's clock."""
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    weights = tuple(group.weight_bp for group in experiment.groups)
    return RampRow(midnight - timedelta(days=1), experiment.traffic_bp, weights)


def _without_rows_from(experiment: Experiment, at: datetime) -> Experiment:
    """The experiment as if its rows from an instant on had never been written."""
    rows = tuple(row for row in experiment.ramp if row.at < at)
    if not rows:
        raise ChangeError(f"`{experiment.name}` has no ramp row before {time_text(at)}; halt it, or edit its rows")
    groups = tuple(replace(g, weight_bp=bp) for g, bp in zip(experiment.groups, rows[-1].weights_bp, strict=True))
    return replace(experiment, ramp=rows, groups=groups)


def _with(config: Config, changed: Experiment) -> Config:
    return replace(config, experiments=tuple(changed if e.name == changed.name else e for e in config.experiments))


def unknown_groups_of(config: Config, name: str, wanted: Iterable[str]) -> list[str]:
    """A line for each name that is no group of the experiment, or one that there is no such experiment."""
    try:
        return unknown_groups(_experiment(config, name), wanted)
    except ChangeError as error:
        return list(error.problems)


def unknown_groups(experiment: Experiment, wanted: Iterable[str]) -> list[str]:
    """A line for each name that is no group of the experiment."""
    names = [group.name for group in experiment.groups]
    return [
        f"`{name}` is not a group of `{experiment.name}`{suggestion(name, names)}"
        for name in wanted
        if name not in names
    ]


def _shares_after(experiment: Experiment, weights_bp: Mapping[str, int]) -> tuple[tuple[int, ...], str]:
    """The shares, and what is wrong with them; names that are no groups are passed over."""
    after = {group.name: weights_bp.get(group.name, group.weight_bp) for group in experiment.groups}
    if experiment.control not in weights_bp:
        others = sum(after.values()) - after[experiment.control]
        if others > BUCKETS:
            return (), f"the treatments have {percent_text(others)} percent together, more than 100"
        after[experiment.control] = BUCKETS - others
    if sum(after.values()) != BUCKETS:
        return (), f"shares must sum to 100 percent: {shares_text(list(after.items()))}"
    return tuple(after.values()), ""
