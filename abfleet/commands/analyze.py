"""`abfleet analyze`: from the log to a conclusion."""

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abfleet.commands import report_page, watch
from abfleet.commands.analysis_options import DEFAULT_LOGS, Logs, Name, analysis_extra
from abfleet.commands.analysis_progress import steps
from abfleet.commands.excluded_windows import excluded_windows, refuse_outside
from abfleet.commands.experiment_file import DEFAULT_EXPERIMENTS, Experiments, Fleet, Json, loaded, refuse
from abfleet.commands.option_groups import with_groups
from abfleet.commands.tables import say_json

if TYPE_CHECKING:
    from abfleet_analysis.report.report import Report
    from abfleet_experiments.config import Config, ExcludedWindow
    from abfleet_models.offline import Offline

EXIT_VERDICT = 3
AsOf = Annotated[
    str | None,
    typer.Option(
        "--as-of",
        envvar="ABFLEET_AS_OF",
        metavar="TIME",
        help="Ignore lines after this time, for example 2026-11-08T00:00:00Z. Default: the newest line.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        envvar="ABFLEET_EXCLUDE",
        metavar="FROM/TO",
        help="Leave out a window of time, in addition to the file's `exclude`; may be repeated. Times need a zone.",
    ),
]
Html = Annotated[
    Path | None,
    typer.Option(
        "--html",
        envvar="ABFLEET_HTML",
        metavar="FILE",
        help="Also write the report with charts as one self-contained HTML page.",
    ),
]
Markdown = Annotated[
    bool, typer.Option("--markdown", envvar="ABFLEET_MARKDOWN", help="Print Markdown, for example for a pull request.")
]
WithDetails = Annotated[
    bool,
    typer.Option(
        "--details",
        envvar="ABFLEET_DETAILS",
        help="With --json: add the history of the verdict, breakdowns of the users and what versions recommended.",
    ),
]
Registry = Annotated[
    Path,
    typer.Option(
        "--registry",
        envvar="ABFLEET_REGISTRY",
        metavar="FOLDER",
        help="Model registry; --details and --html show its offline metrics beside the online ones.",
    ),
]
DEFAULT_REGISTRY = Path("models")
MemoryLimit = Annotated[
    int | None,
    typer.Option(
        "--memory-limit",
        envvar="ABFLEET_MEMORY_LIMIT",
        metavar="BYTES",
        min=256 * 1024**2,
        show_default="6 GiB, or 60 % of a smaller machine",
        help="Memory limit of the analysis; data beyond it goes to the temporary folder.",
    ),
]


def register(app: typer.Typer) -> None:
    """Adds this command to the command line."""
    app.command()(analyze)


