"""The command line: registers the commands of each module in commands/, in the groups in which help shows them."""

import gc
import inspect
from typing import Annotated

import typer
from abfleet_process import standard_output
from abfleet_process.addresses import program
from typer.models import CommandInfo

from abfleet.commands import (
    analyze,
    client,
    experiments,
    fleet,
    log_level,
    logs,
    models,
    power,
    shadow,
    simulate,
    status,
    tokens,
    traffic,
)

app = typer.Typer(
    name="abfleet",
    help="Split users between versions of a model, serve them, and draw sound conclusions from the log.",
    epilog="Start with abfleet up. For the help of a command: abfleet COMMAND --help.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
GROUPS = {
    "Run": (fleet,),
    "Call and watch": (client, traffic, status, log_level),
    "Experiments": (experiments,),
    "Conclusions": (analyze, shadow, power, simulate),
    "Models, logs and tokens": (models, logs, tokens),
}
"""Heading of `abfleet --help` to the families below it."""


def _print_version(asked: bool) -> None:
    if asked:
        from abfleet_process.build_info import build_info

        typer.echo(str(build_info()))
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show versions and exit.")
    ] = False,
) -> None:
    """Options of the command itself; each of them ends it."""


def _help_of(command: CommandInfo) -> str | None:
    """A command's docstring with each paragraph on one line, so that the terminal's width alone folds it."""
    text = command.help or inspect.getdoc(command.callback)
    return text and "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _register() -> None:
    for title, families in GROUPS.items():
        for family in families:
            commands, groups = len(app.registered_commands), len(app.registered_groups)
            family.register(app)
            for command in app.registered_commands[commands:]:
                command.rich_help_panel, command.help = title, _help_of(command)
            for group in app.registered_groups[groups:]:
                group.rich_help_panel = title
                assert group.typer_instance is not None
                for command in group.typer_instance.registered_commands:
                    command.help = _help_of(command)


_register()


def main() -> None:
    """Runs the command."""
    standard_output.prepare()
    try:
        app(prog_name=program())
    finally:
        gc.freeze()  # else the last garbage collection at exit takes a quarter second of a report
