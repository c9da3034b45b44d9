"""`abfleet logs tail`, `check`, `user` and `schema`: the commands that read a log."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from abfleet_process.counting import counted

from abfleet.commands import log_changes
from abfleet.commands.log_options import (
    FAILURE,
    USAGE,
    Json,
    KeyFile,
    Logs,
    errors_in_one_line,
    logged_user,
    progress_count,
    stop,
    unreadable_lines,
)
from abfleet.commands.tables import say, say_json

group = typer.Typer(
    name="logs", help="Read, check, compact and import decision logs, and erase a user from them.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Adds this family's commands to the command line."""
    log_changes.register(group)
    app.add_typer(group)


@group.command(epilog="Example: abfleet logs tail --experiment homepage-ranking")
def tail(
    logs: Logs = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Number of newest lines to show first.")] = 10,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Keep showing lines as they are written.")
    ] = True,
    experiment: Annotated[str, typer.Option(help="Show only lines of this experiment.")] = "",
    user: Annotated[str, typer.Option(help="Show only lines of this user.")] = "",
    event: Annotated[str, typer.Option(help="Show only lines of this event.")] = "",
    as_json: Json = False,
) -> None:
    """Show the newest lines of a log, then new lines as they are written, as text or as JSON."""
    from abfleet_log.tools.show import last_lines, new_lines, one_line

    filters = {"experiment": experiment, "user_id": user, "event": event}

    def wanted(line: dict[str, Any]) -> bool:
        return all(not value or line.get(name) == value for name, value in filters.items())

    def show(line: dict[str, Any]) -> None:
        if as_json:
            say_json(line)
        else:
            say(one_line(line))

    paths = logs or [Path("logs")]
    with errors_in_one_line():
        following = new_lines(paths, wanted, unreadable=_tell_unreadable) if follow else iter(())
        with unreadable_lines() as unreadable:
            newest = last_lines(paths, lines, wanted, unreadable)
        for line in newest:
            show(line)
        try:
            for line in following:
                show(line)
        except KeyboardInterrupt:
            raise typer.Exit(0) from None


def _tell_unreadable(path: Path) -> None:
    typer.echo(f"{path}: unreadable line", err=True)


@group.command(epilog="Example: abfleet logs check --experiments experiments/recommender.yaml")
def check(
    logs: Logs = None,
    experiments: Annotated[
        Path | None, typer.Option(help="Compare exposures with the assignment by this file.", show_default=False)
    ] = None,
    gap: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="Report silences longer than this.")] = 300,
    as_json: Json = False,
) -> None:
    """Check every line against the schema, and report repeats, gaps, torn lines and clock steps.

    The exit code is 1 if lines are unreadable or invalid, or differ from the assignment by the file.
    """
    from abfleet_experiments.file.errors import ConfigErrors
    from abfleet_experiments.file.load import load
    from abfleet_log.tools.check import Checker, document
    from abfleet_log.tools.read_lines import all_lines

    config = None
    if experiments is not None:
        try:
            config = load(experiments, None)
        except ConfigErrors as error:
            stop("\n".join(str(one) for one in error.errors), USAGE)
    with errors_in_one_line(), progress_count("Checking") as advance:
        checker = Checker(gap_seconds=gap, config=config)
        result = checker.take(all_lines(logs or [Path("logs")], lambda path: advance(), checker.damaged))
    report = document(result)
    if as_json:
        typer.echo(json.dumps(report))
    else:
        _print_check(report, compared=config is not None)
    if not result.sound:
        raise typer.Exit(FAILURE)


def _print_check(report: dict[str, Any], *, compared: bool) -> None:
    say(
        f"{counted(report['lines'], 'line')} in {counted(report['files'], 'file')}, {report['first']} to "
        f"{report['last']}"
    )
    say(f"digest {report['digest']}")
    for name, count in report["events"].items():
        say(f"{count:>10}  {name}")
    for row in report["exposures"]:
        say(f"{row['lines']:>10}  {row['experiment'] or '(no experiment)'}  {row['group'] or ''}".rstrip())
    labels = {
        "synthetic": "synthetic lines",
        "torn": "torn last lines",
        "unreadable": "unreadable lines",
        "repeated_exposures": "repeated exposures",
        "repeated_outcomes": "repeated outcomes",
        "conflicting_outcomes": "of these, with the id of another outcome",
        "clock_set_back": "lines after a clock was set back",
    }
    for name, words in labels.items():
        if report[name]:
            first = f"  first at {report['examples'][name]}" if name in report["examples"] else ""
            say(f"{report[name]:>10}  {words}{first}")
    for router, count in report["wrong_clock"].items():
        of = f" in {router}" if router else ""
        where = f"first at {report['examples'].get('wrong clock')}"
        say(f"{count:>10}  lines with a time far from all others{of}, left out of the analysis  {where}")
    for one in report["gaps"][:20]:
        say(f"silence of {one['seconds']:.0f} s from {one['from']} in {one['router']}")
    if compared:
        say(f"{counted(report['compared_with_file'], 'exposure')} compared with the file")
    for name, count in {**report["problems"], **report["mismatches"]}.items():
        where = report["examples"].get(name) or report["examples"].get(f"mismatch.{name}", "")
        say(f"{count:>10}  {name}  first at {where}")
    say("sound" if report["sound"] else "not sound")


@group.command(epilog="Example: abfleet logs user user-42")
def user(
    user_id: Annotated[str, typer.Argument(metavar="USER")],
    logs: Logs = None,
    user_id_hmac_key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Show the exposures and outcomes of one user, in order of time."""
    from abfleet_log.tools.erase import user_history
    from abfleet_log.tools.show import one_line

    with errors_in_one_line():
        with unreadable_lines() as unreadable:
            found = user_history(logs or [Path("logs")], logged_user(user_id, user_id_hmac_key_file), unreadable)
        for line in found:
            if as_json:
                say_json(line)
            else:
                say(one_line(line))


@group.command(epilog="Example: abfleet logs schema > decision-log.schema.json")
def schema() -> None:
    """Print the JSON Schema of a log line."""
    from abfleet_log.schema import json_schema

    say_json(json_schema(), indent=2)
