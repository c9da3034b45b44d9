"""`abfleet logs`: look at decision logs, check, compact and import, and erase a user. Knows flags and printing only."""

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from abfleet_router.log_files import Identity

    from abfleet.logs.users import Who

USAGE, FAILURE = 2, 1
Logs = Annotated[
    list[Path] | None,
    typer.Option("--logs", envvar="ABFLEET_LOGS", help="A folder or file of the log; repeatable.", show_default="logs"),
]
Json = Annotated[bool, typer.Option("--json", envvar="ABFLEET_JSON", help="Print JSON.")]
KeyFile = Annotated[
    Path | None,
    typer.Option(envvar="ABFLEET_USER_ID_HMAC_KEY_FILE", help="The routers' key, where logs have hashed user ids."),
]
group = typer.Typer(
    name="logs", help="Look at decision logs, check, compact and import, and erase a user.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Adds this family's commands to the command line."""
    app.add_typer(group)


@group.command(epilog="Example: abfleet logs tail --experiment homepage-ranking")
def tail(
    logs: Logs = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="So many of the newest lines first.")] = 10,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Go on with lines as they are written.")] = True,
    experiment: Annotated[str, typer.Option(help="Only lines of this experiment.")] = "",
    user: Annotated[str, typer.Option(help="Only lines of this user.")] = "",
    event: Annotated[str, typer.Option(help="Only lines of this kind.")] = "",
    as_json: Json = False,
) -> None:
    """Show the newest lines, and those that follow, in words or as they are."""
    from abfleet.logs.showing import last_lines, new_lines, one_line

    wishes = {"experiment": experiment, "user_id": user, "event": event}

    def wanted(line: dict[str, Any]) -> bool:
        return all(not value or line.get(name) == value for name, value in wishes.items())

    def show(line: dict[str, Any]) -> None:
        typer.echo(json.dumps(line, ensure_ascii=False) if as_json else one_line(line))

    paths = logs or [Path("logs")]
    with _told():
        following = new_lines(paths, wanted) if follow else iter(())
        for line in last_lines(paths, lines, wanted):
            show(line)
        try:
            for line in following:
                show(line)
        except KeyboardInterrupt:
            raise typer.Exit(0) from None


@group.command(epilog="Example: abfleet logs check --experiments experiments/recommender.yaml")
def check(
    logs: Logs = None,
    experiments: Annotated[
        Path | None, typer.Option(help="Compare exposures with what this file decides.", show_default=False)
    ] = None,
    gap: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="Tell of silences that are longer.")] = 300,
    as_json: Json = False,
) -> None:
    """Check every line against the schema, look for repeats, gaps, torn lines and clock steps, and sum up.

    Exits 1 when lines are unreadable or wrong, or when the file decides otherwise.
    """
    from abfleet_experiments.errors import ConfigErrors
    from abfleet_experiments.load import load

    from abfleet.logs.checking import Checker, document
    from abfleet.logs.files import everything

    config = None
    if experiments is not None:
        try:
            config = load(experiments, None)
        except ConfigErrors as error:
            _stop("\n".join(str(one) for one in error.errors), USAGE)
    with _told(), _bar("Checking") as advance:
        result = Checker(gap_seconds=gap, config=config).take(
            everything(logs or [Path("logs")], lambda path: advance())
        )
    report = document(result)
    if as_json:
        typer.echo(json.dumps(report))
    else:
        _print_check(report, compared=config is not None)
    if not result.sound:
        raise typer.Exit(FAILURE)


def _print_check(report: dict[str, Any], *, compared: bool) -> None:
    typer.echo(f"{report['lines']} lines in {report['files']} files, {report['first']} to {report['last']}")
    typer.echo(f"digest {report['digest']}")
    for name, count in report["events"].items():
        typer.echo(f"{count:>10}  {name}")
    for row in report["exposures"]:
        typer.echo(f"{row['lines']:>10}  {row['experiment'] or '(no experiment)'}  {row['group'] or ''}".rstrip())
    told = {
        "synthetic": "lines of synthetic traffic", "torn": "torn last lines", "unreadable": "unreadable lines",
        "repeated_exposures": "repeated exposures", "repeated_outcomes": "repeated outcomes",
        "clock_set_back": "lines after a clock was set back",
    }  # fmt: skip
    for name, words in told.items():
        if report[name]:
            typer.echo(f"{report[name]:>10}  {words}")
    for one in report["gaps"][:20]:
        typer.echo(f"silence of {one['seconds']:.0f} s from {one['from']} in {one['router']}")
    if compared:
        typer.echo(f"{report['compared_with_file']} exposures compared with the file")
    for name, count in {**report["problems"], **report["mismatches"]}.items():
        where = report["examples"].get(name) or report["examples"].get(f"mismatch.{name}", "")
        typer.echo(f"{count:>10}  {name}  first at {where}")
    typer.echo("sound" if report["sound"] else "not sound")


