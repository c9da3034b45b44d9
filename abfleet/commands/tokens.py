"""`abfleet token`: makes tokens for callers, and stores none."""

from typing import Annotated

import typer

USAGE = 2


def register(app: typer.Typer) -> None:
    """Adds this family's commands to the command line."""
    tokens = typer.Typer(help="Create tokens for callers; a router stores only their hashes.", no_args_is_help=True)
    tokens.command("new", epilog="Example: abfleet token new --name shop --scopes feedback")(new)
    app.add_typer(tokens, name="token")


def new(
    name: Annotated[
        str, typer.Option("--name", envvar="ABFLEET_NAME", help="Name of the caller, which the log shows.")
    ],
    scopes: Annotated[
        str,
        typer.Option(
            "--scopes",
            envvar="ABFLEET_SCOPES",
            help="Scopes of the token, separated by commas: feedback, admin, dashboard.",
        ),
    ] = "feedback",
) -> None:
    """Print a new token, which is stored nowhere, and the line to add to the file that --tokens names."""
    from abfleet_process.security import tokens

    try:
        secret, stored = tokens.new(name, [scope.strip() for scope in scopes.split(",")])
    except ValueError as error:
        problem = str(error).removeprefix("line 1: ")
        hint = "--scopes" if problem.startswith("scope") else "--name"
        raise typer.BadParameter(problem, param_hint=hint) from None
    typer.echo(secret)
    typer.echo(stored.line())
