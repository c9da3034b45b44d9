"""Flags and words that the commands over a log share: which log, which experiment, what must be installed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abfleet.commands.experiment_file import refuse

if TYPE_CHECKING:
    from abfleet_experiments.config import Config, Experiment

Logs = Annotated[
    list[Path],
    typer.Option(
        "--logs", envvar="ABFLEET_LOGS", metavar="PATH", help="Folder or file of the decision log; may be repeated."
    ),
]
DEFAULT_LOGS = [Path("logs")]
Name = Annotated[
    str | None,
    typer.Option("--experiment", envvar="ABFLEET_EXPERIMENT", metavar="NAME", help="Only this experiment."),
]


@contextmanager
def analysis_extra() -> Iterator[None]:
    """Around imports that need the `analysis` extra: says what to install."""
    try:
        yield
    except ImportError as error:
        refuse(f"analysis needs {error.name}; run pip install 'abfleet[analysis]'")


def chosen_experiment(config: "Config", name: str | None) -> "Experiment":
    """The experiment of that name, or the first of the file."""
    if name is None:
        if not config.experiments:
            refuse("--experiments: the file has no experiment; add one")
        return config.experiments[0]
    try:
        return config.experiment(name)
    except KeyError:
        refuse(
            f"--experiment: `{name[:64]}` is not in the file; allowed: {', '.join(e.name for e in config.experiments)}"
        )
