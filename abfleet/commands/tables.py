"""A table or a line, for terminals and for pipes.

On a terminal no figure is cut or broken, however narrow it is; in a pipe everything stays on one line.
"""

import os
import shutil
import sys
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import typer
from abfleet_process import standard_output

if TYPE_CHECKING:
    from rich.console import Console


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str] = ()
) -> None:
    """Columns on a terminal; the same cells separated by tabs in a pipe, where none may be cut to fit."""
    if not is_terminal():
        for row in (columns, *rows):
            typer.echo("\t".join(row))
        return
    from rich.markup import escape
    from rich.table import Table

    from abfleet.commands.fitting import fitted

    table = Table(title=escape(title) or None, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(escape(column), overflow="fold", justify="right" if column in right else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    terminal().print(fitted(table))


def say(line: str) -> None:
    """One line; on a terminal in as many as it needs, broken between words."""
    if not sys.stdout.isatty():
        typer.echo(line)
        return
    from abfleet.commands.fitting import folded

    for part in folded(line, shutil.get_terminal_size().columns):
        typer.echo(part)


def say_json(document: Any, *, indent: int | None = None) -> None:
    """A JSON document, with other letters than ASCII's as they are where standard output takes them, else escaped."""
    import json

    typer.echo(json.dumps(document, indent=indent, ensure_ascii=not standard_output.takes_all()))


def is_terminal() -> bool:
    """Whether tables are shown, or lines for a pipe; as Rich has it, without Rich."""
    return sys.stdout.isatty() or bool(os.environ.get("FORCE_COLOR"))


def terminal() -> "Console":
    """Standard output, with its real width also where the terminal is said to be dumb."""
    from rich.console import Console, ConsoleDimensions

    console = Console(highlight=False)
    if console.is_dumb_terminal:
        console.size = ConsoleDimensions(*shutil.get_terminal_size())
    return console


def printable(line: str) -> str:
    """What callers have sent is in it: a control character must not reach the terminal."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in line)
