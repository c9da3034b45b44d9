"""Commands that change the experiments file in place: show the plan, ask, write."""

import re
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abfleet.commands.analysis_options import DEFAULT_LOGS, Logs
from abfleet.commands.experiment_file import (
    DEFAULT_EXPERIMENTS,
    At,
    Experiments,
    Json,
    loaded,
    parsed_instant,
    refuse,
    show_plan,
)
from abfleet.commands.newest_verdict import VerdictNote, newest_verdict
from abfleet.commands.tables import say

if TYPE_CHECKING:
    from abfleet_experiments.config import Config

_PERCENT = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,2}))?%?", re.ASCII)

Name = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="Name of the experiment.")]
Yes = Annotated[bool, typer.Option("--yes", envvar="ABFLEET_YES", help="Do not ask for confirmation.")]
DryRun = Annotated[bool, typer.Option("--dry-run", envvar="ABFLEET_DRY_RUN", help="Show the plan and change nothing.")]


def register(app: typer.Typer) -> None:
    """Adds this family's commands to the command line."""
    for command in (ramp, halt, resume, conclude):
        app.command()(command)


def ramp(
    experiment: Name,
    weights: Annotated[list[str] | None, typer.Argument(metavar="[GROUP=PERCENT]...", help="New shares.")] = None,
    *,
    traffic: Annotated[
        str | None,
        typer.Option("--traffic", envvar="ABFLEET_TRAFFIC", metavar="PERCENT", help="Percent of the layer's users."),
    ] = None,
    at: At = None,
    drop_later: Annotated[
        bool,
        typer.Option("--drop-later", envvar="ABFLEET_DROP_LATER", help="Remove ramp rows at that time or later."),
    ] = False,
    experiments: Experiments = DEFAULT_EXPERIMENTS,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Change shares or traffic from an instant on, by a ramp row: it moves as few users as possible.

    Groups that are not named keep their share, and control gets the rest.

    Example: abfleet ramp homepage-ranking canary=20 --at 2026-12-01T00:00:00Z
    """
    from abfleet_experiments import change

    if not weights and traffic is None:
        refuse("nothing to change: give GROUP=PERCENT, --traffic, or both")
    problems: list[str] = []
    pairs = [(pair, *pair.partition("=")[::2]) for pair in weights or ()]
    shares = {group: _basis_points(pair, percent, problems) for pair, group, percent in pairs}
    if len(shares) < len(pairs):
        twice = Counter(group for _, group, _ in pairs).most_common(1)[0][0]
        problems.append(f"`{twice[:64]}` is given twice")
    taken = None if traffic is None else _basis_points(f"--traffic {traffic}", traffic, problems)
    now = datetime.now(UTC).replace(microsecond=0)
    time = now
    try:
        time = now if at is None else parsed_instant(at)
    except ValueError as error:
        problems.append(str(error))
    if problems:
        (config,) = loaded(experiments)
        refuse(*problems, *change.unknown_groups_of(config, experiment, shares))

    def changed(config: "Config") -> "Config":
        return change.ramped(config, experiment, shares, traffic_bp=taken, at=time, now=now, drop_later=drop_later)

    _edit(experiments, changed, yes=yes, dry_run=dry_run, as_json=as_json, at=now)


def halt(
    experiment: Name,
    *,
    experiments: Experiments = DEFAULT_EXPERIMENTS,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Switch an experiment off: it takes no users, and keeps its slice until it is resumed.

    Example: abfleet halt homepage-ranking --yes
    """
    from abfleet_experiments import change

    _edit(
        experiments,
        lambda config: change.enabled(config, experiment, on=False),
        yes=yes,
        dry_run=dry_run,
        as_json=as_json,
    )


def resume(
    experiment: Name,
    group: Annotated[
        str | None, typer.Argument(metavar="[GROUP]", help="A halted treatment, which gets its former share back.")
    ] = None,
    *,
    experiments: Experiments = DEFAULT_EXPERIMENTS,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Switch a halted experiment on again, and give a halted treatment its former share: users return to their groups.

    Example: abfleet resume homepage-ranking canary
    """
    from abfleet_experiments import change

    now = datetime.now(UTC).replace(microsecond=0)
    _edit(
        experiments,
        lambda config: change.given_back(config, experiment, group, at=now),
        yes=yes,
        dry_run=dry_run,
        as_json=as_json,
        at=now,
    )


def conclude(
    experiment: Name,
    *,
    winner: Annotated[
        str,
        typer.Option(
            "--winner",
            envvar="ABFLEET_WINNER",
            metavar="GROUP",
            help="Group that wins; its version becomes the default. Of an interleaving, the version.",
        ),
    ],
    logs: Logs = DEFAULT_LOGS,
    experiments: Experiments = DEFAULT_EXPERIMENTS,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """End an experiment: its winner's version becomes the default, and it leaves the file, which keeps its winner.

    Quotes the newest verdict of the log, and warns where that says otherwise.

    Example: abfleet conclude homepage-ranking --winner canary
    """
    from abfleet_experiments import change

    at = datetime.now(UTC)
    _edit(
        experiments,
        lambda config: change.concluded(config, experiment, winner=winner, at=at),
        yes=yes,
        dry_run=dry_run,
        as_json=as_json,
        at=at,
        note=lambda config: newest_verdict(logs, config, experiment, winner),
    )


def _basis_points(argument: str, percent: str, problems: list[str]) -> int:
    """The share; what is wrong with it goes to the problems."""
    match = _PERCENT.fullmatch(percent)
    value = int(match[1]) * 100 + int((match[2] or "").ljust(2, "0")) if match else -1
    if not 0 <= value <= 10_000:
        problems.append(
            f"`{argument[:64]}`: the share must be a percentage from 0 to 100 with at most two decimal places"
        )
    return value


def _edit(
    file: Path,
    changed: "Callable[[Config], Config]",
    *,
    yes: bool,
    dry_run: bool,
    as_json: bool,
    at: datetime | None = None,
    note: "Callable[[Config], VerdictNote] | None" = None,
) -> None:
    """Makes the change in the file's text, shows what it moves, asks, and writes.

    note: What is to be known before somebody says yes, by the configuration as it is.
    """
    from abfleet_experiments.change import ChangeError
    from abfleet_experiments.file.load import load_text
    from abfleet_experiments.file.rewrite import RewriteError, rewrite
    from abfleet_experiments.file.save import SaveError, save
    from abfleet_experiments.plan import plan

    (old,) = loaded(file)
    read = file.read_bytes()
    try:
        text = rewrite(read.decode(), changed(old))
    except (ChangeError, RewriteError) as error:
        refuse(error)
    new = load_text(text, name=str(file))
    told = None if note is None else note(old)
    show_plan(plan(old, new, at or datetime.now(UTC)), as_json=as_json, more={} if told is None else told.as_dict())
    if told is not None and not as_json:
        typer.echo("")
        for sentence in told.sentences:
            say(sentence)
    if dry_run:
        return
    if not yes:
        if not sys.stdin.isatty():
            refuse(
                "no terminal to ask for confirmation; use --yes to write without asking, or --dry-run to only "
                "show the plan"
            )
        typer.confirm(f"\nWrite this to {file}?", abort=True, err=True)
    try:
        save(file, read=read, changed=text.encode())
    except SaveError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    if not as_json:
        typer.echo(f"\n{file} written, revision {new.revision}")
        for version in old.models:
            if (
                version in old.versions_in_use(at or datetime.now(UTC))
                and all(version not in experiment.versions for experiment in new.experiments)
                and version != new.default
            ):
                typer.echo(f"{version} no longer serves anyone; you may remove it from `models`")