@group.command(epilog="Example: abfleet logs compact --logs logs")
def compact(
    logs: Annotated[Path, typer.Option("--logs", envvar="ABFLEET_LOGS", help="The folder of the log.")] = Path("logs"),
    out: Annotated[Path | None, typer.Option(help="Where Parquet goes.", show_default="LOGS/compacted")] = None,
    as_json: Json = False,
) -> None:
    """Turn closed log files into Parquet by day and experiment, verified row for row before anything is removed.

    Killed and run again it goes on. What a router still writes is left for the next time.
    """
    from dataclasses import asdict

    from abfleet.logs.compacting import compact as run

    if not logs.is_dir():
        _stop(f"{logs}: no such folder", USAGE)
    with _told(), _bar("Compacting") as advance:
        done = run(logs, out or logs / "compacted", _identity(), on_step=lambda step: advance())
    if as_json:
        typer.echo(json.dumps(asdict(done)))
    else:
        typer.echo(
            f"{done.lines} lines of {done.files} files in {done.parquet_files} Parquet files: "
            f"{done.bytes_before} bytes became {done.bytes_after}; {done.left} files are still written"
        )


@group.command(epilog="Example: abfleet logs user user-42")
def user(
    user_id: Annotated[str, typer.Argument(metavar="USER")],
    logs: Logs = None,
    user_id_hmac_key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Show what one user was shown and did, in the order of time."""
    from abfleet.logs.showing import one_line
    from abfleet.logs.users import life

    with _told():
        for line in life(logs or [Path("logs")], _who(user_id, user_id_hmac_key_file)):
            typer.echo(json.dumps(line, ensure_ascii=False) if as_json else one_line(line))


@group.command(epilog="Example: abfleet logs erase user-42 --dry-run")
def erase(
    user_id: Annotated[str, typer.Argument(metavar="USER")],
    logs: Logs = None,
    user_id_hmac_key_file: KeyFile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Rewrite every file without a user's lines, each verified before it replaces the old one.

    Exits 1 when the user is in a file that a router still writes: run it again when that has been rotated.
    """
    from abfleet.logs.users import erase as run

    with _told():
        done = run(logs or [Path("logs")], _who(user_id, user_id_hmac_key_file), _identity(), dry_run=dry_run)
    if as_json:
        busy = [str(path) for path in done.busy]
        typer.echo(json.dumps({"lines": done.lines, "files": done.files, "busy": busy, "dry_run": dry_run}))
    else:
        typer.echo(f"{done.lines} lines in {done.files} files {'would be' if dry_run else 'were'} erased")
    if done.busy:
        _stop("still written, and not erased: " + ", ".join(str(path) for path in done.busy))


@group.command(
    "import-outcomes", epilog="Example: abfleet logs import-outcomes orders.csv --map value=total --set type=purchase"
)
def import_outcomes(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A table: .csv with a header, .jsonl or .parquet.")],
    logs: Annotated[Path, typer.Option("--logs", envvar="ABFLEET_LOGS", help="The folder of the log.")] = Path("logs"),
    columns: Annotated[
        list[str] | None, typer.Option("--map", metavar="FIELD=COLUMN", help="Where a field is; repeatable.")
    ] = None,
    constants: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A field of every row; repeatable.")
    ] = None,
    time_unit: Annotated[
        str, typer.Option(metavar="s|ms|us", help="Times are numbers since 1970 in this unit.", show_default="ISO 8601")
    ] = "",
    experiments: Annotated[
        Path | None, typer.Option(help="Take the outcome types of this file's metrics too.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every row, and write nothing.")] = False,
    skip_rejected: Annotated[bool, typer.Option("--skip-rejected", help="Import the rest of the rows.")] = False,
    as_json: Json = False,
) -> None:
    """Append outcomes that come from elsewhere, such as an order database.

    Fields: outcome_id, request_id, user_id, type, item_id, value, currency, time. A row without outcome_id gets one
    made of its cells. Groups come from exposures alone: a column of them is refused.

    Exits 1 when rows are rejected; then nothing is written, unless --skip-rejected.
    """
    from abfleet_experiments.errors import ConfigErrors
    from abfleet_experiments.load import load
    from abfleet_experiments.outcome import BUILT_IN_TYPES, known_types

    from abfleet.logs.importing import UNITS, ColumnMap
    from abfleet.logs.importing import import_outcomes as run

    if time_unit and time_unit not in UNITS:
        raise typer.BadParameter(f"{time_unit[:64]!r}; allowed are {', '.join(UNITS)}", param_hint="--time-unit")
    mapping = ColumnMap(
        columns=_pairs(columns, "--map"), constants=_pairs(constants, "--set"), time_unit=time_unit or None
    )
    types = BUILT_IN_TYPES
    if experiments is not None:
        try:
            types = known_types(load(experiments, None))
        except ConfigErrors as error:
            _stop("\n".join(str(one) for one in error.errors), USAGE)
    if not file.is_file():
        _stop(f"{file}: no such file", USAGE)
    with _told(), _bar("Importing") as advance:
        done = run(
            file, logs, mapping, types, _identity(), dry_run=dry_run, skip_rejected=skip_rejected, on_row=advance
        )  # fmt: skip
    document = {
        "rows": done.rows, "accepted": done.accepted, "repeated": done.repeated, "rejected": done.rejected,
        "types": dict(done.by_type), "reasons": done.reasons, "file": str(done.path) if done.path else None,
    }  # fmt: skip
    if as_json:
        typer.echo(json.dumps(document, ensure_ascii=False))
    else:
        where = f"written to {done.path}" if done.path else "nothing was written"
        typer.echo(
            f"{done.rows} rows: {done.accepted} good, {done.repeated} repeated, {done.rejected} rejected; {where}"
        )
        for reason in done.reasons:
            typer.echo(reason, err=True)
    if done.rejected:
        raise typer.Exit(FAILURE)


