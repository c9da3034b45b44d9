"""The flags of `abfleet up`, each declared here alone, and the exception that ends it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from abfleet_process.addresses import ADMIN_ADDRESS, EXPERIMENTS_FILE, ROUTER_ADDRESS

from abfleet.up.ports import MAX_PORT

EXIT_FAILURE, EXIT_USAGE = 1, 2
MOST_REPLICAS = 64
MOST_OFFSET = 15_000
"""From the highest port that is a default this leads to 65,061, which leaves room for workers."""
ADDRESS_HELP = "HOST:PORT (port 0: any free one) or unix:PATH."
TRANSPORTS = ("auto", "native", "grpcio")


class CannotStart(Exception):
    """`up` cannot start; `lines` say why, `code` is the exit code."""

    def __init__(self, lines: Iterable[str], code: int = EXIT_FAILURE) -> None:
        self.lines = tuple(lines)
        self.code = code
        super().__init__("\n".join(self.lines))


class ReplicaCount(NamedTuple):
    """How many workers serve a version."""

    version: str
    workers: int


def _replica_count(word: str) -> ReplicaCount:
    version, _, count = word.partition("=")
    if not version or not count.isdecimal() or not 1 <= int(count) <= MOST_REPLICAS:
        raise typer.BadParameter(
            f"{word[:64]!r} is not allowed; allowed: VERSION=N with N from 1 to {MOST_REPLICAS}",
            param_hint="--replicas",
        )
    return ReplicaCount(version, int(count))


def _dashboard_port(word: object) -> int | None:
    from abfleet_process.flags import port_or_off

    try:
        return port_or_off(str(word))
    except ValueError as error:
        raise typer.BadParameter(f"{str(word)[:64]!r} is not allowed; {error}", param_hint="--dashboard-port") from None


def _transport(word: str) -> str:
    if word not in TRANSPORTS:
        allowed = ", ".join(TRANSPORTS)
        raise typer.BadParameter(f"{word[:64]!r} is not allowed; allowed: {allowed}", param_hint="--transport")
    return word


@dataclass(frozen=True, slots=True, kw_only=True)
class UpSettings:
    """The flags of `abfleet up`. Those of the decision log and `router_flags` go to the router unchanged."""

    experiments: Annotated[Path, typer.Option(help="Experiments file, read again when it changes.")] = Path(
        EXPERIMENTS_FILE
    )
    fleet: Annotated[
        Path | None, typer.Option(help="Fleet file; its targets replace those of the experiments file.")
    ] = None
    registry: Annotated[Path, typer.Option(help="Folder of the model registry.")] = Path("models")
    log_dir: Annotated[Path, typer.Option(help="Folder of the decision log.")] = Path("logs")
    listen: Annotated[str, typer.Option(help=f"Address of the router for callers: {ADDRESS_HELP}")] = ROUTER_ADDRESS
    admin_listen: Annotated[str, typer.Option(help=f"Address of the router for status and reload: {ADDRESS_HELP}")] = (
        ADMIN_ADDRESS
    )
    metrics_port: Annotated[
        str,
        typer.Option(
            help="Port of the router's /metrics; workers take the ports after it. 0: any free ones; off: none."
        ),
    ] = "8000"
    worker_port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, help="Port of the first worker; the others take the ports after it. 0: any free ones."
        ),
    ] = 50061
    replicas: Annotated[
        list[ReplicaCount] | None,
        typer.Option(
            metavar="VERSION=N",
            parser=_replica_count,
            help="Number of workers of a version instead of 1; may be repeated.",
        ),
    ] = None
    transport: Annotated[str, typer.Option(callback=_transport, help=f"Transport: {', '.join(TRANSPORTS)}.")] = "auto"
    run_dir: Annotated[Path, typer.Option(help="Folder for the files of the running fleet.")] = Path(".abfleet")
    log_policy: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help="What to do while the decision log cannot be written: keep_serving (default), unhealthy or refuse.",
        ),
    ] = None
    flush_interval: Annotated[
        str | None, typer.Option(metavar="SECONDS", help="Time between writes of the decision log [0.05].")
    ] = None
    fsync: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="When to sync the decision log to disk: never (default), interval (every second) or always.",
        ),
    ] = None
    dashboard_port: Annotated[
        int | None,
        typer.Option(
            metavar="<str>",
            parser=_dashboard_port,
            help="Port of the dashboard on 127.0.0.1. 0: any free port; off: no dashboard.",
        ),
    ] = 8080
    port_offset: Annotated[
        int,
        typer.Option(
            min=0,
            max=MOST_OFFSET,
            help="Number to add to every port, for a second fleet beside the first.",
        ),
    ] = 0
    live: Annotated[
        bool,
        typer.Option("--live/--no-live", help="Show a live table on a terminal, or lines. A pipe always gets lines."),
    ] = True
    router_flags: tuple[str, ...] = ()
    """Further flags of the router, as they were given."""

    def shifted(self) -> "UpSettings":
        """The same with the offset added to every fixed port, and none left; 0 and off stay. Raises CannotStart."""
        offset = self.port_offset
        if not offset:
            return self
        problems: list[str] = []

        def moved(flag: str, port: int) -> int:
            if port and port + offset > MAX_PORT:
                problems.append(
                    f"--port-offset: {offset} makes {flag} {port + offset}; allowed: ports up to {MAX_PORT}"
                )
            return port and port + offset

        def moved_address(flag: str, address: str) -> str:
            host, _, port = address.rpartition(":")
            fixed = not address.startswith("unix:") and port.isdecimal()
            return f"{host}:{moved(flag, int(port))}" if fixed else address

        metrics = self.metrics_port
        found = replace(
            self,
            port_offset=0,
            listen=moved_address("--listen", self.listen),
            admin_listen=moved_address("--admin-listen", self.admin_listen),
            metrics_port=str(moved("--metrics-port", int(metrics))) if metrics.isdecimal() else metrics,
            worker_port=moved("--worker-port", self.worker_port),
            dashboard_port=self.dashboard_port and moved("--dashboard-port", self.dashboard_port),
        )
        if problems:
            raise CannotStart(problems, EXIT_USAGE)
        return found

    def router_command(self, fleet_file: Path, **bound: str) -> tuple[str, ...]:
        """Flags of the router process; `bound` replaces an address by the one that a first start was given."""
        passed_on = ("listen", "admin_listen", "metrics_port", "transport", "log_policy", "flush_interval", "fsync")
        flags = {"experiments": str(self.experiments), "fleet": str(fleet_file), "log_dir": str(self.log_dir)}
        flags |= {name: value for name in passed_on if (value := getattr(self, name)) is not None} | bound
        words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", value)]
        return (*words, *self.router_flags)
