"""`abfleet logs compact`, `erase` and `import-outcomes`: the commands that change a log."""

import json
from pathlib import Path
from typing import Annotated

import typer
from abfleet_process.counting import counted

from abfleet.commands.log_options import (
    DEFAULT_FOLDER,
    FAILURE,
    USAGE,
    Folder,
    Json,
    KeyFile,
    Logs,
    errors_in_one_line,
    identity,
    logged_user,
    progress_count,
    stop,
)
from abfleet.commands.tables import say, say_json


def register(group: typer.Typer) -> None:
    """Adds these commands to `abfleet logs`."""
    group.command(epilog="Example: abfleet logs compact --logs logs")(compact)
    group.command(epilog="Example: abfleet logs erase user-42 --dry-run")(erase)
    group.command(
        "import-outcomes",
        epilog="Example: abfleet logs import-outcomes orders.csv --map value=total --set type=purchase",
    )(import_outcomes)


def compact(
    logs: Folder = DEFAULT_FOLDER,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the Parquet files.", show_default="LOGS/compacted")
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn closed log files into Parquet by day and experiment, verified row for row before anything is removed.

    If it is killed, run it again: it continues. Files that a router still writes are left for the next run.
    """
    from dataclasses import asdict

    from abfleet_log.tools.compact import compact as run

    if not logs.is_dir():
        stop(f"{logs}: no such folder", USAGE)
    with errors_in_one_line(), progress_count("Compacting") as advance:
        done = run(logs, out or logs / "compacted", identity(), on_step=lambda step: advance())
    if as_json:
        files = {name: [str(path) for path in getattr(done, name)] for name in ("unfit", "damaged")}
        typer.echo(json.dumps(asdict(done) | files))
    else:
        say(
            f"compacted {counted(done.lines, 'line')} of {counted(done.files, 'file')} into "
            f"{counted(done.parquet_files, 'Parquet file')}: {done.bytes_before:,} bytes became {done.bytes_after:,}; "
            f"left alone because a router still writes them: {counted(done.left, 'file')}"
        )
        if done.unreadable:
            say(f"kept as they are: {counted(done.unreadable, 'line')} that cannot be read as JSON, such as torn lines")
        if done.unfit_lines:
            say(
                f"left in place: {counted(done.unfit_lines, 'line')} that Parquet cannot hold (not UTF-8, or "
                "above 16 MiB)"
            )
        for path in done.unfit:
            say(f"{path}: has only lines that are left in place")
        for path in done.damaged:
            say(f"{path}: left alone, because it is damaged and cannot be read to its end")


def erase(
    user_id: Annotated[str, typer.Argument(metavar="USER")],
    logs: Logs = None,
    user_id_hmac_key_file: KeyFile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be erased, and change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Rewrite every file without a user's lines, each verified before it replaces the old one.

    Unreadable lines are searched for the id as text. The exit code is 1 if a router still writes a file with the user:
    run the command again once the file has been rotated. It is also 1 if a compressed file is damaged: repair or remove
    the file.
    """
    from abfleet_log.tools.erase import erase as run

    with errors_in_one_line():
        done = run(logs or [Path("logs")], logged_user(user_id, user_id_hmac_key_file), identity(), dry_run=dry_run)
    if as_json:
        files = {name: [str(path) for path in getattr(done, name)] for name in ("busy", "damaged")}
        counts = {"lines": done.lines, "files": done.files, "unreadable": done.unreadable}
        typer.echo(json.dumps({**counts, **files, "dry_run": dry_run}))
    else:
        say(f"{'would erase' if dry_run else 'erased'} {counted(done.lines, 'line')} in {counted(done.files, 'file')}")
        if done.unreadable:
            say(f"kept {counted(done.unreadable, 'unreadable line')} without the id; see abfleet logs check")
    left = []
    if done.busy:
        left.append("not erased, because a router still writes the file: " + ", ".join(str(path) for path in done.busy))
    if done.damaged:
        left.append("not erased, because the file is damaged: " + ", ".join(str(path) for path in done.damaged))
    if left:
        stop("; ".join(left))


def import_outcomes(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Table to import: .csv with a header, .jsonl or .parquet.")
    ],
    logs: Folder = DEFAULT_FOLDER,
    columns: Annotated[
        list[str] | None, typer.Option("--map", metavar="FIELD=COLUMN", help="Column of a field; may be repeated.")
    ] = None,
    constants: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Value of a field for all rows; may be repeated."),
    ] = None,
    time_unit: Annotated[
        str, typer.Option(metavar="s|ms|us", help="Unit of times that are numbers since 1970.", show_default="ISO 8601")
    ] = "",
    experiments: Annotated[
        Path | None, typer.Option(help="Also accept the outcome types of this file's metrics.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all rows and write nothing.")] = False,
    skip_rejected: Annotated[
        bool, typer.Option("--skip-rejected", help="Import the valid rows even if others are rejected.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Append outcomes from another source, such as an order database.

    Fields: outcome_id, request_id, user_id, type, item_id or item_name, value, currency, time. A row without outcome_id
    gets one that is computed from its cells. Groups come only from exposures, so a column of groups is refused.

    The exit code is 1 if rows are rejected; then nothing is written, unless --skip-rejected is given.
    """
    from abfleet_experiments.file.errors import ConfigErrors
    from abfleet_experiments.file.load import load
    from abfleet_log.outcome import BUILT_IN_TYPES, known_types
    from abfleet_log.tools.import_outcomes import UNITS, ColumnMap
    from abfleet_log.tools.import_outcomes import import_outcomes as run

    if time_unit and time_unit not in UNITS:
        raise typer.BadParameter(f"{time_unit[:64]!r}; allowed: {', '.join(UNITS)}", param_hint="--time-unit")
    mapping = ColumnMap(
        columns=_pairs(columns, "--map"), constants=_pairs(constants, "--set"), time_unit=time_unit or None
    )
    types = BUILT_IN_TYPES
    if experiments is not None:
        try:
            types = known_types(load(experiments, None))
        except ConfigErrors as error:
            stop("\n".join(str(one) for one in error.errors), USAGE)
    if not file.is_file():
        stop(f"{file}: no such file", USAGE)
    with errors_in_one_line(), progress_count("Importing") as advance:
        done = run(file, logs, mapping, types, identity(), dry_run=dry_run, skip_rejected=skip_rejected, on_row=advance)
    document = {
        "rows": done.rows,
        "accepted": done.accepted,
        "repeated": done.repeated,
        "rejected": done.rejected,
        "types": dict(done.by_type),
        "reasons": done.reasons,
        "file": str(done.path) if done.path else None,
    }
    if as_json:
        say_json(document)
    else:
        where = f"written to {done.path}" if done.path else "nothing was written"
        say(
            f"{counted(done.rows, 'row')}: {done.accepted:,} accepted, {done.repeated:,} repeated, "
            f"{done.rejected:,} rejected; {where}"
        )
        for reason in done.reasons:
            typer.echo(reason, err=True)
    if done.rejected:
        raise typer.Exit(FAILURE)


def _pairs(words: list[str] | None, option: str) -> dict[str, str]:
    from abfleet_log.tools.import_outcomes import FIELDS

    pairs = {}
    for word in words or ():
        name, separator, value = word.partition("=")
        if not separator or not value or name not in FIELDS:
            allowed = f"FIELD=…, where FIELD is one of {', '.join(FIELDS)}"
            raise typer.BadParameter(f"{word[:64]!r} is not allowed; allowed: {allowed}", param_hint=option)
        pairs[name] = value
    return pairs