@with_groups
def analyze(
    *,
    logs: Logs = DEFAULT_LOGS,
    experiments: Experiments = DEFAULT_EXPERIMENTS,
    fleet: Fleet = None,
    as_of: AsOf = None,
    experiment: Name = None,
    exclude: Exclude = None,
    fail_on: Annotated[
        str | None,
        typer.Option(
            "--fail-on",
            envvar="ABFLEET_FAIL_ON",
            metavar="VERDICT,…",
            help="Exit with code 3 if an experiment's verdict is one of these.",
        ),
    ] = None,
    html: Html = None,
    watching: watch.Watch = False,
    every: watch.Every = 10.0,
    notifications: watch.Notifications,
    markdown: Markdown = False,
    with_details: WithDetails = False,
    registry: Registry = DEFAULT_REGISTRY,
    memory_limit: MemoryLimit = None,
    as_json: Json = False,
) -> None:
    """Report a verdict from the log: ship, roll back, keep running, stop, check first, or refuse broken data.

    The error rates hold however often you look. The exit code is 0 for every verdict, unless --fail-on names it.

    Example: abfleet analyze --logs logs --fail-on roll_back,refuse --html report.html
    """
    if markdown and as_json:
        refuse("--markdown: cannot be combined with --json; give one of them")
    if with_details and not as_json:
        refuse("--details: needs --json; --html shows the details with pictures")
    unwanted = _verdicts(fail_on)
    windows = excluded_windows(exclude, experiments, fleet, only=experiment)
    if html is not None:
        report_page.check(html)
    watch.receivers(notifications)  # a wrong flag is refused before the log is read
    if watching:
        if as_of is not None:
            refuse("--as-of: cannot be combined with --watch, which reads up to the newest line; leave one out")
        if markdown or with_details:
            refuse("--watch: cannot be combined with --markdown or --details; leave them out")
        source = watch.ReportSource(
            logs,
            experiments,
            fleet,
            experiment,
            html,
            known=_known(None if html is None else registry),
            exclude=windows,
        )
        if watch.watch_until(source, notifications, every_seconds=every, as_json=as_json, until=unwanted):
            raise typer.Exit(EXIT_VERDICT)
        return
    config, report = _report(
        logs,
        experiments,
        fleet,
        as_of,
        experiment,
        registry=registry if with_details or html is not None else None,
        exclude=windows,
        memory_limit_bytes=memory_limit,
    )
    if html is not None:
        report_page.write(html, report, config)
    if as_json:
        say_json(report.as_dict(detailed=with_details), indent=2)
    elif markdown:
        from abfleet_analysis.report.markdown import markdown as in_markdown

        typer.echo(in_markdown(report), nl=False)
    else:
        from abfleet_analysis.report.render import rendered

        from abfleet.commands.fitting import UNLIMITED, fitted
        from abfleet.commands.tables import terminal

        console = terminal()
        if not console.is_terminal:
            console.width = UNLIMITED  # a line for each sentence, whatever reads it
        console.print(fitted(rendered(report)))
    watch.notify_once(notifications, report.as_dict())
    if any(str(one.decision.verdict) in unwanted for one in report.experiments):
        raise typer.Exit(EXIT_VERDICT)


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """Without garbage collection: Ibis makes so many small cycles that it takes a tenth of a short report."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@_nothing_collected()
def _report(
    logs: list[Path],
    experiments: Path,
    fleet: Path | None,
    as_of: str | None,
    only: str | None,
    *,
    registry: Path | None,
    exclude: "Sequence[ExcludedWindow]",
    memory_limit_bytes: int | None,
) -> "tuple[Config, Report]":
    (config,) = loaded(experiments, fleet=fleet)
    # What is added up in numpy is small, and threads that wait for more of it would take the database's time.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    at = None if as_of is None else _as_of(as_of)
    with analysis_extra():
        from abfleet_analysis.analyse import analyse
        from abfleet_analysis.reading.open_log import LogError
    from rich.console import Console

    console = Console(stderr=True)
    detailed, known = registry is not None, _known(registry)
    try:
        with steps(console) as progress:
            report = analyse(
                logs,
                config,
                as_of=at,
                only=only,
                detailed=detailed,
                known=known,
                progress=progress,
                exclude=exclude,
                memory_limit_bytes=memory_limit_bytes,
            )
    except LogError as error:
        refuse(f"--logs: {error}")
    except KeyError:
        refuse(f"--experiment: `{str(only)[:64]}` is in neither {experiments} nor the log")
    refuse_outside(exclude, report)
    return config, report


def _known(registry: Path | None) -> "dict[str, Offline]":
    """The registry's facts of each version; one that cannot be read is a warning and lacks only its own numbers."""
    if registry is None or (registry == DEFAULT_REGISTRY and not registry.exists()):
        return {}
    from abfleet_models.offline import offline_facts

    if not registry.is_dir():
        refuse(f"--registry: {str(registry)[:64]} is not a folder")
    facts = offline_facts(registry)
    for problem in facts.problems:
        typer.echo(f"warning: offline metrics are missing: {problem}", err=True)
    return facts.versions


def _as_of(text: str) -> datetime:
    from abfleet_process.declarations.kinds import parse_time

    try:
        return parse_time(text)
    except (ValueError, OverflowError) as error:
        refuse(f"--as-of: {error}")


def _verdicts(text: str | None) -> frozenset[str]:
    if text is None:
        return frozenset()
    with analysis_extra():
        from abfleet_analysis.decision.verdicts import Verdict
    wanted = [word.strip() for word in text.split(",") if word.strip()]
    for word in wanted:
        if word not in list(Verdict):
            refuse(f"--fail-on: `{word[:64]}` is not a verdict; allowed: {', '.join(Verdict)}")
    return frozenset(wanted)
