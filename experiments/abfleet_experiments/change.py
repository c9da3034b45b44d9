"""The changes that people make to a running experiment, as one configuration to the next. Knows no text and no file."""

from collections.abc import Iterable, Mapping
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
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    first = RampRow(midnight - timedelta(days=1), experiment.traffic_bp, tuple(g.weight_bp for g in experiment.groups))
    rows = experiment.ramp or (first,)
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


def concluded(config: Config, name: str, *, winner: str, at: datetime) -> Config:
    """Without the experiment, with the model of its winning group as the default, and with a note of that.

    at: When it is concluded; the file keeps whole seconds.
    """
    experiment = _experiment(config, name)
    names = [group.name for group in experiment.groups]
    if winner not in names:
        raise ChangeError(f"`{winner}` is not a group of `{name}`{suggestion(winner, names)}")
    rest = tuple(other for other in config.experiments if other.name != name)
    conclusion = EndedExperiment(name, winner, at.astimezone(UTC).replace(microsecond=0))
    return replace(
        config,
        default=experiment.group(winner).model,
        experiments=rest,
        concluded=(*config.concluded, conclusion),
    )


def _experiment(config: Config, name: str) -> Experiment:
    try:
        return config.experiment(name)
    except KeyError:
        names = [experiment.name for experiment in config.experiments]
        raise ChangeError(f"`{name}` is not an experiment of the file{suggestion(name, names)}") from None


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
