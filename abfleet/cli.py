"""The command line: registers the commands of each module in commands/."""

import gc

import typer

from abfleet.commands import (
    analyze,
    client,
    experiments,
    fleet,
    log_level,
    logs,
    models,
    power,
    simulate,
    status,
    tokens,
    traffic,
)

app = typer.Typer(
    name="abfleet",
    help="Split users over versions of a recommender, serve them, and conclude honestly from the log.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for family in (fleet, client, status, experiments, models, analyze, power, simulate, logs, log_level, traffic, tokens):
    family.register(app)


def main() -> None:
    """Entry point of the `abfleet` console script."""
    try:
        app()
    finally:
        gc.freeze()  # else the last garbage collection at exit takes a quarter second of a report
