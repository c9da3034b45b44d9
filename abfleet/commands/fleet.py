"""Commands that run processes of the fleet: up, router, worker, dashboard."""

import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NoReturn

import typer

USAGE = 2
TRANSPORTS = ("auto", "native", "grpcio")
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
MOST_REPLICAS = 64
DRAIN_TIMEOUT_SECONDS = "3"
"""Under traffic that does not end a router takes all of it; with a second to close and one for the workers, Ctrl-C is
done within five."""

AddressHelp = "HOST:PORT (port 0: any free one) or unix:PATH."


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


def up(
    context: typer.Context,
    experiments: Annotated[
        Path, typer.Option(envvar="ABFLEET_EXPERIMENTS", help="The experiments file, followed while it runs.")
    ] = Path("experiments/recommender.yaml"),
    fleet: Annotated[
        Path | None,
        typer.Option(envvar="ABFLEET_FLEET", help="A file that replaces the targets of the experiments file."),
    ] = None,
    registry: Annotated[Path, typer.Option(envvar="ABFLEET_REGISTRY", help="The model registry.")] = Path("models"),
    log_dir: Annotated[Path, typer.Option(envvar="ABFLEET_LOG_DIR", help="Folder of the decision log.")] = Path("logs"),
    listen: Annotated[
        str, typer.Option(envvar="ABFLEET_LISTEN", help=f"Where the router serves callers: {AddressHelp}")
    ] = "127.0.0.1:50051",
    admin_listen: Annotated[
        str, typer.Option(envvar="ABFLEET_ADMIN_LISTEN", help=f"Where it serves status and reload: {AddressHelp}")
    ] = "127.0.0.1:50052",
    metrics_port: Annotated[
        str,
        typer.Option(
            envvar="ABFLEET_METRICS_PORT",
            help="The router's /metrics; workers take the ports after it. 0: any free ones; off: none.",
        ),
    ] = "8000",
    worker_port: Annotated[
        int,
        typer.Option(
            envvar="ABFLEET_WORKER_PORT",
            min=0,
            max=65535,
            help="Port of the first worker; the others take the ports after it. 0: any free ones.",
        ),
    ] = 50061,
    replicas: Annotated[
        list[str] | None,
        typer.Option(
            envvar="ABFLEET_REPLICAS", metavar="VERSION=N", help="N workers for a version instead of 1; repeatable."
        ),
    ] = None,
    transport: Annotated[
        str, typer.Option(envvar="ABFLEET_TRANSPORT", help=f"One of {', '.join(TRANSPORTS)}.")
    ] = "auto",
    run_dir: Annotated[
        Path, typer.Option(envvar="ABFLEET_RUN_DIR", help="Where a private folder is made for as long as it runs.")
    ] = Path(".abfleet"),
    log_policy: Annotated[
        str | None,
        typer.Option(
            envvar="ABFLEET_LOG_POLICY",
            metavar="POLICY",
            help="While the decision log cannot be written: keep_serving (default), unhealthy or refuse.",
        ),
    ] = None,
    flush_interval: Annotated[
        str | None,
        typer.Option(
            envvar="ABFLEET_FLUSH_INTERVAL", metavar="SECONDS", help="Between writes of the decision log [0.05]."
        ),
    ] = None,
    fsync: Annotated[
        str | None,
        typer.Option(
            envvar="ABFLEET_FSYNC",
            metavar="WHEN",
            help="Put the decision log on disk: never (default), interval (each second) or always.",
        ),
    ] = None,
    dashboard_port: Annotated[
        str,
        typer.Option(
            envvar="ABFLEET_DASHBOARD_PORT", help="Where the dashboard is, on 127.0.0.1. 0: any free port; off: none."
        ),
    ] = "8080",
    live: Annotated[
        bool,
        typer.Option(
            "--live/--no-live",
            envvar="ABFLEET_LIVE",
            help="A live table on a terminal, or lines. A pipe always gets lines.",
        ),
    ] = True,
) -> None:
    """Runs router, workers and dashboard on this machine until Ctrl-C; says ready when a call would succeed.

    Flags after -- go to the router; abfleet router --help lists them. Variables such as ABFLEET_MAX_BATCH reach router
    and workers.
    """
    from abfleet_process.errors import TransportError
    from abfleet_process.flags import SettingsError

    from abfleet.up.console import UpConsole
    from abfleet.up.run import run
    from abfleet.up.settings import UpSettings

    if transport not in TRANSPORTS:
        allowed = ", ".join(TRANSPORTS)
        raise typer.BadParameter(f"{transport[:64]!r} is not allowed; allowed are {allowed}", param_hint="--transport")
    settings = UpSettings(
        experiments=experiments,
        fleet=fleet,
        registry=registry,
        log_dir=log_dir,
        listen=listen,
        admin_listen=admin_listen,
        metrics_port=metrics_port,
        worker_port=worker_port,
        replicas=_replicas(replicas or ()),
        transport=transport,
        run_dir=run_dir,
        log_flags={"log_policy": log_policy, "flush_interval": flush_interval, "fsync": fsync},
        dashboard_port=_port_or_off(dashboard_port),
        router_flags=(*_drain_flags(os.environ), *context.args),
    )
    console = UpConsole(live=live and sys.stdout.isatty())
    try:
        code = run(settings, console)
    except (SettingsError, TransportError) as error:
        console.print_errors([str(error)])
        code = USAGE
    raise typer.Exit(code)


def router(context: typer.Context) -> None:
    """Runs a router. Example: abfleet router --experiments experiments/recommender.yaml

    abfleet router --help lists its settings.
    """
    _become("abfleet_router", context.args)


def worker(context: typer.Context) -> None:
    """Runs a worker for one model. Example: abfleet worker --version production

    abfleet worker --help lists its settings.
    """
    _become("abfleet_worker", context.args)


def dashboard(context: typer.Context) -> None:
    """Shows experiments and fleet in a browser. Example: abfleet dashboard --logs logs

    abfleet dashboard --help lists its settings.
    """
    if find_spec("uvicorn") is None or find_spec("duckdb") is None:
        typer.echo("abfleet: the dashboard is not installed; run pip install 'abfleet[dashboard]'", err=True)
        raise typer.Exit(USAGE)
    _become("abfleet_dashboard", context.args)


def _port_or_off(value: str) -> int | None:
    """The port of the dashboard; None for `off`. Raises typer.BadParameter."""
    from abfleet_process.flags import port_or_off

    try:
        return port_or_off(value)
    except ValueError as error:
        raise typer.BadParameter(f"{value[:64]!r} is not allowed; {error}", param_hint="--dashboard-port") from None


def _drain_flags(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The drain timeout under `up`, unless the environment has one; what is given after -- comes later and wins."""
    return () if "ABFLEET_DRAIN_TIMEOUT" in environment else ("--drain-timeout", DRAIN_TIMEOUT_SECONDS)


def _become(module: str, arguments: Sequence[str]) -> NoReturn:
    """Replaces this process by the server, so that signals and the exit code are the server's own."""
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606


def _replicas(words: Sequence[str]) -> Mapping[str, int]:
    """`VERSION=N` for each word. Raises typer.BadParameter."""
    replicas = {}
    for word in words:
        version, _, count = word.partition("=")
        if not version or not count.isdecimal() or not 1 <= int(count) <= MOST_REPLICAS:
            raise typer.BadParameter(
                f"{word[:64]!r} is not allowed; allowed are VERSION=N with N from 1 to {MOST_REPLICAS}",
                param_hint="--replicas",
            )
        replicas[version] = int(count)
    return replicas
