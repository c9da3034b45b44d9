"""Commands that run processes of the fleet: up, router, worker, dashboard, autopilot."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from typing import NoReturn

import typer
from abfleet_process.standard_output import ReaderGone

from abfleet.commands.option_groups import with_groups
from abfleet.commands.server_help import show_help
from abfleet.up.settings import UpSettings

USAGE = 2
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
DRAIN_TIMEOUT_SECONDS = "3"
"""Under traffic that does not end a router takes all of it; with a second to close and one for the workers, Ctrl-C is
done within five."""


def register(app: typer.Typer) -> None:
    """Adds this family's commands to the command line."""
    app.command(
        "up",
        epilog="Example: abfleet up --replicas v1.3.0-beta=2 -- --max-batch 64",
        context_settings={"allow_extra_args": True},
    )(up)
    app.command("router", context_settings=PASS_ON, add_help_option=False)(router)
    app.command("worker", context_settings=PASS_ON, add_help_option=False)(worker)
    app.command("dashboard", context_settings=PASS_ON, add_help_option=False)(dashboard)
    app.command("autopilot", context_settings=PASS_ON, add_help_option=False)(autopilot)


@with_groups
def up(context: typer.Context, settings: UpSettings) -> None:
    """Run router, workers and dashboard on this machine until Ctrl-C; print ready once calls succeed.

    Flags after -- go to the router; abfleet router --help lists them. Variables such as ABFLEET_MAX_BATCH apply to
    router and workers.
    """
    with suppress(OSError, ReaderGone):  # what is imported next takes a while in a clone that was never started
        print(f"checking {settings.experiments}, its models and the ports", flush=True)
    from abfleet_process.errors import TransportError
    from abfleet_process.flags import SettingsError

    from abfleet.up.console import UpConsole
    from abfleet.up.run import run

    settings = replace(settings, router_flags=(*_drain_flags(os.environ), *context.args))
    console = UpConsole(live=settings.live and sys.stdout.isatty())
    try:
        code = run(settings, console)
    except (SettingsError, TransportError) as error:
        console.print_errors([str(error)])
        code = USAGE
    raise typer.Exit(code)


def router(context: typer.Context) -> None:
    """Run a router: it assigns users, calls the workers and logs each call."""
    if _asks_for_help(context.args):
        from abfleet_router.settings import declared

        show_help("router", declared({}))
    _serve("router", context.args, ("mmh3", "yaml", "zstandard"))


def worker(context: typer.Context) -> None:
    """Run a worker: it serves one model of the registry."""
    if _asks_for_help(context.args):
        from abfleet_worker.settings import declared

        show_help("worker", declared({}))
    _serve("worker", context.args, ("numpy", "onnxruntime"))


def dashboard(context: typer.Context) -> None:
    """Run a dashboard: it shows experiments and fleet in a browser."""
    if _asks_for_help(context.args):
        from abfleet_dashboard.settings import declared

        show_help("dashboard", declared({}))
    _serve("dashboard", context.args, ("uvicorn", "duckdb"))


def autopilot(context: typer.Context) -> None:
    """Run the autopilot: it halts what harms users and raises traffic, as the file allows."""
    if _asks_for_help(context.args):
        from abfleet_autopilot.settings import declared

        show_help("autopilot", declared({}))
    _serve("autopilot", context.args, ("duckdb",))


def _drain_flags(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The drain timeout under `up`, unless the environment has one; what is given after -- comes later and wins."""
    return () if "ABFLEET_DRAIN_TIMEOUT" in environment else ("--drain-timeout", DRAIN_TIMEOUT_SECONDS)


def _asks_for_help(arguments: Sequence[str]) -> bool:
    return any(word in ("--help", "-h") for word in arguments)


def _serve(name: str, arguments: Sequence[str], needs: Sequence[str]) -> NoReturn:
    """Replaces this process by the server, so that signals and the exit code are the server's own.

    needs: Packages without which it would end in a traceback.
    """
    for package in needs:
        if find_spec(package) is None:
            typer.echo(f"abfleet: the {name} needs {package}; run pip install 'abfleet[{name}]'", err=True)
            raise typer.Exit(USAGE)
    os.execv(sys.executable, [sys.executable, "-m", f"abfleet_{name}", *arguments])  # noqa: S606
