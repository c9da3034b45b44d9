"""Commands of the experiments room."""

import typer


def register(app: typer.Typer) -> None:
    """Adds this family's commands to the command line."""