@group.command(epilog="Example: abfleet logs schema > decision-log.schema.json")
def schema() -> None:
    """Print the JSON Schema of a line."""
    from abfleet_experiments.decision import json_schema

    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


def _pairs(words: list[str] | None, option: str) -> dict[str, str]:
    from abfleet.logs.importing import FIELDS

    pairs = {}
    for word in words or ():
        name, separator, value = word.partition("=")
        if not separator or not value or name not in FIELDS:
            allowed = f"FIELD=…, FIELD one of {', '.join(FIELDS)}"
            raise typer.BadParameter(f"{word[:64]!r} is not allowed; allowed is {allowed}", param_hint=option)
        pairs[name] = value
    return pairs


def _who(user_id: str, key_file: Path | None) -> "Who":
    from abfleet_router.user_ids import KeyFileError, keyed_hash

    from abfleet.logs.users import Who

    if key_file is None:
        return Who(user_id)
    try:
        return Who(user_id, keyed_hash(key_file)(user_id))
    except KeyFileError as error:
        _stop(str(error), USAGE)


def _identity() -> "Identity":
    import os

    from abfleet_router.log_files import Identity

    return Identity(socket.gethostname(), os.getpid())


@contextmanager
def _bar(words: str) -> "Iterator[Any]":
    """A count that runs on a terminal, and nowhere else."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(words, total=None)
        yield lambda: progress.advance(task)


@contextmanager
def _told() -> Iterator[None]:
    """Says what is wrong with log files in one line."""
    from abfleet.logs.files import LogsError

    try:
        yield
    except (LogsError, OSError) as error:
        _stop(str(error))


def _stop(message: str, code: int = FAILURE) -> NoReturn:
    sys.stderr.write(f"abfleet: {message}\n")
    raise typer.Exit(code)
