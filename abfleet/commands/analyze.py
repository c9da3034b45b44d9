"""`abfleet analyze`: from the log to a conclusion. Knows flags and terminals, not the rules."""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abfleet.commands import report_page
from abfleet.commands.analysis_options import DEFAULT_LOGS, Logs, Name, analysis_extra
from abfleet.commands.experiment_file import DEFAULT_EXPERIMENTS, Experiments, Fleet, Json, loaded, refuse

if TYPE_CHECKING:
    from abfleet_experiments.analysis.report import Report
    from abfleet_experiments.config import Config

EXIT_VERDICT = 3
AsOf = Annotated[
    str | None,
    typer.Option("--as-of", envvar="ABFLEET_AS_OF", metavar="TIME",
                 help="Look at nothing later, for example 2026-11-08T00:00:00Z. Default: the newest line."),
]  # fmt: skip
Html = Annotated[
    Path | None,
    typer.Option("--html", envvar="ABFLEET_HTML", metavar="FILE",
                 help="Also write the report as one page that needs no other file, with pictures."),
]  # fmt: skip


def register(app: typer.Typer) -> None:
    """Adds this command to the command line."""
    app.command()(analyze)


def analyze(
    *,
    logs: Logs = DEFAULT_LOGS,
    experiments: Experiments = DEFAULT_EXPERIMENTS,
    fleet: Fleet = None,
    as_of: AsOf = None,
    experiment: Name = None,
    fail_on: Annotated[
        str | None,
        typer.Option("--fail-on", envvar="ABFLEET_FAIL_ON", metavar="VERDICT,…",
                     help="Exit with code 3 if an experiment's verdict is one of these."),
    ] = None,
    html: Html = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Conclude from the log: ship, roll back, keep running, stop, check first, or refuse because the data is broken.

    However often one looks, the conclusion stays as reliable as it says. Exits 0 whatever it is, unless --fail-on.

    Example: abfleet analyze --logs logs --fail-on roll_back,refuse --html report.html
    """
    unwanted = _verdicts(fail_on)
    if html is not None:
        report_page.check(html)
    config, report = _report(logs, experiments, fleet, as_of, experiment, detailed=html is not None)
    if html is not None:
        report_page.write(html, report, config)
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
    else:
        from abfleet_experiments.analysis.render import rendered
        from rich.console import Console

        console = Console(highlight=False)
        console = console if console.is_terminal else Console(highlight=False, width=160)
        console.print(rendered(report))
    if any(str(one.decision.verdict) in unwanted for one in report.experiments):
        raise typer.Exit(EXIT_VERDICT)


def _report(
    logs: list[Path], experiments: Path, fleet: Path | None, as_of: str | None, only: str | None, *, detailed: bool
) -> "tuple[Config, Report]":
    (config,) = loaded(experiments, fleet=fleet)
    at = None if as_of is None else _as_of(as_of)
    with analysis_extra():
        from abfleet_experiments.analysis.analyse import analyse
        from abfleet_experiments.readlog import LogError
    from rich.console import Console

    console = Console(stderr=True)
    try:
        if not console.is_terminal:
            return config, analyse(logs, config, as_of=at, only=only, detailed=detailed)
        with console.status("") as status:
            return config, analyse(logs, config, as_of=at, only=only, detailed=detailed, progress=status.update)
    except LogError as error:
        refuse(f"--logs: {error}")
    except KeyError:
        refuse(f"--experiment: `{str(only)[:64]}` is neither in {experiments} nor in the log")


def _as_of(text: str) -> datetime:
    from abfleet_experiments.fields import parse_time

    try:
        return parse_time(text)
    except (ValueError, OverflowError) as error:
        refuse(f"--as-of: {error}")


def _verdicts(text: str | None) -> frozenset[str]:
    if text is None:
        return frozenset()
    with analysis_extra():
        from abfleet_experiments.analysis.verdicts import Verdict
    wanted = [word.strip() for word in text.split(",") if word.strip()]
    for word in wanted:
        if word not in list(Verdict):
            refuse(f"--fail-on: `{word[:64]}` is no verdict; allowed: {', '.join(Verdict)}")
    return frozenset(wanted)
