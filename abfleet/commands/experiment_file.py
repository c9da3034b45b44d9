"""How commands find, read and show experiments files."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from abfleet_process.addresses import EXPERIMENTS_FILE
from abfleet_process.counting import counted

from abfleet.commands.tables import print_table, say, say_json

if TYPE_CHECKING:
    from abfleet_experiments.config import Config
    from abfleet_experiments.movement import Movement, Placement
    from abfleet_experiments.plan import EditPlan

EXIT_USAGE = 2
EXIT_MOVES = 3

Experiments = Annotated[
    Path, typer.Option("--experiments", envvar="ABFLEET_EXPERIMENTS", metavar="FILE", help="The experiments file.")
]
DEFAULT_EXPERIMENTS = Path(EXPERIMENTS_FILE)
Fleet = Annotated[
    Path | None,
    typer.Option(
        "--fleet",
        envvar="ABFLEET_FLEET",
        metavar="FILE",
        help="Fleet file; its targets replace those of the experiments file.",
    ),
]
At = Annotated[
    str | None,
    typer.Option("--at", envvar="ABFLEET_AT", metavar="TIME", help="Time, such as 2026-11-08T00:00:00Z. Default: now."),
]
Attributes = Annotated[
    list[str] | None,
    typer.Option(
        "--attributes", envvar="ABFLEET_ATTRIBUTES", metavar="NAME=VALUE", help="Request attribute; may be repeated."
    ),
]
Json = Annotated[bool, typer.Option("--json", envvar="ABFLEET_JSON", help="Print JSON.")]


def refuse(*messages: object) -> NoReturn:
    """Says what is wrong, a line each, on standard error, and exits as for a usage mistake."""
    for message in messages:
        typer.echo(str(message), err=True)
    raise typer.Exit(EXIT_USAGE)


def loaded(*files: Path, fleet: Path | None = None) -> "list[Config]":
    """The configurations of these files; every mistake in any of them is printed, and then it exits."""
    from abfleet_experiments.file.errors import ConfigError, ConfigErrors
    from abfleet_experiments.file.load import load

    configs: list[Config] = []
    errors: list[ConfigError] = []
    for file in files:
        try:
            configs.append(load(file, fleet))
        except ConfigErrors as error:
            errors += error.errors
    if errors:
        refuse(*errors)
    return configs


def instant(text: str | None) -> datetime:
    """The instant of an `--at`, or now."""
    try:
        return datetime.now(UTC) if text is None else parsed_instant(text)
    except ValueError as error:
        refuse(error)


def parsed_instant(text: str) -> datetime:
    """The instant of an `--at`. Raises ValueError."""
    from abfleet_process.declarations.kinds import parse_time

    try:
        return parse_time(text)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"--at: {error}") from error


def attribute_map(pairs: Sequence[str] | None) -> dict[str, str]:
    """The attributes of repeated `--attributes name=value`."""
    attributes = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            refuse(f"--attributes: `{pair[:64]}` must be NAME=VALUE")
        attributes[name] = value
    return attributes


def show_plan(
    plan: "EditPlan", *, as_json: bool, users: int | None = None, more: "Mapping[str, object] | None" = None
) -> None:
    """Prints a plan: who moves now and at each later row, and what to know.

    users: How many were counted. more: Further keys of the JSON.
    """
    from abfleet_experiments.config import time_text

    if as_json:
        counted = {} if users is None else {"users": users}
        say_json({**plan.as_dict(), **counted, **(more or {})}, indent=2)
        return
    say(f"{plan.old_revision} -> {plan.new_revision} at {time_text(plan.at)}")
    _show_movement(plan.now, users)
    for step in plan.later:
        typer.echo("")
        say(f"at {time_text(step.at)}, by a ramp row:")
        _show_movement(step.movement, None)
    if plan.matching_only:
        typer.echo("")
        say("The shares are those of users who match every audience; use --users FILE to count your own users.")
    if plan.warnings:
        typer.echo("")
    for warning in plan.warnings:
        say(f"warning: {warning}")


def _show_movement(movement: "Movement", users: int | None) -> None:
    from abfleet_experiments.plan import share_text

    base = 100_000 if users is None else users
    of = f"of {counted(base, 'user')}"
    if not movement.moved and not movement.version_changed:
        say(f"  none {of} moves")
    else:
        say(
            f"  moved: {_count(movement.moved, base)} {of} ({share_text(movement.moved)}); "
            f"{_count(movement.entered, base)} enter, {_count(movement.left, base)} leave, "
            f"{_count(movement.out_of_analysis, base)} change group, and their calls so far leave the analysis"
        )
        say(f"  served by another version: {_count(movement.version_changed, base)} {of}")
    moves = [
        (f"{_place(flow.before)} -> {_place(flow.after)}", _count(flow.share, base), share_text(flow.share))
        for flow in movement.flows
        if flow.before != flow.after
    ]
    _show_rows(("move", "users", "share"), moves)
    none = Fraction(0)
    before, after = movement.shares_before(), movement.shares_after()
    places = sorted({*before, *after}, key=lambda place: (place.experiment or "", place.group or "", place.version))
    shares = [
        (_place(place), share_text(before.get(place, none)), share_text(after.get(place, none))) for place in places
    ]
    _show_rows(("group", "before", "after"), shares)


def _show_rows(head: tuple[str, str, str], rows: list[tuple[str, str, str]]) -> None:
    if not rows:
        return
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(3)]
    typer.echo("")
    if sys.stdout.isatty() and sum(widths) + 6 > shutil.get_terminal_size().columns:
        print_table("", head, rows, right=head[1:])
        return
    for row in (head, *rows):
        typer.echo(f"  {row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}")


def _place(place: "Placement") -> str:
    return f"{place} ({place.version})"


def _count(share: Fraction, base: int) -> str:
    return f"{round(share * base):,}"
